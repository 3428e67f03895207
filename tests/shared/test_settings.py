"""Settings: what is refused at start, what may come from a file, and that every setting is documented."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from commands.settings_text import env_example, markdown
from shared.config.settings import COMPOSE_VARIABLES, ConfigurationError, Settings, load_settings, unknown_variables
from tests.conftest import PYTHON, ROOT


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ({"redis_url": "http://:hunter2@host/0"}, "must begin with"),
        ({"redis_url": "redis://:hunt/er2@host:6379/0"}, "is not a valid URL"),
        ({"redis_url": "redis://:hunter2@host:port/0"}, "is not a valid URL"),
        ({"redis_url": "redis://host:6379/0?password=hunter2"}, "behind the ?"),
        ({"trusted_proxies": "*"}, "TRUSTED_PROXIES"),
        ({"trusted_proxies": "10.0.0.1/8"}, "host bits"),
        ({"trusted_proxies": "::/0"}, "every address"),
        ({"cors_origins": "*"}, "KEYS_FILE"),
        ({"max_wait": 0}, "MAX_WAIT"),  # with it no /evaluate could succeed
        ({"cors_origins": "https://a.example/"}, "not an origin"),
        ({"cors_origins": "a.example"}, "not an origin"),
    ],
)
def test_unsafe_settings_are_refused_without_their_secrets(setting: dict[str, str], why: str) -> None:
    """At start and in one line; the error contains no password of a URL."""
    with pytest.raises(ConfigurationError, match=re.escape(why)) as caught:
        load_settings(**setting)
    message = str(caught.value)
    assert "\n" not in message
    assert "hunt" not in message
    assert "Value error" not in message, "a term of pydantic"


def test_safe_settings_are_accepted() -> None:
    """Networks and addresses of proxies; exact origins; any origin where keys are required."""
    assert Settings(trusted_proxies="10.0.0.0/8, ::1").proxies == ("10.0.0.0/8", "::1")
    assert Settings(cors_origins="https://a.example, http://localhost:3000").origins[1] == "http://localhost:3000"
    assert Settings(cors_origins="*", keys_file=Path("keys")).origins == ("*",)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"models": "mine, yours"}, "OTOSCOPE_DEFAULT_MODEL is yamnet,esc50"),
        ({"int8": True, "engine": "torch"}, "OTOSCOPE_INT8 needs OpenVINO"),
        ({"int8": True, "device": "cuda:1"}, "CPUs only"),
        ({"engine": "openvino", "device": "cuda"}, "CPUs only"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, str | bool], why: str) -> None:
    """Otherwise a request would fail because of each, or nothing would show it."""
    with pytest.raises(ConfigurationError, match=why):
        load_settings(**settings)


def test_the_default_model_is_one_of_the_models() -> None:
    """Both settings are changed together; one of several names is enough."""
    assert load_settings(models="mine, yours", default_model="yours").model_names == ("mine", "yours")
    assert load_settings(models="esc50").default_models == ("yamnet", "esc50")


def test_a_setting_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Docker and Kubernetes mount secrets; a variable overrides it, and a trailing newline is not part of it."""
    (tmp_path / "otoscope_redis_url").write_text("redis://:word@queue:6379/0\n")
    (tmp_path / "of_others").write_text("?")
    monkeypatch.delenv("OTOSCOPE_REDIS_URL", raising=False)
    assert load_settings(_secrets_dir=tmp_path).redis_url == "redis://:word@queue:6379/0"
    monkeypatch.setenv("OTOSCOPE_REDIS_URL", "redis://here:6379/0")
    assert load_settings(_secrets_dir=tmp_path).redis_url == "redis://here:6379/0"


@pytest.mark.parametrize(("program", "name"), [("api", "gateway"), ("worker", "worker")])
def test_a_process_reports_why_it_does_not_start(program: str, name: str) -> None:
    """In one line, with status 1, and before anything heavy is loaded."""
    environment = {**os.environ, "OTOSCOPE_MODELS": "mine"}
    ended = subprocess.run(
        [PYTHON, "-m", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"otoscope {name}: ")
    assert "OTOSCOPE_DEFAULT_MODEL" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_worker_has_one_server() -> None:
    """A worker whose setting names several does not start; the message is what to change."""
    environment = {**os.environ, "OTOSCOPE_REDIS_URL": "redis://:secret@a redis://:secret@b"}
    ended = subprocess.run(
        [PYTHON, "-m", "worker"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "otoscope worker: OTOSCOPE_REDIS_URL names 2 servers, and a worker takes the jobs of one: set it to one of them"
        " for this worker\n"
    )


def test_a_misspelt_setting_is_reported() -> None:
    """With the closest setting; variables of other programs and of the command line are ignored."""
    sentences = unknown_variables(["OTOSCOPE_BATCHSIZE", "OTOSCOPE_BATCH_SIZE", "OTOSCOPE_URL", "HOME", "OTOSCOPE_ZZZ"])
    assert sentences == [
        "OTOSCOPE_BATCHSIZE is not a setting; did you mean OTOSCOPE_BATCH_SIZE?",
        "OTOSCOPE_ZZZ is not a setting",
    ]


def test_variables_of_compose_are_known() -> None:
    """Every variable that docker-compose.yml and the files in compose/ read is documented and vice versa, with the same
    default."""
    text = "".join(file.read_text() for file in (ROOT / "docker-compose.yml", *(ROOT / "compose").glob("*.yml")))
    taken = dict(re.findall(r"\$\{(OTOSCOPE_\w+):-([^}]*)\}", text))
    services = {f"OTOSCOPE_{name.upper()}" for name in Settings.model_fields}
    assert {name: default for name, default in taken.items() if name not in services} == {
        name: default for name, (default, _) in COMPOSE_VARIABLES.items()
    }
    assert unknown_variables(taken) == []


def test_every_setting_is_documented() -> None:
    """By its effect, and docs/settings.md and .env.example are up to date."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
    assert (ROOT / "docs" / "settings.md").read_text() == markdown(), (
        "otoscope settings --form markdown > docs/settings.md"
    )
    assert (ROOT / ".env.example").read_text() == env_example(), "otoscope settings --form env > .env.example"


def test_the_command_shows_the_settings_and_no_password(tmp_path: Path) -> None:
    """Each with its value and effect."""
    environment = {
        **os.environ,
        "OTOSCOPE_REDIS_URL": "rediss://oto:hunter2@queue:6380/1",
        "OTOSCOPE_BATCH_SIZE": "12",
        "OTOSCOPE_BATCHSIZE": "13",
        "COLUMNS": "160",
        "PYTHONPATH": str(ROOT),
    }
    ended = subprocess.run(
        [PYTHON, "-m", "otoscope", "settings"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 0, ended.stderr
    assert "rediss://oto:***@queue:6380/1" in ended.stdout
    assert re.search(r"OTOSCOPE_BATCH_SIZE +12 ", ended.stdout)
    assert "OTOSCOPE_BATCHSIZE is not a setting" in ended.stdout
    assert "hunter2" not in ended.stdout
