"""Every setting of gateway and worker, read once at start from `OTOSCOPE_*` variables and never changed after.

What a setting does under load is said beside it, which is what `otoscope settings` and docs/settings.md show; unsafe
and contradictory combinations are refused at start, not discovered later.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from shared.audio.decode import AudioLimits
from shared.config.redis_url import RedisURL, RedisURLError, parse_redis_url


def usable_cores() -> int:
    """Cores that this process may keep busy: those it may run on, or fewer where its container is held to a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # "max" where there is none
        cores = min(cores, max(round(int(quota) / int(period)), 1))
    return cores


SECRETS = Path("/run/secrets")
"""Where Docker and Kubernetes put files that hold a secret: one named `otoscope_redis_url` is that setting."""

CLI_VARIABLES = {
    "OTOSCOPE_HOME": "Where `otoscope up` keeps the queue; `.otoscope` in the working directory by default.",
    "OTOSCOPE_URL": "The service that `otoscope` and `Client` ask.",
    "OTOSCOPE_KEY": "The API key that they send.",
    "OTOSCOPE_DEBUG": "1 shows where an error of the command line came from.",
}
"""Variables that no service reads, and what they do."""

COMPOSE_VARIABLES = {
    "OTOSCOPE_TAG": ("latest", "Tag of the images that are built and started."),
    "OTOSCOPE_WORKER_MEMORY": ("8g", "Memory that each worker may take."),
    "OTOSCOPE_WORKER_CPUS": ("0", "Cores that each worker may take; 0 is all there are."),
    "OTOSCOPE_REDIS_IMAGE": ("redis:7-alpine", "Redis or Valkey, 7 or newer."),
    "OTOSCOPE_REDIS_MEMORY": ("1gb", "What Redis keeps at most; past 85 % of it submissions get 429."),
    "OTOSCOPE_REDIS_CONTAINER_MEMORY": (
        "2g", "What its container may take: twice as much, as Redis copies what changes while it rewrites its file.",
    ),
    "OTOSCOPE_PROMETHEUS_PORT": ("9090", "Port of Prometheus on 127.0.0.1."),
    "OTOSCOPE_PROMETHEUS_RETENTION": ("30d", "How long its figures stay."),
    "OTOSCOPE_GRAFANA_PORT": ("3000", "Port of Grafana on 127.0.0.1."),
}  # fmt: skip
"""Variables that docker-compose.yml alone reads: default and effect."""

BackendName = Literal["auto", "torch", "openvino"]
LogFormat = Literal["text", "json"]


