"""Every setting as text: what it is here, what it does, docs/settings.md and .env.example."""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

from pydantic.fields import FieldInfo

from shared.config.settings import CLI_VARIABLES, COMPOSE_VARIABLES, SECRETS, Settings, load_settings

_PARTS = {"redis_url": "Both sides", "host": "Gateway", "models_dir": "Worker"}
"""What the settings from that one on belong to."""


def here() -> Iterator[tuple[str, str, str, bool, str]]:
    """Part, variable, value, whether it is set here, and effect of each. Raises ConfigurationError."""
    found = load_settings()
    for part, name, field in _every():
        yield part, variable(name), shown(name, getattr(found, name)), name in found.model_fields_set, effect(field)


def variable(name: str) -> str:
    return f"OTOSCOPE_{name.upper()}"


def effect(field: FieldInfo) -> str:
    """What a setting does, in one paragraph."""
    return " ".join((field.description or "").split())


def written(name: str, field: FieldInfo) -> str:
    """As one would write it; nothing where there is none."""
    if name == "decode_processes":
        return "cores, at most 4"
    value = field.default
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def markdown() -> str:
    """docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Environment variables, read once at start; `otoscope settings` shows what they are on a machine. A file of",
        f"the same name in lower case in `{SECRETS}` (`{SECRETS}/otoscope_redis_url`) does as well, for what should be",
        "in no environment; a variable wins over a file. What contradicts itself is refused at start with the reason,",
        "and a variable with this prefix that nothing reads is pointed out.",
    ]
    for part, fields in _by_part().items():
        lines += ["", f"## {part}", "", "| variable | default | what it does |", "|---|---|---|"]
        lines += [
            f"| `{variable(name)}` | {_code(written(name, field))} | {effect(field).replace('|', chr(92) + '|')} |"
            for name, field in fields
        ]
    lines += ["", "## docker compose", ""]
    lines += [
        "`OTOSCOPE_HOST` and `OTOSCOPE_PORT` are where the host listens, `OTOSCOPE_MODELS_DIR` is a folder of its",
        "own, `OTOSCOPE_REDIS_URL` is read where [compose/managed-redis.yml](deployment.md#a-redis-elsewhere) is.",
    ]
    lines += ["", "| variable | default | what it does |", "|---|---|---|"]
    lines += [f"| `{name}` | `{default}` | {told} |" for name, (default, told) in COMPOSE_VARIABLES.items()]
    lines += ["", "## Command line and client", "", "| variable | what it does |", "|---|---|"]
    lines += [f"| `{name}` | {told} |" for name, told in CLI_VARIABLES.items()]
    lines += ["", "<!-- otoscope settings --form markdown > docs/settings.md -->", ""]
    return "\n".join(lines)


def env_example() -> str:
    """.env.example: every setting, commented out, at its default."""
    lines = [
        "# Every setting at its default. Copy to .env beside docker-compose.yml and take off the # where you differ.",
        *("", "# ---- docker compose ----", "", "# cpu: without a GPU.", "#COMPOSE_PROFILES=gpu"),
        *("", "# docker-compose.yml:compose/managed-redis.yml has OTOSCOPE_REDIS_URL read, which else it is not."),
        "#COMPOSE_FILE=docker-compose.yml",
    ]
    for name, (usual, told) in COMPOSE_VARIABLES.items():
        lines += ["", *(f"# {line}" for line in wrap(told, 110)), f"#{name}={usual}"]
    for part, fields in _by_part().items():
        lines += ["", f"# ---- {part} ----"]
        for name, field in fields:
            lines += [
                "",
                *(f"# {line}" for line in wrap(effect(field), 110)),
                f"#{variable(name)}={_plain(name, field)}",
            ]
    return "\n".join([*lines, ""])


def _every() -> Iterator[tuple[str, str, FieldInfo]]:
    """Part, name and field of every setting, in order."""
    part = ""
    for name, field in Settings.model_fields.items():
        part = _PARTS.get(name, part)
        yield part, name, field


def _by_part() -> dict[str, list[tuple[str, FieldInfo]]]:
    parts: dict[str, list[tuple[str, FieldInfo]]] = {}
    for part, name, field in _every():
        parts.setdefault(part, []).append((name, field))
    return parts


def _plain(name: str, field: FieldInfo) -> str:
    if isinstance(field.default, Path):
        return f"./{field.default}"  # to Compose a bare word is a volume
    return "" if field.default_factory else written(name, field)


def _code(text: str) -> str:
    return f"`{text}`" if text and " " not in text else text


def shown(name: str, value: Any) -> str:
    """A value as a person may see it: an address may hold a password."""
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    if name != "redis_url":
        return text
    return re.sub(r"(sentinel_password=)[^&]*", r"\1***", re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", text))
