"""The routes of ops/alertmanager.yml, tried with a real Prometheus, a real Alertmanager and a receiver."""

import json
import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ops.local import GATEWAY, OPS, WORKER, Prometheus, configuration, program
from tests.conftest import free_port

ROUTES = OPS / "alertmanager.yml"
TEMPLATES = Path("/usr/share/prometheus/alertmanager/default.tmpl")
ALERTMANAGER, AMTOOL = program("prometheus-alertmanager"), program("amtool")
pytestmark = pytest.mark.skipif(
    None in (ALERTMANAGER, AMTOOL, program("prometheus")), reason="needs Alertmanager (`make prometheus`)"
)


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=OtoscopeWatchdog", "severity=info"], "watchdog"),
        (["alertname=OtoscopeNoWorker", "severity=critical"], "people"),
        (["alertname=OtoscopeDrift", "severity=info"], "people"),
    ],
)
def test_alerts_are_routed(labels: list[str], receiver: str) -> None:
    """The dead man's switch to a receiver of its own."""
    command = [str(AMTOOL), "config", "routes", "test", f"--config.file={ROUTES}", *labels]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == [receiver], done.stderr


@contextmanager
def receiving() -> Iterator[tuple[int, "queue.Queue[tuple[str, dict[str, Any]]]"]]:
    """A receiver on loopback: (port, (path, notification) of what it has received)."""
    received: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, received
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(not TEMPLATES.exists(), reason="needs the templates of Debian's package, which root can install")
def test_a_receiver_gets_what_prometheus_finds(tmp_path: Path) -> None:
    """Nothing runs but Prometheus and Alertmanager: the dead man's switch arrives at its receiver."""
    with receiving() as (port, received):
        routes = tmp_path / "alertmanager.yml"
        routes.write_text(ROUTES.read_text().replace("http://alerts.invalid", f"http://127.0.0.1:{port}"))
        own = free_port()
        command = [
            *(str(ALERTMANAGER), f"--config.file={routes}", f"--storage.path={tmp_path / 'data'}"),
            *(f"--web.listen-address=127.0.0.1:{own}", "--cluster.listen-address="),
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                targets = {GATEWAY: ["127.0.0.1:1"], WORKER: ["127.0.0.1:1"]}
                config = configuration(targets, 1.0, alertmanager=f"127.0.0.1:{own}")
                folder = tmp_path / "prometheus"
                folder.mkdir()
                with Prometheus.running(config, free_port(), folder):
                    path, notification = received.get(timeout=120)
            finally:
                process.terminate()
    assert path == "/watchdog"
    assert [alert["labels"]["alertname"] for alert in notification["alerts"]] == ["OtoscopeWatchdog"]
