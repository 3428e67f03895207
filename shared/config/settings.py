"""Every setting of gateway and worker, read once at start from `OTOSCOPE_*` variables.

The docstring of a setting describes its effect under load; `otoscope settings` and docs/settings.md show it. Unsafe and
contradictory combinations are refused at start.
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

from shared.audio.limits import AudioLimits
from shared.config.redis_url import RedisURL, RedisURLError, parse_redis_urls
from shared.sound_sources import SoundSources
from shared.validation import describe_validation_errors


def usable_cores() -> int:
    """Cores that this process may use: its CPU affinity, or fewer where its cgroup has a CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # quota is "max" where there is none
        cores = min(cores, max(round(int(quota) / int(period)), 1))
    return cores


_LOOPBACK = ("127.0.0.1", "::1", "localhost")

SECRETS = Path("/run/secrets")
"""Where Docker and Kubernetes mount secrets as files: the content of `otoscope_redis_url` is that setting."""

CLI_VARIABLES = {
    "OTOSCOPE_HOME": "Directory where `otoscope up` keeps the queue; `.otoscope` in the working directory by default.",
    "OTOSCOPE_URL": "URL of the service that `otoscope` and `Client` use.",
    "OTOSCOPE_KEY": "The API key that they send.",
    "OTOSCOPE_DEBUG": "1 shows the traceback of an error of the command line.",
}
"""Variables that no service reads: name to effect."""

COMPOSE_VARIABLES = {
    "OTOSCOPE_TAG": ("latest", "Tag of the images that are built and started."),
    "OTOSCOPE_WORKER_MEMORY": ("8g", "Memory limit of each worker."),
    "OTOSCOPE_WORKER_CPUS": ("0", "CPU limit of each worker, in cores; 0 is no limit."),
    "OTOSCOPE_REDIS_IMAGE": ("redis:7-alpine", "Redis or Valkey, 7 or newer."),
    "OTOSCOPE_REDIS_MEMORY": ("1gb", "Memory limit of Redis; above 85 % of it submissions get 429."),
    "OTOSCOPE_REDIS_CONTAINER_MEMORY": (
        "2g", "Memory limit of its container: twice as much, as Redis copies changed pages while it rewrites its file.",
    ),
    "OTOSCOPE_PROMETHEUS_PORT": ("9090", "Port of Prometheus on 127.0.0.1."),
    "OTOSCOPE_PROMETHEUS_RETENTION": ("30d", "How long it keeps samples."),
    "OTOSCOPE_GRAFANA_PORT": ("3000", "Port of Grafana on 127.0.0.1."),
    "OTOSCOPE_ALERTMANAGER_CONFIG": (
        "./ops/alertmanager.yml", "Configuration of Alertmanager, with your receivers (`compose/alertmanager.yml`).",
    ),
    "OTOSCOPE_ALERTMANAGER_IMAGE": ("prom/alertmanager:v0.35.0", "Image of Alertmanager."),
}  # fmt: skip
"""Variables that only docker-compose.yml and the files in compose/ read: name to default and effect."""

BackendName = Literal["auto", "torch", "openvino"]
LogFormat = Literal["text", "json"]


