"""Commands for data sets: `otoscope data import`, `split`, `prepare`, `report`, `preview`, `export`, `reset` and
`fetch-esc50`.

Modules that need numpy or torch are imported inside the commands.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import Changes, RecipeName, StartName, load_data, recipe_and_start
from otoscope.cli import INTERRUPTED

if TYPE_CHECKING:
    from training.data.custom.ingest import ImportResult

data = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Custom data sets: import recordings, split them, report on them.",
)

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="A folder made by `otoscope data import`.")]

AnyDataset = Annotated[Path, typer.Argument(metavar="DATASET", help="A custom data set, or a folder like ESC-50.")]

_MAX_LISTED = 10  # messages of a kind


@data.command("import")
def import_sounds(
    src: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder or .zip of class folders, or of sounds and metadata.csv; a .csv or .txt of files or links"
            " with their labels; or the link of a public Google Drive folder.",
        ),
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="DATASET", help="Created if it does not exist, otherwise added to.")
    ],
    copy: Annotated[bool, typer.Option("--copy", help="Copy the files instead of referring to them.")] = False,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="A regular expression with one group that finds recording or speaker in a file name.",
        ),
    ] = None,
) -> None:
    """Import sounds into a data set; run it again to add new ones."""
    from training.data.custom.drive import import_drive, is_drive_folder
    from training.data.custom.folders import import_folder, import_zip
    from training.data.custom.importers import import_csv

    try:
        if is_drive_folder(src):
            result = import_drive(src, to, group=group)
        elif "://" in src:
            raise typer.BadParameter(
                "a link needs a class: list links and classes in a .csv file, one a line", param_hint="SRC"
            )
        elif Path(src).suffix.lower() == ".zip":
            result = import_zip(Path(src), to, group=group)
        elif Path(src).suffix.lower() in (".csv", ".txt"):
            result = import_csv(Path(src), to, group=group, copy=copy)
        else:
            result = import_folder(Path(src), to, group=group, copy=copy)
    except KeyboardInterrupt:
        print("\nStopped: the same command imports the rest.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    _report_import(to, result)


@data.command()
def split(
    dataset: DatasetFolder,
    val: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Share of the validation set; by default 0.15, or none if a class has two sources only.",
        ),
    ] = None,
    test: Annotated[float, typer.Option(min=0.01, max=1, metavar="SHARE", help="Share of the test set.")] = 0.15,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same split.")] = 1,
) -> None:
    """Split a data set into train, val and test. Every recording is in one of them only."""
    from training.data.custom.split import SUBSETS, write_split

    record = write_split(dataset, val=val, test=test, seed=seed)
    width = max(len("class"), *map(len, record.counts))
    print(f"{'class':{width}}" + "".join(f"{part:>8}" for part in SUBSETS))
    for label, counts in record.counts.items():
        print(f"{label:{width}}" + "".join(f"{counts[part]:>8}" for part in SUBSETS))
    print(f"{'sources':{width}}" + "".join(f"{len(record.sources[part]):>8}" for part in SUBSETS))
    if val is None and not record.shares["val"]:
        print("No val set: a class has two sources only, one to learn from and one to measure on")
    _list(
        "One source only, such as one machine or speaker, so that the accuracy of the class says little",
        [f"{label}: {', '.join(parts)}" for label, parts in record.single.items()],
    )
    _list("Re-encoded copies, on the same side as their originals", record.copies)
    _list("Missing files, which are skipped", record.missing)
    print(f"Split with seed {seed}: {dataset / 'split'}")
    print(f"Next: otoscope train --data {shlex.quote(str(dataset))}")


@data.command()
def prepare(
    dataset: DatasetFolder,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="A bundled recipe or a YAML file; sets sample rate, window, overlap and silence."
        ),
    ] = "esc50-best",
    changes: Changes = None,
    start: StartName = None,
    whole: Annotated[bool, typer.Option("--whole", help="One segment per recording, of any length.")] = False,
) -> None:
    """Decode a data set and cut it into segments. `train` with the same options then finds them in the cache."""
    from training.data.custom.prepare import prepare_segments, read_cache_info

    chosen, _ = recipe_and_start(recipe, changes, start)
    frontend, segments = chosen.frontend, chosen.segments
    cache = prepare_segments(
        dataset, rate=frontend.sample_rate, window_seconds=None if whole else frontend.window_seconds,
        overlap=segments.overlap, silence_db=segments.silence_dbfs,
    )  # fmt: skip
    info = read_cache_info(cache)
    length = "of any length" if whole else f"of {frontend.window_seconds:g} s"
    print(f"{info.segments:,} segments {length} at {frontend.sample_rate:,} Hz from {info.files:,} files: {cache}")
    if info.left_out:
        print(f"Left out, by class: {', '.join(map(str, info.left_out))}")
    _list("Skipped", info.skipped)


@data.command()
def report(
    dataset: DatasetFolder,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="DATASET/report by default.")] = None,
) -> None:
    """Report statistics of a data set: JSON, a page, spectrograms."""
    from training.data.custom.report import write_dataset_report

    print(write_dataset_report(dataset, out or dataset / "report"))


@data.command()
def preview(
    dataset: AnyDataset,
    recipe: RecipeName = "own-sounds",
    changes: Changes = None,
    start: StartName = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture.")] = Path("preview.png"),
) -> None:
    """Show one augmented batch, as the network receives it. Its shapes, and a picture."""
    from training.preview import preview_batch

    chosen, model = recipe_and_start(recipe, changes, start)
    loaded = load_data(dataset, chosen.frontend, chosen.segments)
    shapes = preview_batch(chosen, loaded, loaded.default_fold, out, pretrained=model)
    print(", ".join(f"{name} {shape}" for name, shape in shapes.items()))
    print(f"Augmented log-mels of the first windows: {out}")


@data.command()
def export(
    dataset: AnyDataset,
    npz: Annotated[Path, typer.Option("--npz", metavar="FILE", help="The file to write.")],
    recipe: RecipeName = "own-sounds",
    changes: Changes = None,
    start: StartName = None,
) -> None:
    """Write the log-mels of a data set as arrays. x, y and file names of each part of the split, for other programs."""
    from training.data.spectrograms_npz import export_spectrograms

    chosen, _ = recipe_and_start(recipe, changes, start)
    shapes = export_spectrograms(load_data(dataset, chosen.frontend, chosen.segments), chosen.frontend, npz)
    print(", ".join(f"{name} {shape}" for name, shape in shapes.items()))
    print(f"{npz}: {npz.stat().st_size / 2**20:,.1f} MiB, log-mels in dB, without normalisation")


@data.command()
def reset(dataset: DatasetFolder) -> None:
    """Remove derived files of a data set. Its sounds and its manifest stay."""
    from training.data.custom.reset import reset as run

    removed = run(dataset)
    print(f"Removed {', '.join(map(str, removed))}" if removed else "Nothing to remove")


@data.command("fetch-esc50")
def fetch_esc50(
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="~/.cache/otoscope by default.")] = None,
) -> None:
    """Download ESC-50 (about 600 MB, CC BY-NC) into the cache."""
    from training.data.download import fetch_esc50 as fetch

    print(fetch(cache))


def _report_import(dataset: Path, result: "ImportResult") -> None:
    from collections import Counter

    from training.data.custom.ingest import describe_accepted
    from training.data.custom.manifest import read_manifest

    items, quoted = read_manifest(dataset, missing_ok=True), shlex.quote(str(dataset))
    sounds, counts = len(items), Counter(label for item in items for label in item.labels)
    added = f"{result.added:,} sound{'s' * (result.added != 1)} added"
    print(f"{added}, {result.unchanged:,} already imported; {dataset} now has {sounds:,}:")
    print(", ".join(f"{label} {count:,}" for label, count in sorted(counts.items())))
    _list("Duplicates, kept once", result.duplicates)
    if result.split:
        sizes = ", ".join(
            f"{part} {sum(counts[part] for counts in result.split.counts.values()):,}" for part in result.split.shares
        )
        print(f"Split as the folders are: {sizes}; `otoscope data split {quoted}` makes another one")
        _list("Re-encoded copies on two sides of it", result.split.copies)
    _list("One sound under two labels; remove the wrong file and import again", result.conflicts)
    _list(f"Skipped ({describe_accepted()})" if result.foreign else "Skipped", result.skipped)
    if len(counts) == 1:
        print("This is one class; training needs at least two.")
    else:
        print(f"Next: otoscope {f'train --data {quoted}' if result.split else f'data split {quoted}'}")


def _list(title: str, messages: list[str]) -> None:
    if messages:
        print(f"{title}: {len(messages):,}")
    for message in messages[:_MAX_LISTED]:
        print(f"  {message}")
    if len(messages) > _MAX_LISTED:
        print(f"  and {len(messages) - _MAX_LISTED:,} more")
