"""`otoscope models add`: the network of another project as a model directory; `average`: a model soup; `join`: networks
side by side; `push` and `pull`: a model directory to and from the Hugging Face Hub.

Modules that need torch are imported inside the command.
"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from shared.config.models_dir import models_dir


def add(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="yamnet, panns-cnn14-16k, panns-cnn14, panns-mobilenetv2, mn10_as or aisfx."
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE|DIR|package",
            help="A file of its weights, the folder of a TensorFlow SavedModel (yamnet), or `package`: the file in an"
            " installed Python package (extra `audioset`). By default it is downloaded, and where that fails read from"
            " the package.",
        ),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where its directory is created: models; runs if it is not to be served."),
    ] = None,
) -> None:
    """Add a model of another project. Its weights are converted, and its scores compared with the original's."""
    from training.base_models.add import add as run
    from training.base_models.add import find_source
    from training.base_models.registry import base_model

    model = base_model(name)
    added = run(model, find_source(model, source), into or model.folder)
    print(f"{model.title} from {added.source.origin}: {added.directory}")
    if (difference := added.difference) is not None:
        print(
            f"{difference.scores:,} scores differ from its source by {difference.largest_unrounded:.1e} at most"
            f" in floating point; as it is by {difference.largest:.2f}, on average by {difference.mean:.1e}"
        )
    print(f"Licence: {added.config.licence}")


def average(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Fine-tunings of one pretrained model.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The model directory to create.")],
) -> None:
    """Average the weights of several models. They must be fine-tunings of one pretrained model."""
    from training.fit.combine import average_models

    config = average_models(models, out)
    print(f"{config.name}: the mean of {len(models)} models, in {out}")
    print(f"Fit its answers and measure it: otoscope evaluate {shlex.quote(str(out))} --fit-answers --record")


def join(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="With the same classes, rate and window.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The model directory to create.")],
    weights: Annotated[
        list[float] | None,
        typer.Option("--weight", metavar="X", help="Weight of each model, in their order; equal by default."),
    ] = None,
) -> None:
    """Join several models as an ensemble. It has their networks side by side, and the mean of their logits."""
    from training.fit.combine import join_models

    config = join_models(models, out, weights or ())
    print(f"{config.name}: {len(models)} networks side by side, in {out}")
    print(f"Fit its answers and measure it: otoscope evaluate {shlex.quote(str(out))} --fit-answers --record")


def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model directory.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Create it for yourself only.")] = False,
) -> None:
    """Upload a model to the Hugging Face Hub, with a model card."""
    from training.export.hub import push as run

    print(f"{model} is in {run(model, repository, private=private)}")


def pull(
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A repository with a model of Otoscope.")],
    into: Annotated[Path | None, typer.Option(metavar="DIR", help="Where its directory is created: models.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="REVISION", help="A branch, a tag or a commit.")] = None,
) -> None:
    """Download a model from the Hugging Face Hub."""
    from training.export.hub import pull as run

    served = models_dir()
    made = run(repository, into or served, revision=revision)
    print(f"The model is in {made}; `otoscope up` serves what is in {served}")