def split_list(text: str) -> tuple[str, ...]:
    """The items of a comma-separated setting."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


class Settings(BaseSettings):
    """Gateway and worker read the same variables; each uses its part."""

    model_config = SettingsConfigDict(
        env_prefix="OTOSCOPE_",
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    # --- gateway and worker -----------------------------------------------------------------------------------------
    redis_url: str = "redis://127.0.0.1:6379/0"
    """Redis with the jobs, results and the queue: `redis://`, `rediss://` (TLS), `sentinel://` (the primary that Redis
    Sentinel names) or `unix://`; `shared/config/redis_url.py` describes each form. A gateway accepts several, separated
    by spaces, and distributes the jobs over the servers for a higher throughput; each worker has the URL of one. The
    limits of the queue hold for each server."""
    max_upload_bytes: int = Field(32 * 2**20, ge=1_024)
    """Largest accepted sound file, in bytes. Each upload in progress is held in memory once, in base64 briefly
    twice."""
    upload_seconds: float = Field(60.0, gt=0)
    """Seconds after which a request whose head or body has not arrived is disconnected, and so is a client that has
    read almost nothing of its response for that long: neither can hold a connection and its memory indefinitely."""
    max_seconds: float = Field(AudioLimits.max_seconds, gt=0)
    """Longest accepted sound, in seconds; `max_upload_bytes` is a limit, too. Classifying takes time in proportion.
    Memory grows up to ten minutes only (38 MB at 16 kHz): a longer sound is classified while it is decoded."""
    result_ttl: int = Field(3_600, ge=10)
    """Seconds for which a finished job is kept. Redis memory grows with it: 100 KB per job with every part, 3 KB
    without, 13 KB for each second of a `full_spectrogram`, and at most 0.5 MB for an `ltsa`."""
    tombstone_ttl: int = Field(86_400, ge=10)
    """Seconds after `result_ttl` during which an expired job is answered with 410 (it existed) instead of 404."""
    job_deadline: float = Field(300.0, gt=0)
    """Seconds after its submission at which an unfinished job fails with `deadline_exceeded`. Bounds the wait in a long
    queue. For a sound of more than ten minutes it is counted once for every ten minutes: twelve times for two hours."""
    default_model: str = "yamnet,esc50"
    """Model of a request that names none: of several names the first that is served. `yamnet` is served once it has
    been added with `otoscope models add yamnet`."""
    evaluate_model: str = "esc50"
    """Model of `/evaluate`, whose clients expect the classes of one model; the default model where it is not
    served."""
    sound_sources: str = ""
    """Comma-separated origins from which workers fetch the sounds that requests name by `audio_url`:
    `https://media.example.org`, `https://*.example.org`, `http://10.0.0.7:9000`, `s3://bucket`. None by default. Each
    is fetched by a process of its own, within `max_upload_bytes` and `upload_seconds`, while its job waits."""
    log_format: LogFormat = "text"
    """`text` is for a terminal; `json` is one line per event, with the job id, and includes the routine events of each
    job."""
    otlp_endpoint: str = ""
    """URL of the OpenTelemetry collector (OTLP over HTTP) that traces are sent to, such as `http://collector:4318`;
    empty disables tracing. Needs the extra `tracing`; OpenTelemetry's own OTEL_* variables configure the rest. A traced
    job costs gateway and worker some CPU; a collector that is down costs nothing more."""

    # --- gateway ----------------------------------------------------------------------------------------------------
    host: str = "127.0.0.1"
    """Address that the gateway listens on; compose sets 0.0.0.0."""
    port: int = Field(8_000, ge=0, le=65_535)
    """Port of the gateway; 0 picks a free one."""
    upload_memory: int = Field(256 * 2**20, ge=2**20)
    """Bytes of uploads in progress at once, above which further ones get 503; of them one caller may hold
    `caller_share`. The gateway needs about twice as much memory for them."""
    response_memory: int = Field(256 * 2**20, ge=2**20)
    """Bytes of responses that their clients have not read yet, above which further ones get 503, or wait where they are
    events; of them one caller may hold `caller_share`."""
    max_connections: int = Field(2_048, ge=1)
    """Concurrent requests above which further ones get 503 at once; of them one caller may have `caller_share`. An open
    event stream, or a request that waits, counts as one."""
    keys_file: Path | None = None
    """File with the accepted API keys, made by `otoscope keys`; read again when it changes. Unset, no key is
    required."""
    trusted_proxies: str = ""
    """Comma-separated addresses and networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted;
    none by default, since any client can send these headers."""
    share_sounds: bool = False
    """Keep the sound of a job as long as its result where its submitter requests it (`keep_sound`, "Share with sound"
    of the page), so that whoever may read the result can hear it. Without keys that is everybody who has the link. Kept
    sounds take at most half of the memory that Redis has for jobs."""
    cors_origins: str = ""
    """Comma-separated origins whose pages may call the API from a browser (CORS). `*` is any origin and requires API
    keys: without keys any page that is open in a browser on the network could use the gateway."""
    allowed_hosts: str = ""
    """Comma-separated host names under which the gateway answers, beside its addresses, `localhost` and the name of its
    machine; requests to others get 421. Unset, this holds without keys only: a page whose name resolves to this gateway
    (DNS rebinding) has no key. `*` accepts any."""
    queue_limit: int = Field(1_000, ge=1)
    """Unfinished jobs above which submissions get 429. Bounds the waiting time (limit / throughput) and Redis
    memory."""
    caller_share: float = Field(0.5, gt=0, le=1)
    """Share of `queue_limit` that the queued jobs of one caller (an API key, or an address) may take, and its share of
    `max_connections`, `upload_memory` and `response_memory`. Callers are served in turn, so that the rest of the queue
    stays available to the others. 1 for a service with a single caller, such as a proxy that is not trusted."""
    redis_memory_share: float = Field(0.85, gt=0, le=1)
    """Share of Redis' own memory limit above which submissions get 429. What is stored counts, and the largest results
    that accepted jobs can have."""
    max_wait: float = Field(60.0, gt=0)
    """Longest `Prefer: wait` or `?wait=`, in seconds; a larger value is reduced to it. /evaluate waits as long."""
    max_streams: int = Field(64, ge=0)
    """Live streams (`/v1/stream`) that a gateway has open at once, above which further ones are closed with 4503; of
    them one caller may have `caller_share`. Each submits two windows a second, of 5 s of sound: 160 KB at 16 kHz, which
    Redis writes to its file. 0 disables them."""
    stream_seconds: float = Field(3_600.0, gt=0)
    """Seconds of sound after which a stream is closed; the client opens another one."""
    keepalive_seconds: float = Field(15.0, gt=0)
    """Seconds without an event after which an event stream sends a comment, so that proxies keep it open."""

    # --- worker -----------------------------------------------------------------------------------------------------
    models_dir: Path = Path("models")
    """Directory of model directories. A new or changed model is served within seconds, without a restart."""
    models: str = ""
    """Comma-separated names of the models to serve, all of which are loaded at the start; empty serves every directory
    in `models_dir`, and the first job of a model that is no default one loads it, in one to three seconds."""
    device: str = "auto"
    """`auto` is CUDA where it is available, else the CPU; or any torch device name."""
    engine: BackendName = "auto"
    """Inference backend. `auto` is OpenVINO on a CPU where it is installed, else PyTorch."""
    int8: bool = False
    """Run quantised models (`otoscope quantise`) with 8-bit integers where OpenVINO runs them: up to twice as fast."""
    batch_size: int | None = Field(None, ge=1, le=1_024)
    """Windows per forward pass at most; unset, 8 on a CPU and 64 on a GPU. A larger batch raises throughput, the
    latency of its first window, and memory."""
    batch_window: float = Field(0.0, ge=0, le=1)
    """Seconds that a batch waits for more windows after its first one. With 0 it runs as soon as the device is free,
    and windows that arrive meanwhile form the next batch: fuller batches gain less than the wait costs
    (docs/performance.md)."""
    decode_processes: int = Field(default_factory=lambda: min(4, usable_cores()), ge=1)
    """Processes that decode files: about one for each core that the network leaves free. A sound of more than ten
    minutes gets a process of its own while it is classified: at most as many in addition."""
    decode_seconds: float = Field(60.0, gt=0)
    """Seconds after which decoding a file is aborted: its process is killed and its job fails. For a sound of more than
    ten minutes they are counted once for every ten minutes; waiting for the network does not count."""
    max_sound_in_flight: float = Field(1_800.0, ge=601)
    """Seconds of sound that a worker takes from the queue at once. Only sounds of more than a minute count. A second
    takes 64 KB at 16 kHz; a sound of more than ten minutes counts as ten, since it is never in memory as a whole.
    Further ones wait in the queue for a worker with room; shorter sounds do not wait for them."""
    metrics_port: int = Field(9_100, ge=0, le=65_535)
    """Port of the worker's /metrics; 0 picks a free one."""
    metrics_host: str = "127.0.0.1"
    """Address that the worker's /metrics listens on; it requires no key. Compose sets 0.0.0.0 on a network of its
    own."""
    watchdog_seconds: float = Field(60.0, gt=0)
    """Seconds after which a forward pass counts as hung: the worker process exits, and its jobs are requeued."""
    max_attempts: int = Field(3, ge=1)
    """Number of worker crashes during a job after which the job fails as `poison`."""
    visibility_timeout: int = Field(10, ge=5)
    """Seconds after which the jobs of a crashed worker are delivered again."""

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        try:
            parse_redis_urls(self.redis_url)
        except RedisURLError as error:
            raise ValueError(f"OTOSCOPE_REDIS_URL {error}") from None
        if self.otlp_endpoint and not _is_http_url(self.otlp_endpoint):
            raise ValueError("OTOSCOPE_OTLP_ENDPOINT is not a URL; an example is http://collector:4318")
        for proxy in self.proxies:
            try:
                every_address = ip_network(proxy).prefixlen == 0
            except ValueError as error:
                raise ValueError(f"OTOSCOPE_TRUSTED_PROXIES: {error}") from None
            if every_address:
                raise ValueError(
                    f"OTOSCOPE_TRUSTED_PROXIES: {proxy} contains every address, and any client can forge the header"
                )
        try:
            SoundSources(self.sources)
        except ValueError as error:
            raise ValueError(f"OTOSCOPE_SOUND_SOURCES: {error}") from None
        share, encoded = self.caller_share, self.max_upload_bytes * 4 // 3
        if self.upload_memory * share < encoded:
            raise ValueError(
                f"OTOSCOPE_UPLOAD_MEMORY={self.upload_memory} is too little for an upload of OTOSCOPE_MAX_UPLOAD_BYTES"
                f" in base64 within OTOSCOPE_CALLER_SHARE={share:g}; set it to {-int(-encoded // share):d} or more"
            )
        if "*" in self.origins and self.keys_file is None:
            raise ValueError("OTOSCOPE_CORS_ORIGINS=* requires OTOSCOPE_KEYS_FILE")
        for origin in self.origins:
            found = urlsplit(origin)
            if origin != "*" and (
                found.scheme not in ("http", "https") or origin != f"{found.scheme}://{found.netloc}"
            ):
                raise ValueError(
                    f"OTOSCOPE_CORS_ORIGINS: {origin!r} is not an origin; an example is https://example.org"
                )
        if not self.default_models:
            raise ValueError("OTOSCOPE_DEFAULT_MODEL is empty: every request without a model would fail")
        if self.model_names and not set(self.default_models) & set(self.model_names):
            raise ValueError(
                f"OTOSCOPE_DEFAULT_MODEL is {self.default_model}, of which OTOSCOPE_MODELS contains none: every request"
                " without a model would fail"
            )
        if self.int8 and self.engine == "torch":
            raise ValueError("OTOSCOPE_INT8 needs OpenVINO, which OTOSCOPE_ENGINE=torch excludes")
        if self.device.startswith("cuda") and (self.int8 or self.engine == "openvino"):
            raise ValueError(
                "OTOSCOPE_INT8 and OTOSCOPE_ENGINE=openvino run on CPUs only, not with OTOSCOPE_DEVICE=cuda"
            )
        return self

    @property
    def exposure(self) -> str:
        """A warning where others than this machine can reach a gateway that requires no keys; else empty."""
        if self.keys_file is not None or self.host in _LOOPBACK:
            return ""
        return (
            f"listening on {self.host} without API keys: everybody who reaches this address may use the service and"
            " cancel jobs; see OTOSCOPE_KEYS_FILE"
        )

    @property
    def audio_limits(self) -> AudioLimits:
        return AudioLimits(max_seconds=self.max_seconds)

    @property
    def redis(self) -> RedisURL:
        """The server of a worker."""
        return self.redis_servers[0]

    @property
    def redis_servers(self) -> tuple[RedisURL, ...]:
        """The servers of a gateway by their numbers."""
        return parse_redis_urls(self.redis_url)

    def require_one_server(self) -> None:
        """Raises ConfigurationError where `redis_url` names several servers."""
        if (count := len(self.redis_servers)) > 1:
            raise ConfigurationError(
                f"OTOSCOPE_REDIS_URL names {count} servers, and a worker takes the jobs of one: set it to one of them"
                " for this worker"
            )

    @property
    def model_names(self) -> tuple[str, ...]:
        return split_list(self.models)

    @property
    def default_models(self) -> tuple[str, ...]:
        return split_list(self.default_model)

    @property
    def proxies(self) -> tuple[str, ...]:
        return split_list(self.trusted_proxies)

    @property
    def hosts(self) -> tuple[str, ...]:
        return split_list(self.allowed_hosts)

    @property
    def sources(self) -> tuple[str, ...]:
        return split_list(self.sound_sources)

    @property
    def origins(self) -> tuple[str, ...]:
        return split_list(self.cors_origins)


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.query
    except ValueError:
        return False


class ConfigurationError(ValueError):
    """The settings cannot be used. The message is one line without their values, of which one may be a password."""


def load_settings(**given: Any) -> Settings:
    """The settings of this process; `given` ones override the environment. Raises ConfigurationError."""
    try:
        return Settings(**given)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        named = [{**one, "loc": [f"OTOSCOPE_{str(name).upper()}" for name in one["loc"][:1]]} for one in found]
        raise ConfigurationError(describe_validation_errors(named, "settings")) from None
    except SettingsError as error:  # such as a file in SECRETS that cannot be read
        raise ConfigurationError(f"{error}: {error.__cause__}") from None


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """A sentence for each OTOSCOPE_ variable that nothing reads: a misspelt setting would be ignored silently."""
    prefix = "OTOSCOPE_"
    known = {name.upper() for name in Settings.model_fields} | {
        name.removeprefix(prefix) for name in CLI_VARIABLES | COMPOSE_VARIABLES
    }
    sentences = []
    for name in sorted(variable.removeprefix(prefix) for variable in environment if variable.startswith(prefix)):
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            sentences.append(f"{prefix}{name} is not a setting{hint}")
    return sentences
