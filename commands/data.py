"""The commands on recordings of one's own: `otoscope data import`, `split`, `prepare`, `report`, `reset`, and
`fetch-esc50`.

What needs numpy or torch is imported inside the commands.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.data.custom.ingest import ImportResult

data = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Recordings of one's own: bring them, part them, look at them.",
)

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="A folder made by `otoscope data import`.")]

_SHOWN = 10  # sentences of a kind


@data.command("import")
def bring(
    src: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder of class folders, a .csv or .txt of files or links with their labels, or the link of a"
            " public Google Drive folder.",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DATASET", help="Made if it is not there, else added to.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy the files instead of referring to them.")] = False,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="What in a file's name tells the recording or speaker: a regular expression with one group.",
        ),
    ] = None,
) -> None:
    """Bring sounds into a collection; again, to add what is new."""
    from training.data.custom.drive import import_drive, is_drive_folder
    from training.data.custom.importers import import_csv, import_folder

    if is_drive_folder(src):
        result = import_drive(src, to, group=group)
    elif "://" in src:
        raise typer.BadParameter("a link needs a class: write both into a .csv, one line each", param_hint="SRC")
    elif Path(src).suffix.lower() in (".csv", ".txt"):
        result = import_csv(Path(src), to, group=group, copy=copy)
    else:
        result = import_folder(Path(src), to, group=group, copy=copy)
    _tell(to, result)


@data.command()
def split(
    dataset: DatasetFolder,
    val: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE", help="To choose a model by.")] = 0.15,
    test: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE", help="To measure it on.")] = 0.15,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same split.")] = 1,
) -> None:
    """Split a data set into train, val and test, with every recording in one of them only."""
    from training.data.custom.split import SUBSETS, write_split

    record = write_split(dataset, val=val, test=test, seed=seed)
    wide = max(len("class"), *map(len, record.counts))
    print(f"{'class':{wide}}" + "".join(f"{part:>8}" for part in SUBSETS))
    for label, counts in record.counts.items():
        print(f"{label:{wide}}" + "".join(f"{counts[part]:>8}" for part in SUBSETS))
    print(f"{'sources':{wide}}" + "".join(f"{len(record.sources[part]):>8}" for part in SUBSETS))
    print(f"Split with seed {seed}: {dataset / 'split'}")


@data.command()
def prepare(
    dataset: DatasetFolder,
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="Whose rate and window: a bundled recipe, or a YAML file.")
    ] = "esc50-best",
    whole: Annotated[bool, typer.Option("--whole", help="One segment per recording, however long.")] = False,
    overlap: Annotated[float, typer.Option(min=0, max=0.99, metavar="SHARE", help="Of neighbouring windows.")] = 0.0,
    silence_db: Annotated[float, typer.Option(metavar="DBFS", help="What is never louder is left out.")] = -60.0,
) -> None:
    """Decode a data set and cut it into segments, once."""
    from training.data.custom.prepare import prepare_segments, read_cache_info
    from training.recipe import load_recipe

    frontend = load_recipe(recipe).frontend
    cache = prepare_segments(
        dataset, rate=frontend.sample_rate, window_seconds=None if whole else frontend.window_seconds,
        overlap=overlap, silence_db=silence_db,
    )  # fmt: skip
    done = read_cache_info(cache)
    what = "whole" if whole else f"of {frontend.window_seconds:g} s"
    print(f"{done.segments:,} segments {what} at {frontend.sample_rate:,} Hz from {done.files:,} files: {cache}")
    if done.silent:
        print(f"{done.silent:,} silent segments left out")
    _list("Skipped", done.skipped)


@data.command()
def report(
    dataset: DatasetFolder,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="DATASET/report by default.")] = None,
) -> None:
    """Report statistics of a data set: JSON, a page, spectrograms."""
    from training.data.custom.report import write_dataset_report

    print(write_dataset_report(dataset, out or dataset / "report"))


@data.command()
def reset(dataset: DatasetFolder) -> None:
    """Remove what was made from a collection; its sounds and their table stay."""
    from training.data.custom.reset import reset as run

    removed = run(dataset)
    print(f"Removed {', '.join(map(str, removed))}" if removed else "There was nothing to remove")


@data.command("fetch-esc50")
def fetch_esc50(
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="~/.cache/otoscope by default.")] = None,
) -> None:
    """Download ESC-50 (about 600 MB, CC BY-NC) into the cache."""
    from training.data.download import fetch_esc50 as fetch

    print(fetch(cache))


def _tell(dataset: Path, result: "ImportResult") -> None:
    from collections import Counter

    from training.data.custom.manifest import read_manifest

    counts = Counter(item.label for item in read_manifest(dataset, missing_ok=True))
    added = f"{result.added:,} sound{'s' * (result.added != 1)} added"
    print(f"{added}, {result.unchanged:,} were there; {dataset} now has {counts.total():,}:")
    print(", ".join(f"{label} {count:,}" for label, count in sorted(counts.items())))
    if len(counts) == 1:
        print("That is one class; training needs two or more.")
    _list("Kept once", result.duplicates)
    _list("Skipped", result.skipped)


def _list(title: str, sentences: list[str]) -> None:
    if sentences:
        print(f"{title}: {len(sentences):,}")
    for sentence in sentences[:_SHOWN]:
        print(f"  {sentence}")
    if len(sentences) > _SHOWN:
        print(f"  and {len(sentences) - _SHOWN:,} more")