def split_list(text: str) -> tuple[str, ...]:
    """What a comma-separated setting names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


class Settings(BaseSettings):
    """Both sides read the same variables; each uses its part."""

    model_config = SettingsConfigDict(
        env_prefix="OTOSCOPE_",
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    # --- both sides -------------------------------------------------------------------------------------------------
    redis_url: str = "redis://127.0.0.1:6379/0"
    """Where jobs, results and the queue live: `redis://`, `rediss://` (encrypted), `sentinel://` (whichever of several
    servers it is at present) or `unix://`; `shared.config.redis_url` has the spellings."""
    max_seconds: float = Field(600.0, gt=0)
    """Longest sound, in seconds. Decoding costs memory and time in proportion: 10 minutes are 38 MB at 16 kHz."""
    result_ttl: int = Field(3_600, ge=10)
    """Seconds that a finished job can be read. Redis memory grows with it: 100 KB a job with every part, 6 without, and
    13 KB for each second of a `full_spectrogram`."""
    tombstone_ttl: int = Field(86_400, ge=10)
    """Seconds after that during which an expired job is told from one that never was (410 instead of 404)."""
    job_deadline: float = Field(300.0, gt=0)
    """Seconds after its submission at which an unfinished job is given up. Bounds the wait behind a long queue."""
    default_model: str = "esc50"
    """The model of a request that names none."""
    log_format: LogFormat = "text"
    """`text` is for a person at a terminal; `json` is a line an event, and tells the way of every job by its id."""
    otlp_endpoint: str = ""
    """Where traces go: the URL of an OpenTelemetry collector that speaks OTLP over HTTP, such as
    `http://collector:4318`. Empty, nothing is traced. Needs the extra `tracing`; OpenTelemetry's own OTEL_* variables
    say the rest. A traced job costs gateway and worker some CPU, a collector that is away costs nothing more."""

    # --- gateway ----------------------------------------------------------------------------------------------------
    host: str = "127.0.0.1"
    """RedisURL the gateway listens on; compose sets 0.0.0.0."""
    port: int = Field(8_000, ge=0, le=65_535)
    """Port of the gateway; 0 takes any free one."""
    max_upload_bytes: int = Field(32 * 2**20, ge=1_024)
    """Largest sound file. Each upload in flight is held in memory once, in base64 briefly twice."""
    upload_seconds: float = Field(60.0, gt=0)
    """A request whose head or body takes longer to arrive is cut off, and so is a reader who takes next to nothing of
    an answer for as long: neither holds a connection and its memory for ever."""
    max_connections: int = Field(2_048, ge=1)
    """Requests under way past which 503 is answered at once. An open event stream counts as one."""
    keys_file: Path | None = None
    """The keys that open the gateway, made by `otoscope keys`; read again when it changes. Unset, it is open to all."""
    trusted_proxies: str = ""
    """Comma-separated addresses and networks whose `X-Forwarded-For` and `-Proto` are believed; nobody's by default,
    since anybody can write one."""
    cors_origins: str = ""
    """Comma-separated origins whose pages may call the API from a browser. `*` is any, and needs keys: where there are
    none, what a visited page can reach is all that keeps it out of a private network's gateway."""
    queue_limit: int = Field(1_000, ge=1)
    """Unfinished jobs past which submissions get 429. Bounds waiting time (limit / throughput) and Redis memory."""
    caller_share: float = Field(0.5, gt=0, le=1)
    """Share of those places that the waiting jobs of one caller (a key, or an address) may take; what is left is for
    the others, with whom it takes turns."""
    redis_memory_share: float = Field(0.85, gt=0, le=1)
    """Share of Redis' own memory limit past which submissions get 429: a full Redis takes the workers down with it."""
    max_wait: float = Field(60.0, gt=0)
    """Longest `Prefer: wait` or `?wait=`, in seconds; more is cut to this. /evaluate waits as long."""
    keepalive_seconds: float = Field(15.0, gt=0)
    """Silence after which an event stream sends a comment, so that proxies keep it open."""

    # --- worker -----------------------------------------------------------------------------------------------------
    models_dir: Path = Path("models")
    """Directory of model directories. A new or changed one is served within seconds, without a restart."""
    models: str = ""
    """Comma-separated names of the models to serve; empty serves every directory in `models_dir`."""
    device: str = "auto"
    """`auto` takes CUDA where there is one; else any torch device name."""
    engine: BackendName = "auto"
    """What runs the network. `auto` takes OpenVINO on a processor where it is installed, else PyTorch."""
    int8: bool = False
    """Run models that were quantised (`otoscope quantise`) in 8 bits, where OpenVINO runs them: up to twice as fast."""
    batch_size: int | None = Field(None, ge=1, le=1_024)
    """Most windows a forward pass; unset, 8 on a processor and 64 on a GPU. Larger is faster a clip and slower for the
    first of them; memory grows with it."""
    batch_window: float = Field(0.0, ge=0, le=1)
    """Seconds a batch waits for company after its first window. With 0 it leaves as soon as there is somebody to run
    it, and what comes meanwhile is the next: fuller batches are not worth what each waits (docs/performance.md)."""
    decode_processes: int = Field(default_factory=lambda: min(4, usable_cores()), ge=1)
    """Processes that turn files into waveforms: about one for each core that is not busy with the network."""
    decode_seconds: float = Field(60.0, gt=0)
    """A file that decodes longer than this is given up and its process ended."""
    metrics_port: int = Field(9_100, ge=0, le=65_535)
    """The worker's /metrics; 0 takes any free port."""
    metrics_host: str = "127.0.0.1"
    """RedisURL that /metrics of the worker listens on, which asks for no key; compose sets 0.0.0.0 on a network of its
    own."""
    watchdog_seconds: float = Field(60.0, gt=0)
    """A forward pass that hangs longer ends the worker process; its jobs go to the next one."""
    max_attempts: int = Field(3, ge=1)
    """Deaths of a worker, each with the job in hand, after which the job is failed as `poison`."""
    visibility_timeout: int = Field(10, ge=5)
    """Seconds after which the jobs of a dead worker are delivered again."""

    @model_validator(mode="after")
    def _usable(self) -> "Settings":
        try:
            parse_redis_url(self.redis_url)
        except RedisURLError as error:
            raise ValueError(f"OTOSCOPE_REDIS_URL {error}") from None
        if self.otlp_endpoint and not _is_address(self.otlp_endpoint):
            raise ValueError("OTOSCOPE_OTLP_ENDPOINT is no URL; one looks like http://collector:4318")
        for proxy in self.proxies:
            try:
                anybody = ip_network(proxy).prefixlen == 0
            except ValueError as error:
                raise ValueError(f"OTOSCOPE_TRUSTED_PROXIES: {error}") from None
            if anybody:
                raise ValueError(f"OTOSCOPE_TRUSTED_PROXIES: {proxy} is everybody, and anybody can write an address")
        if "*" in self.origins and self.keys_file is None:
            raise ValueError("OTOSCOPE_CORS_ORIGINS may be * only where OTOSCOPE_KEYS_FILE is set")
        for origin in self.origins:
            found = urlsplit(origin)
            if origin != "*" and (
                found.scheme not in ("http", "https") or origin != f"{found.scheme}://{found.netloc}"
            ):
                raise ValueError(f"OTOSCOPE_CORS_ORIGINS: {origin!r} is no origin; one looks like https://example.org")
        if self.model_names and self.default_model not in self.model_names:
            raise ValueError(
                f"OTOSCOPE_DEFAULT_MODEL is {self.default_model}, which is not among OTOSCOPE_MODELS: requests that"
                " name no model would all fail"
            )
        if self.int8 and self.engine == "torch":
            raise ValueError("OTOSCOPE_INT8 needs OpenVINO, which OTOSCOPE_ENGINE=torch rules out")
        if self.device.startswith("cuda") and (self.int8 or self.engine == "openvino"):
            raise ValueError(
                "OTOSCOPE_INT8 and OTOSCOPE_ENGINE=openvino are for processors, not for OTOSCOPE_DEVICE=cuda"
            )
        return self

    @property
    def audio_limits(self) -> AudioLimits:
        return AudioLimits(max_seconds=self.max_seconds)

    @property
    def address(self) -> RedisURL:
        """Where Redis is, and how it is entered."""
        return parse_redis_url(self.redis_url)

    @property
    def model_names(self) -> tuple[str, ...]:
        return split_list(self.models)

    @property
    def proxies(self) -> tuple[str, ...]:
        return split_list(self.trusted_proxies)

    @property
    def origins(self) -> tuple[str, ...]:
        return split_list(self.cors_origins)


