"""Other inference servers with the same network, under the same load, in the same run.

    .venv/bin/python bench/peers.py [--peers otoscope litserve mosec fastapi bentoml ray] [--engines openvino eager]
        [--models esc50 esc50-light resnet-21m] [--formats OGG WAV] [--callers 1 16 64] [--seconds 10] [--rounds 2]

A rate alone says little about a server. So each is also given as a share of the throughput of the same network in eager
PyTorch without a server (peers/limit.py), measured before and after each peer; on a shared machine the CPU time of a
response says more than either. Otoscope itself is measured in turn with its peers. Prints a table and one line of JSON;
the exit status is 1 if a peer failed or returned a wrong result.

The peers are installed at first use, into .peers-venv. They run in a network namespace if the system permits it; Ray,
whose services listen on every interface, runs only there.
"""

import argparse
import itertools
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
from bench.lib.stack import PROCESSES as PARTS
from bench.lib.stack import stack, submissions
from bench.peers.common import BATCH, ENGINES, PROCESSES, Answer, Classifier, Decoder
from bench.peers.environment import prepare, version
from bench.peers.limit import Limit, measure_limit
from bench.peers.service import PeerError, adopt_orphans, serving
from worker.model.checkpoint import read_config, write_config

OTOSCOPE = "otoscope"
PEERS = (OTOSCOPE, "litserve", "mosec", "fastapi", "bentoml", "ray")
FORMATS = ("OGG", "MP3", "FLAC", "WAV")
TOLERANCE = 0.02  # of a confidence: the order of sums depends on the number of threads
FAILED = "not every answer under load was 200"
TEMPERATURE = 50.0  # of random weights, so that one class does not have all of the confidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["openvino"])
    parser.add_argument("--models", nargs="+", default=[MODEL], help=f"{MODEL}, or those of models/")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["OGG"])
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=10, help="of each load and each limit")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    isolated = prepare(options.peers)
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report: dict[str, Any] = {"machine": describe(), "options": vars(options), "isolated": isolated, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in itertools.product(range(options.rounds), options.models):
            model = served(name, Path(folder))
            # The order of the peers is reversed in every other round, so that none is always the first.
            for peer, engine in itertools.product(options.peers[:: -1 if number % 2 else 1], options.engines):
                run = {"round": number + 1, "model": name, "peer": peer, "engine": engine}
                found = compare(peer, engine, options, model, isolated)
                print(table(run, found), file=sys.stderr)
                report["runs"].append(run | found)
    print(json.dumps(report))
    sys.exit(any("error" in found for found in report["runs"]))


def served(name: str, folder: Path) -> Path:
    """The model directory that every peer serves."""
    models = folder / f"models-{name}"
    if not models.exists():
        models.mkdir()
        directory = model_directory(name, models) / name
        if name == MODEL:
            write_config(directory, read_config(directory).model_copy(update={"temperature": TEMPERATURE}))
    return models / name


def compare(name: str, engine: str, options: argparse.Namespace, model: Path, isolated: bool) -> dict[str, Any]:
    """The figures of one peer, with the limits around them."""
    if name == "ray" and not isolated:
        return {"error": "skipped, since this system permits no network namespace"}
    before = limits(options, model)
    found = measure_otoscope(engine, options, model) if name == OTOSCOPE else measure(name, engine, options, model)
    after = limits(options, model)
    found["limits"] = {
        kind: {
            "per_second": round(mean((before[kind].per_second, after[kind].per_second)), 1),
            "cpu_ms": round(mean((before[kind].cpu_ms, after[kind].cpu_ms)), 1),
        }
        for kind in options.formats
    }
    for load in found["loads"]:
        load["share_of_limit"] = round(load["per_second"] / found["limits"][load["format"]]["per_second"], 3)
    return found


def limits(options: argparse.Namespace, model: Path) -> dict[str, Limit]:
    """The limit for each format."""
    return {kind: measure_limit(options.seconds, model, kind=kind) for kind in options.formats}


def measure_otoscope(engine: str, options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """The figures of this service with the same model and engine."""
    found: dict[str, Any] = {"version": "this tree", "loads": []}
    with stack(model.parent, engine="torch" if engine == "eager" else engine) as service:
        for kind, callers in itertools.product(options.formats, options.callers):
            load = service.load(submissions(service.target, encoded(kind)), "callers", callers, options.seconds)
            cost = load.pop("cpu_ms_a_job")
            spent = sum(cost[part] for part in PARTS)
            load |= {"format": kind, "cpu_ms": round(spent, 1), "memory_mb": sum(load["memory_mb"].values())}
            found["loads"].append(load)
    return found | ({"error": FAILED} if any(load["errors"] for load in found["loads"]) else {})


def measure(name: str, engine: str, options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """The figures of one peer under load and with bad input; `error` is set if it failed."""
    found: dict[str, Any] = {"version": version(name), "loads": []}
    sounds = encoded(options.formats[0])
    expected = Classifier(model, engine="eager")([Decoder(model)(sounds[0])])[0]
    try:
        with serving(name, model, sounds[0], engine) as (peer, first):
            if not agree(first, expected):
                found["error"] = f"first answer is {first} instead of {expected}"
            for kind, callers in itertools.product(options.formats, options.callers):
                found["loads"].append({"format": kind, **peer.load(encoded(kind), callers, options.seconds)})
            found["bad_input"] = peer.try_bad_input(sounds)
    except PeerError as error:
        found["error"] = str(error)
    if any(load["errors"] for load in found["loads"]):
        found["error"] = FAILED
    return found


def agree(one: Answer, other: Answer) -> bool:
    """Whether both have the same first class with about the same confidence."""
    first, second = one["predictions"][0], other["predictions"][0]
    near = abs(first["confidence"] - second["confidence"]) <= TOLERANCE
    return near and first["class"] == second["class"] and len(one["predictions"]) == len(other["predictions"])


def table(run: dict[str, Any], found: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"round {run['round']}, {run['model']}: {run['peer']} {found.get('version', '')}, {run['engine']}"]
    for kind, limit in found.get("limits", {}).items():
        lines.append(
            f"  the limit for {kind} is {limit['per_second']}/s at {limit['cpu_ms']} ms of CPU a clip"
            f" ({PROCESSES} processes, batches of {BATCH})"
        )
    lines += [
        f"  {load['format']:<4} callers {load['callers']:>4d}  {load['per_second']:>7.1f}/s"
        f"  {load['share_of_limit']:>5.0%} of the limit"
        f"  p50 {load['p50_ms']:>7.1f}  p95 {load['p95_ms']:>7.1f}  p99 {load['p99_ms']:>7.1f} ms"
        f"  CPU {load['cpu_ms']:>6.1f} ms  errors {load['errors']}  {load['memory_mb']} MB"
        for load in found.get("loads", [])
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
