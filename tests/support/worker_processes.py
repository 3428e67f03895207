"""A Redis server, a models directory and real worker processes, for tests that start and stop them."""

import os
import signal
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

from otoscope.types import JobOptions
from shared.config.settings import Settings
from shared.contract import job_key
from tests.conftest import PYTHON, ROOT, start_server
from tests.shared.conftest import Stores
from tests.support.process_tree import children, stop, until
from tests.support.sounds import chirp, encode

SOUND = encode(chirp(1.0, 16_000), 16_000, "FLAC", "PCM_16")  # a compressed file needs a decode process
VISIBILITY = 5  # seconds, the least that the settings accept
READY = 60.0  # seconds to start on a busy machine


class WorkerProcesses:
    """A Redis server of its own, a models directory, and worker processes that a test starts and stops."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.models = directory / "models"
        self.models.mkdir()
        path = self.start_redis()
        stack.callback(self.stop_redis)
        self.settings = Settings(
            redis_url=f"unix://{path}", models_dir=self.models, decode_processes=1, batch_size=2, metrics_port=0,
            visibility_timeout=VISIBILITY,
        )  # fmt: skip
        self.stores = Stores(self.settings, stack)
        self._processes: list[subprocess.Popen[bytes]] = []
        stack.callback(self.kill_all)

    def start_redis(self) -> Path:
        """Start the server, with what it had stored; returns the path of its socket."""
        self.server, path = start_server(self.directory, "--appendonly", "yes")
        return path

    def stop_redis(self) -> None:
        """Kill the server."""
        self.server.kill()
        self.server.wait()

    def start(self, module: str = "worker", **changed: str) -> subprocess.Popen[bytes]:
        """Start a worker with some settings changed; its log is `worker<n>.log`.

        The variable FAULT is passed on to tests.support.faulty_worker.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTOSCOPE_")}
        for name in ("redis_url", "models_dir", "decode_processes", "batch_size", "visibility_timeout", "metrics_port"):
            environment[f"OTOSCOPE_{name.upper()}"] = str(getattr(self.settings, name))
        own = {"engine": "torch", **changed}  # OpenVINO would compile the network at each start
        environment |= {f"OTOSCOPE_{name.upper()}": value for name, value in own.items()}
        with (self.directory / f"worker{len(self._processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [PYTHON, "-m", module], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                env=environment | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        self._processes.append(process)
        return process

    def start_ready(self, module: str = "worker", **changed: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait for its first heartbeat."""
        process = self.start(module, **changed)
        until(lambda: process.poll() is not None or self.registered(process), READY)
        assert process.poll() is None, self.log(process)
        return process

    def registered(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether the gateway sees a heartbeat of that worker."""
        return any(w.id.endswith(f"-{process.pid}") for w in self.stores.run(self.stores.gateway.workers()))

    def log(self, process: subprocess.Popen[bytes]) -> str:
        return (self.directory / f"worker{self._processes.index(process)}.log").read_text()

    def submit(self, sound: bytes = SOUND, model: str = "tiny") -> str:
        """Submit a job as the gateway does; returns its id."""
        return self.stores.submit(sound, model, JobOptions())

    def submit_blocked(self, worker: subprocess.Popen[bytes]) -> tuple[str, int]:
        """A job that this worker, the only one, has claimed and cannot finish: its decode process is stopped.

        Returns the job id and the process id of the decode process.
        """
        (decoder,) = children(worker.pid)
        stop(decoder)
        job_id = self.submit()
        until(lambda: self.stores.status(job_id) == "running")
        return job_id, decoder

    def finished(self, job_id: str, seconds: float = 30.0) -> str:
        """Wait until the job has ended; returns its status."""
        until(lambda: self.stores.run(self.stores.gateway.get(job_id)).final, seconds)
        return self.stores.status(job_id)

    def field(self, job_id: str, name: str) -> str:
        """A field of the job's hash in Redis."""
        value = self.stores.raw.hget(job_key(job_id), name)
        assert isinstance(value, bytes)
        return value.decode()

    def kill_all(self) -> None:
        """Kill the workers that still run, with their decode processes."""
        for process in self._processes:
            if process.poll() is None:
                left = children(process.pid)
                process.kill()
                process.wait()
                for pid in left:
                    with suppress(ProcessLookupError):  # it has ended with its worker
                        os.kill(pid, signal.SIGKILL)
