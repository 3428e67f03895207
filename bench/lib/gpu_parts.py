"""The parts of bench/gpu.py that run in this process: tests, agreement, engine, stack, training.

Each takes the options and a function that writes a row at once, so that what was measured is kept if it is stopped. An
error of one measurement is a row, and the next one follows.
"""

import argparse
from collections.abc import Callable

import pytest

from bench.lib.clips import SHIPPED
from bench.lib.gpu_network import agreement, engine
from bench.lib.gpu_rows import TREE, Write, row_of_error
from bench.lib.gpu_stack import stack
from worker.model.checkpoint import read_config

EPOCH_CLIPS = 1_600  # four folds of ESC-50


def tests(options: argparse.Namespace, write: Write) -> None:
    """The tests that need a CUDA device."""
    files = [path for path in sorted((TREE / "tests").rglob("test_*.py")) if '"cuda"' in path.read_text()]

    class Report:
        @staticmethod
        def pytest_runtest_logreport(report: pytest.TestReport) -> None:
            if report.when == "call" or report.outcome != "passed":
                reason = str(report.longrepr)[-300:] if report.longrepr else ""
                write(test=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 2), reason=reason)

    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    pytest.main([*quiet, "-m", "gpu", *map(str, files)], plugins=[Report()])


def training(options: argparse.Namespace, write: Write) -> None:
    """An epoch of each recipe, from its milliseconds a clip. Without its teacher, logs and checkpoints."""
    from bench import epoch  # here, so that the other parts do not need what a training imports
    from training.recipe import for_fine_tuning, load_recipe

    for path in sorted((TREE / "training" / "recipes").glob("*.yaml")):
        if options.short and path.stem not in ("esc50-light", "small-cnn", "pictures"):
            continue
        with row_of_error(write, recipe=path.stem):
            recipe = load_recipe(path.stem)
            if recipe.start.probe:  # front end and network are those of the model that it starts from
                recipe = for_fine_tuning(recipe, read_config(SHIPPED / "esc50"))
            steps, rounds = (1, 1) if options.short else (10, 2)
            found = epoch.measure(recipe, steps, rounds=rounds, device=options.device)
            columns = ("parameters", "batch", "bare_ms_a_clip", "whole_ms_a_clip", "ratio", "arithmetic")
            seconds = round(found["whole_ms_a_clip"] * EPOCH_CLIPS / 1e3, 1)
            write(recipe=path.stem, epoch_s=seconds, **{name: found[name] for name in columns})


PARTS: dict[str, Callable[[argparse.Namespace, Write], None]] = {
    "tests": tests,
    "agreement": agreement,
    "engine": engine,
    "stack": stack,
    "training": training,
}
