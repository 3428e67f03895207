"""The cost of tracing: services without traces, with all, with a tenth, and with a collector that is down, in one run.

    .venv/bin/python bench/traces.py [--model esc50-light] [--callers 16] [--seconds 6] [--rounds 5]

All run at the same time and are loaded in turn, so that other load of the machine affects them equally. The collector
is a process of its own that discards the spans. Prints one line of JSON: of each round, and as the median over them,
responses a second and CPU a job in gateway and worker, as a ratio to the service without traces.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from bench.lib.clips import MODEL, encoded, model_directory
from bench.lib.machine import describe
from bench.lib.rig import free_port
from bench.lib.stack import Stack, stack, submissions

FIGURES = ("per_second", "gateway", "worker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="esc50-light", help=f"{MODEL}, or one of models/")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    port = free_port()
    collector = multiprocessing.get_context("spawn").Process(target=collect, args=(port,), daemon=True)
    collector.start()
    endpoint, closed = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
    kinds = {"off": ("", 1), "all": (endpoint, 1), "tenth": (endpoint, 0.1), "down": (closed, 1)}
    os.environ["OTEL_TRACES_SAMPLER"] = "parentbased_traceidratio"
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as exits:
        models = model_directory(options.model, Path(folder))
        services: dict[str, Stack] = {}
        for name, (where, share) in kinds.items():
            os.environ["OTEL_TRACES_SAMPLER_ARG"] = str(share)
            services[name] = exits.enter_context(stack(models, otlp_endpoint=where, result_ttl="60"))
        for _ in range(options.rounds):
            found = {name: measure(service, options) for name, service in services.items()}
            rounds.append(found)
            print(found, file=sys.stderr)
    collector.terminate()
    ratios = {
        name: {
            figure: round(statistics.median(found[name][figure] / found["off"][figure] for found in rounds), 3)
            for figure in FIGURES
        }
        for name in kinds
        if name != "off"
    }
    print(json.dumps({"machine": describe(), "options": vars(options), "rounds": rounds, "ratios": ratios}))


def measure(service: Stack, options: Any) -> dict[str, float]:
    """Responses a second, and CPU a job in gateway and worker."""
    found = service.load(submissions(service.target, encoded()), "callers", options.callers, options.seconds)
    cost = found["cpu_ms_a_job"]
    if found["errors"]:
        raise SystemExit(f"{found['errors']} requests failed")
    return {"per_second": found["per_second"], "gateway": cost["gateway"], "worker": cost["worker"]}


def collect(port: int) -> None:
    """A collector on that port, which discards what it receives."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
