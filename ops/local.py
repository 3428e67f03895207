"""Runs Prometheus beside a service without containers, with the rules and jobs of ops/prometheus.yml.

    otoscope up                                   in one terminal
    .venv/bin/python ops/local.py                 in another; then http://127.0.0.1:9090/alerts

Needs the program `prometheus` (`make prometheus`, from Debian's package). Addresses other than those of
`otoscope up`: `--gateway HOST:PORT`, `--worker HOST:PORT`, once for each process.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx2
import yaml

OPS = Path(__file__).resolve().parent
GATEWAY, WORKER = "otoscope-gateway", "otoscope-worker"


def program(name: str) -> str | None:
    """The path of `prometheus` or `promtool`, in this environment or on PATH; None if it is not installed."""
    beside = Path(sys.executable).parent
    return shutil.which(name, path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")


def configuration(
    targets: Mapping[str, Sequence[str]],
    seconds: float | None = None,
    credentials: Path | None = None,
    alertmanager: str | None = None,
) -> dict[str, Any]:
    """ops/prometheus.yml with the addresses `targets` of each job instead of container names.

    `seconds` is the interval of scrapes and of rule evaluations, by default that of the file; `credentials` is a file
    with a key, `alertmanager` the HOST:PORT to which alerts are sent.
    """
    config: dict[str, Any] = yaml.safe_load((OPS / "prometheus.yml").read_text())
    config["rule_files"] = [str(OPS / "rules.yml")]
    del config["alerting"]
    if alertmanager:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    if seconds is not None:
        config["global"] = {"scrape_interval": f"{seconds:g}s", "evaluation_interval": f"{seconds:g}s"}
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
        if seconds is not None:
            job["scrape_timeout"] = f"{seconds:g}s"
        if job.pop("authorization", None) and credentials:
            job["authorization"] = {"credentials_file": str(credentials)}
    return config


class Prometheus:
    """A running Prometheus; `running` starts one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx2.Client(base_url=url, timeout=30)

    def get(self, path: str, **parameters: str | float) -> Any:
        """The `data` of a response of its HTTP API. Raises httpx2.HTTPStatusError with its error message."""
        answer = self._http.get(f"/api/v1/{path}", params=parameters)
        if answer.is_error:
            raise httpx2.HTTPStatusError(f"{parameters}: {answer.text}", request=answer.request, response=answer)
        return answer.json()["data"]

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Series with their values at a time (seconds since 1970), by default now."""
        found: list[dict[str, Any]] = self.get("query", query=expression, time=at or time.time())["result"]
        return found

    @classmethod
    @contextmanager
    def running(cls, config: dict[str, Any], port: int, folder: Path) -> Iterator[Self]:
        """Started on loopback with its data in `folder`, ready, and stopped afterwards. Raises RuntimeError if it does
        not start. `prometheus` has to be installed (`program`).
        """
        path, log = folder / "prometheus.yml", folder / "prometheus.log"
        path.write_text(yaml.safe_dump(config))
        command = [program("prometheus") or "prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        # It discovers an Alertmanager after five seconds, and loses what fires before: by default, for a minute.
        command += ["--rules.alert.resend-delay=5s"]
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while not _ready(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"prometheus did not start:\n{log.read_text()}")
                time.sleep(0.1)
            prometheus = cls(url)
            with prometheus._http:
                yield prometheus
        finally:
            process.terminate()
            process.wait(30)


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/-/ready").is_success
    except httpx2.TransportError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", action="append", help="127.0.0.1:8000")
    parser.add_argument("--worker", action="append", help="127.0.0.1:9100")
    parser.add_argument("--key", type=Path, help="file with a key of the scope admin, if the gateway requires keys")
    parser.add_argument("--port", type=int, default=9090)
    options = parser.parse_args()
    if program("prometheus") is None:
        raise SystemExit("`prometheus` is not installed; `make prometheus` installs it from Debian's package.")
    targets = {GATEWAY: options.gateway or ["127.0.0.1:8000"], WORKER: options.worker or ["127.0.0.1:9100"]}
    config = configuration(targets, credentials=options.key.resolve() if options.key else None)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: Prometheus is stopped, too
    with tempfile.TemporaryDirectory(prefix="oto") as folder:
        try:
            with Prometheus.running(config, options.port, Path(folder)) as prometheus:
                print(f"{prometheus.url}/alerts", flush=True)
                while True:
                    time.sleep(3600)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
