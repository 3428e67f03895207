"""Other inference servers with the same network, under the same load, in the same run.

    .venv/bin/python bench/peers.py [--peers litserve mosec fastapi bentoml ray] [--callers 1 16 64] [--seconds 10]

A rate alone says little about a server. So each is also given as a share of the throughput of the same network without
a server (peers/limit.py), measured before and after each peer; on a shared machine the CPU time of a response says more
than either. Prints a table and one line of JSON; the exit status is 1 if a peer failed or returned a wrong result.

The peers are installed at first use, into .peers-venv. They run in a network namespace if the system permits it; Ray,
whose services listen on every interface, runs only there.
"""

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from bench.lib.clips import MODEL, encoded, model_directory
from bench.lib.machine import describe
from bench.peers.common import BATCH, PROCESSES, Answer, Classifier, Decoder
from bench.peers.environment import prepare, version
from bench.peers.limit import Limit, measure_limit
from bench.peers.service import PeerError, adopt_orphans, serving
from worker.model.checkpoint import read_config, write_config

PEERS = ("litserve", "mosec", "fastapi", "bentoml", "ray")
TOLERANCE = 0.02  # of a confidence: the order of sums depends on the number of threads
TEMPERATURE = 50.0  # of random weights, so that one class does not have all of the confidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=10, help="of each load and each limit")
    parser.add_argument("--model", default=MODEL, help=f"{MODEL}, or one of models/")
    options = parser.parse_args()
    isolated = prepare(options.peers)
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report = {"machine": describe(), "options": vars(options), "isolated": isolated}
    with tempfile.TemporaryDirectory() as folder:
        model, sounds = served(options.model, Path(folder)), encoded()
        report["limit_batch_1"] = rounded(measure_limit(options.seconds, model, batch=1))
        report["peers"] = compare(options, model, sounds, isolated)
    print(json.dumps(report))
    sys.exit(any("error" in found for found in report["peers"].values()))


def served(name: str, folder: Path) -> Path:
    """The model directory that every peer serves."""
    directory = model_directory(name, folder) / name
    if name == MODEL:
        write_config(directory, read_config(directory).model_copy(update={"temperature": TEMPERATURE}))
    return directory


def compare(options: argparse.Namespace, model: Path, sounds: list[bytes], isolated: bool) -> dict[str, dict[str, Any]]:
    """The figures of each peer, by name."""
    expected = Classifier(model)([Decoder(model)(sounds[0])])[0]
    found: dict[str, dict[str, Any]] = {}
    before = measure_limit(options.seconds, model)
    for name in options.peers:
        if name == "ray" and not isolated:
            found[name] = {"error": "skipped, since this system permits no network namespace"}
            print(f"{name}: {found[name]['error']}", file=sys.stderr)
            continue
        found[name] = measure(name, options, model, sounds, expected)
        after = measure_limit(options.seconds, model)
        limit = Limit(mean((before.per_second, after.per_second)), mean((before.cpu_ms, after.cpu_ms)))
        found[name]["limit"], before = rounded(limit), after
        for load in found[name]["loads"]:
            load["share_of_limit"] = round(load["per_second"] / limit.per_second, 3)
        print(table(name, found[name]), file=sys.stderr)
    return found


def rounded(limit: Limit) -> dict[str, float]:
    """The limit for the report."""
    return {"per_second": round(limit.per_second, 1), "cpu_ms": round(limit.cpu_ms, 1)}


def measure(
    name: str, options: argparse.Namespace, model: Path, sounds: list[bytes], expected: Answer
) -> dict[str, Any]:
    """The figures of one peer under load and with bad input; `error` is set if it failed."""
    found: dict[str, Any] = {"version": version(name), "loads": []}
    try:
        with serving(name, model, sounds[0]) as (peer, first):
            if not agree(first, expected):
                found["error"] = f"first answer is {first} instead of {expected}"
            for callers in options.callers:
                found["loads"].append(peer.load(sounds, callers, options.seconds))
            found["bad_input"] = peer.try_bad_input(sounds)
    except PeerError as error:
        found["error"] = str(error)
    if any(load["errors"] for load in found["loads"]):
        found["error"] = "not every answer under load was 200"
    return found


def agree(one: Answer, other: Answer) -> bool:
    """Whether both have the same first class with about the same confidence."""
    first, second = one["predictions"][0], other["predictions"][0]
    near = abs(first["confidence"] - second["confidence"]) <= TOLERANCE
    return near and first["class"] == second["class"] and len(one["predictions"]) == len(other["predictions"])


def table(name: str, found: dict[str, Any]) -> str:
    """The figures as text."""
    limit = found["limit"]
    lines = [
        f"{name} {found['version']}: the limit is {limit['per_second']}/s at {limit['cpu_ms']} ms of CPU a clip"
        f" ({PROCESSES} processes, batches of {BATCH})"
    ]
    lines += [
        f"  callers {load['callers']:>4d}  {load['per_second']:>7.1f}/s  {load['share_of_limit']:>5.0%} of the limit"
        f"  p50 {load['p50_ms']:>7.1f}  p95 {load['p95_ms']:>7.1f}  p99 {load['p99_ms']:>7.1f} ms"
        f"  CPU {load['cpu_ms']:>6.1f} ms  errors {load['errors']}  {load['memory_mb']} MB"
        for load in found["loads"]
    ]
    if bad := found.get("bad_input"):
        lines.append(
            f"  beside a corrupt file ({bad['corrupt']}): {bad['neighbours']}, {bad['neighbours_failed']}"
            f" failed; not a sound: {bad['not_a_sound']}; empty: {bad['empty']}"
        )
    if "error" in found:
        lines.append(f"  ERROR: {found['error']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
