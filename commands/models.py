"""`otoscope models add`: the network of another project as a model directory; `otoscope models average`: a model soup.

Modules that need torch are imported inside the command.
"""

from pathlib import Path
from typing import Annotated

import typer


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="yamnet")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE|package",
            help="A file of its weights, or `package`: the one in an installed Python package (extra `audioset`)."
            " By default it is downloaded, and where that fails read from the package.",
        ),
    ] = None,
    into: Annotated[Path, typer.Option(metavar="DIR", help="The directory of the models.")] = Path("models"),
) -> None:
    """Convert the weights of another project to a model directory, and compare its scores with the original's."""
    from training.base_models.add import add as run
    from training.base_models.add import find_source
    from training.base_models.registry import base_model

    model = base_model(name)
    added = run(model, find_source(model, source), into)
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
    """Write a model with the mean of the weights of several fine-tunings of one pretrained model."""
    from training.fit.model_soup import average_models

    config = average_models(models, out)
    print(f"{config.name}: the mean of {len(models)} models, in {out}")
    print(f"Fit its answers and measure it: otoscope evaluate {out} --fit-answers --record")
