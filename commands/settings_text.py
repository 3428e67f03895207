"""Every setting as text: its current value, its effect, docs/settings.md and .env.example."""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

from pydantic.fields import FieldInfo

from shared.config.settings import CLI_VARIABLES, COMPOSE_VARIABLES, SECRETS, Settings, load_settings

_SECTIONS = {"redis_url": "Both sides", "host": "Gateway", "models_dir": "Worker"}
"""The first setting of each section, and the section's title."""


def current() -> Iterator[tuple[str, str, str, bool, str]]:
    """Section, variable, value, whether it is set here, and effect of each setting. Raises ConfigurationError."""
    found = load_settings()
    for section, name, field in _all_settings():
        yield section, variable(name), masked(name, getattr(found, name)), name in found.model_fields_set, effect(field)


def variable(name: str) -> str:
    return f"OTOSCOPE_{name.upper()}"


def effect(field: FieldInfo) -> str:
    """The description of a setting in one paragraph."""
    return " ".join((field.description or "").split())


def default_text(name: str, field: FieldInfo) -> str:
    """The default as it is written in a file; empty without a default."""
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
        "Environment variables, read once at start; `otoscope settings` shows their values on a machine. A secret can",
        f"be a file instead, with the same name in lower case in `{SECRETS}` (`{SECRETS}/otoscope_redis_url`); a",
        "variable takes precedence over a file. Settings that contradict each other are refused at start with the",
        "reason, and an unknown variable with this prefix is reported.",
    ]
    for section, fields in _by_section().items():
        lines += ["", f"## {section}", "", "| variable | default | what it does |", "|---|---|---|"]
        lines += [
            f"| `{variable(name)}` | {_code(default_text(name, field))} | {effect(field).replace('|', chr(92) + '|')} |"
            for name, field in fields
        ]
    lines += ["", "## docker compose", ""]
    lines += [
        "`OTOSCOPE_HOST` and `OTOSCOPE_PORT` are the address on the host, `OTOSCOPE_MODELS_DIR` is a folder of the",
        "host, `OTOSCOPE_REDIS_URL` is read with [compose/managed-redis.yml](deployment.md#a-redis-elsewhere) only.",
    ]
    lines += ["", "| variable | default | what it does |", "|---|---|---|"]
    lines += [f"| `{name}` | `{default}` | {effect_} |" for name, (default, effect_) in COMPOSE_VARIABLES.items()]
    lines += ["", "## Command line and client", "", "| variable | what it does |", "|---|---|"]
    lines += [f"| `{name}` | {effect_} |" for name, effect_ in CLI_VARIABLES.items()]
    lines += ["", "<!-- otoscope settings --form markdown > docs/settings.md -->", ""]
    return "\n".join(lines)


def env_example() -> str:
    """.env.example: every setting, commented out, at its default."""
    lines = [
        "# Every setting at its default. Copy to .env beside docker-compose.yml and uncomment what you change.",
        *("", "# ---- docker compose ----", "", "# cpu: without a GPU.", "#COMPOSE_PROFILES=gpu"),
        *("", "# OTOSCOPE_REDIS_URL is read with docker-compose.yml:compose/managed-redis.yml only."),
        "#COMPOSE_FILE=docker-compose.yml",
    ]
    for name, (default, effect_) in COMPOSE_VARIABLES.items():
        lines += ["", *(f"# {line}" for line in wrap(effect_, 110)), f"#{name}={default}"]
    for section, fields in _by_section().items():
        lines += ["", f"# ---- {section} ----"]
        for name, field in fields:
            lines += [
                "",
                *(f"# {line}" for line in wrap(effect(field), 110)),
                f"#{variable(name)}={_plain(name, field)}",
            ]
    return "\n".join([*lines, ""])


def _all_settings() -> Iterator[tuple[str, str, FieldInfo]]:
    """Section, name and field of every setting, in order."""
    section = ""
    for name, field in Settings.model_fields.items():
        section = _SECTIONS.get(name, section)
        yield section, name, field


def _by_section() -> dict[str, list[tuple[str, FieldInfo]]]:
    sections: dict[str, list[tuple[str, FieldInfo]]] = {}
    for section, name, field in _all_settings():
        sections.setdefault(section, []).append((name, field))
    return sections


def _plain(name: str, field: FieldInfo) -> str:
    if isinstance(field.default, Path):
        return f"./{field.default}"  # to Compose a bare word is the name of a volume
    return "" if field.default_factory else default_text(name, field)


def _code(text: str) -> str:
    return f"`{text}`" if text and " " not in text else text


def masked(name: str, value: Any) -> str:
    """A value as text, without the passwords that an address may contain."""
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    if name != "redis_url":
        return text
    return re.sub(r"(sentinel_password=)[^&\s]*", r"\1***", re.sub(r"(?<=://)([^:/@]*):\S*@", r"\1:***@", text))
