"""Fuzzing with damaged files and malicious requests: no process may crash or hang, and every job has to end.

    .venv/bin/python bench/fuzz.py [--files 20000] [--requests 5000] [--seed 1] [--keep FOLDER]
    .venv/bin/python bench/fuzz.py --replay FILE ...

Files go through the worker's pool of decode processes; requests, most of which carry such files, to a service of its
own. Prints tables and one line of JSON. A finding is a file that crashed its decode process or raised an unexpected
exception, a request that got a 5xx or no response in time, a job that did not end or failed by a bug, and a process
that was replaced. Each is saved as a file that can be replayed: `.sound` in both ways, `.request` over HTTP. Ends with
status 1 if there is a finding.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

sys.path.append(str(Path(__file__).parents[1]))
from tqdm import tqdm

from bench.lib.clips import model_directory
from bench.lib.machine import describe
from bench.lib.stack import Stack, stack
from otoscope.client import Client
from otoscope.errors import AudioError, DecoderDied, JobExpired, JobNotFound, OtoscopeError
from tests.support.corrupt_audio import damaged
from tests.support.hostile_requests import hostile_request, outcome
from tests.support.http_requests import request
from worker.decode.pool import DecoderPool

RATE = 16_000
DECODERS, CALLERS = 2, 12
PATIENCE = 20.0  # seconds that a file may take to decode, and a request without a byte of its response
SETTINGS = {"decode_seconds": "20", "upload_seconds": "3", "max_wait": "10", "decode_processes": str(DECODERS)}
BUGS = {"internal_error", "inference_failed", "poison", "decoder_died", "deadline_exceeded"}
"""Error codes that no input may cause."""

Named = tuple[str, bytes]  # the form of a sound or the kind of a request, and its bytes
Requests = Callable[[list[str]], Iterable[Named]]  # from the ids of the jobs so far, which requests may name
Item, Found = TypeVar("Item"), TypeVar("Found")


@dataclass
class Findings:
    """The findings; the input of each is saved in a file."""

    folder: Path
    messages: list[str] = field(default_factory=list)

    def add(self, what: str, name: str = "", data: bytes = b"") -> None:
        if name:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(data)
            what += f": {self.folder / name}"
        self.messages.append(what)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="esc50-light", help="one of models/")
    parser.add_argument("--keep", type=Path, default=Path("findings"), help="folder for findings")
    parser.add_argument("--replay", type=Path, nargs="*", default=[], help="send these findings again instead")
    options = parser.parse_args()
    findings = Findings(options.keep)
    sounds: Iterable[Named] = (damaged(options.seed, number) for number in range(options.files))
    requests: Requests = partial(made_up, options.seed, options.requests)
    if options.replay:
        kept = [(path.name, path.read_bytes()) for path in options.replay]
        sounds = [(name, data) for name, data in kept if not name.endswith(".request")]
        requests = partial(again, kept)
        options.files, options.requests = len(sounds), len(kept)
    report: dict[str, Any] = {"machine": describe(), "seed": options.seed}
    report["files"] = through_the_pool(sounds, options.files, findings)
    with tempfile.TemporaryDirectory() as folder:
        models = model_directory(options.model, Path(folder))
        with stack(models, **SETTINGS) as service:
            report["requests"] = through_http(service, requests, options.requests, findings)
    report["findings"] = findings.messages
    print_tables(report)
    print(json.dumps(report))
    raise SystemExit(bool(findings.messages))


def made_up(seed: int, count: int, jobs: list[str]) -> Iterator[Named]:
    for number in range(count):
        yield hostile_request(seed, number, jobs)


def again(kept: list[Named], _jobs: list[str]) -> Iterator[Named]:
    """Requests unchanged, and sounds as the body of a request."""
    for name, data in kept:
        if not name.endswith(".request"):
            data = request("POST", "/v1/jobs", ["Content-Type: audio/wav", "Prefer: wait=10"], data)
        yield name, data


def side_by_side(
    work: Callable[[Item], Found], items: Iterable[Item], threads: int, total: int, what: str
) -> Iterator[Found]:
    """The results of `work` for each item in order, with that many threads."""
    with ThreadPoolExecutor(threads) as pool, tqdm(total=total, desc=what, unit_scale=True) as bar:
        rest = iter(items)
        while batch := list(itertools.islice(rest, 64 * threads)):
            for found in pool.map(work, batch):
                bar.update()
                yield found


# --- files ----------------------------------------------------------------------------------------------------------


def through_the_pool(sounds: Iterable[Named], total: int, findings: Findings) -> dict[str, Any]:
    """Decode each file as the worker does."""
    deaths = threading.Semaphore(0)
    pool = DecoderPool(DECODERS, PATIENCE, 600.0, on_crash=deaths.release)
    before = sorted(pool.pids)

    def one(numbered: tuple[int, Named]) -> tuple[str, str, float]:
        number, (form, data) = numbered
        began, finding = time.perf_counter(), ""
        try:
            pool.decode(data, RATE)
            end = "accepted"
        except AudioError as error:
            end = error.code
        except DecoderDied as error:
            end, finding = error.code, error.detail
        except Exception as error:
            end, finding = "bug", repr(error)
        if finding:
            findings.add(finding, f"{number}-{form.replace(' ', '-')}.sound", data)
        return form, end, time.perf_counter() - began

    ends: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: list[float] = []
    slowest = (0.0, "")
    for form, end, took in side_by_side(one, enumerate(sounds), 2 * DECODERS, total, "files"):
        ends[form][end] += 1
        seconds.append(took)
        slowest = max(slowest, (took, f"{form}, number {len(seconds) - 1}"))
    after = sorted(pool.pids)
    peak = max((_peak_mb(pid) for pid in after), default=0)
    died = 0
    while deaths.acquire(blocking=False):
        died += 1
    pool.close()
    if len(after) != len(before) or (after != before) != bool(died):
        findings.add(f"decode processes: {died} died, {before} became {after}")
    return {
        "count": len(seconds),
        "ends": {form: dict(counted.most_common()) for form, counted in ends.items()},
        "decoders_died": died,
        "decoder_peak_mb": peak,
        "slowest_ms": round(1e3 * slowest[0], 1),
        "slowest": slowest[1],
        "median_ms": round(1e3 * statistics.median(seconds), 2) if seconds else 0.0,
    }


def _peak_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) // 1024


# --- requests -------------------------------------------------------------------------------------------------------


def through_http(service: Stack, requests: Requests, total: int, findings: Findings) -> dict[str, Any]:
    """Send each request, and wait for the end of every job."""
    address = service.target.host, service.target.port
    jobs: list[str] = []
    senders: dict[str, bytes] = {}  # job id -> the request that created it
    before = _pids(service)

    def one(numbered: tuple[int, Named]) -> tuple[str, str, float]:
        number, (kind, data) = numbered
        began = time.perf_counter()
        end, right, answer = outcome(address, data, PATIENCE)
        if (place := answer.headers.get("location", "")).startswith("/v1/jobs/"):
            jobs.append(place.rpartition("/")[2])
            senders[jobs[-1]] = data
        if not right:
            findings.add(end, f"{number}-{kind}.request", data)
        return kind, end, time.perf_counter() - began

    ends: dict[str, Counter[str]] = defaultdict(Counter)
    slowest = 0.0
    for kind, end, took in side_by_side(one, enumerate(requests(jobs)), CALLERS, total, "requests"):
        ends[kind][end] += 1
        slowest = max(slowest, took)
    finished = Counter(_outcomes(service, senders, findings))
    after = _pids(service)
    if before != after:
        findings.add(f"processes were replaced: {before} became {after}")
    return {
        "count": sum(counted.total() for counted in ends.values()),
        "ends": {kind: dict(counted.most_common()) for kind, counted in ends.items()},
        "jobs": dict(finished.most_common()),
        "slowest_ms": round(1e3 * slowest, 1),
        "peak_mb": {name: max(_peak_mb(pid) for pid in pids) for name, pids in after.items()},
        "same_processes": before == after,
    }


def _outcomes(service: Stack, senders: dict[str, bytes], findings: Findings) -> Iterator[str]:
    """How each job ended."""
    with Client(f"http://{service.target.host}:{service.target.port}", timeout=PATIENCE) as client:
        for job_id, data in tqdm(senders.items(), desc="jobs"):
            try:
                job = client.wait(job_id, timeout=60)
            except (JobNotFound, JobExpired):
                yield "forgotten"  # one of the requests deleted it
                continue
            except OtoscopeError as error:
                findings.add(f"job {job_id} did not end: {error!r}", f"{job_id}.request", data)
                yield "unfinished"
                continue
            if job.error and job.error.code in BUGS:
                findings.add(f"a job failed with {job.error.code}: {job.error.detail}", f"{job_id}.request", data)
            yield f"failed {job.error.code}" if job.error else job.status


def _pids(service: Stack) -> dict[str, list[int]]:
    pids: dict[str, list[int]] = defaultdict(list)
    for name, process in service.processes():
        pids[name].append(process.pid)
    return {name: sorted(numbers) for name, numbers in sorted(pids.items())}


# --- report ---------------------------------------------------------------------------------------------------------


def print_tables(report: dict[str, Any]) -> None:
    for part in ("files", "requests"):
        print(f"\n{report[part]['count']:,} {part}", file=sys.stderr)
        for name, ends in report[part]["ends"].items():
            counts = ", ".join(f"{end} {count}" for end, count in ends.items())
            print(f"{name:>24}  {counts}", file=sys.stderr)
        for name, value in report[part].items():
            if name not in ("ends", "count"):
                print(f"{name:>24}  {value}", file=sys.stderr)
    print(f"\n{len(report['findings'])} findings", *report["findings"], sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