def _is_address(url: str) -> bool:
    """Whether something can be sent there over HTTP."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.query
    except ValueError:
        return False


class ConfigurationError(ValueError):
    """Why a process cannot start with these settings, in one line and without their values: one may be a password."""


def load_settings(**given: Any) -> Settings:
    """The settings of this process; `given` ones win. Raises ConfigurationError."""
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = (
            ": ".join([*(f"OTOSCOPE_{str(name).upper()}" for name in found["loc"]), found["msg"]])
            for found in error.errors(include_input=False, include_url=False)
        )
        raise ConfigurationError("; ".join(lines)) from None
    except SettingsError as error:  # a file in SECRETS that cannot be read, say
        raise ConfigurationError(f"{error}: {error.__cause__}") from None


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """Variables with our prefix that nothing reads, each as a sentence; a typing error must not pass for a setting."""
    prefix = "OTOSCOPE_"
    known = {name.upper() for name in Settings.model_fields} | {
        name.removeprefix(prefix) for name in CLI_VARIABLES | COMPOSE_VARIABLES
    }
    told = []
    for name in sorted(variable.removeprefix(prefix) for variable in environment if variable.startswith(prefix)):
        if name not in known:
            near = get_close_matches(name, known, 1)
            told.append(f"{prefix}{name} is no setting" + (f"; did you mean {prefix}{near[0]}?" if near else ""))
    return told
