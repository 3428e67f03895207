"""The commands of `otoscope` that need the application. pyproject.toml declares them as entry points."""

COMMANDS = {
    "up": "commands.up:up",
    "train": "commands.train:train",
    "evaluate": "commands.evaluate:evaluate",
    "lr-find": "commands.train:lr_find",
    "overfit": "commands.train:overfit",
    "quantise": "commands.evaluate:quantise",
    "export": "commands.evaluate:export",
    "runs": "commands.runs:runs",
    "tune": "commands.tune:tune",
    "models add": "commands.models:add",
    "models average": "commands.models:average",
    "models join": "commands.models:join",
    "models push": "commands.models:push",
    "models pull": "commands.models:pull",
    "data": "commands.data:data",
    "keys": "commands.keys:keys",
    "settings": "commands.settings:settings",
}
"""Command to module and attribute: the same as in pyproject.toml, for a source tree that is not installed."""
