"""What records a run: TensorBoard, MLflow and Weights & Biases with their real packages, offline; one of one's own."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from struct import unpack_from
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.tiny_recipe import changed
from tests.training.test_train import at_step, send_sigint
from training.data.esc50 import load_esc50
from training.errors import RecipeError, RunError
from training.fit.loop import train
from training.fit.parts import add_part
from training.fit.trackers import Ending, TrackedRun
from training.recipe import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the packages


class Recorded:
    """A tracker of one's own."""

    def __init__(self, run: TrackedRun) -> None:
        self.run, self.epochs, self.images, self.endings = run, list[int](), list[tuple[str, int]](), list[Ending]()

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        assert {"loss", "accuracy", "lr"} <= metrics.keys()
        self.epochs.append(epoch)

    def log_image(self, name: str, epoch: int, image: NDArray[np.uint8]) -> None:
        assert image.ndim == 3
        assert image.shape[2] == 3
        self.images.append((name, epoch))

    def close(self, ending: Ending) -> None:
        self.endings.append(ending)


def test_tracker_of_ones_own(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """It receives the values of the recipe, every epoch, the pictures, and how the run ended; unknown names are errors
    before anything is decoded."""
    made: list[Recorded] = []

    def recorded(run: TrackedRun) -> Recorded:
        made.append(Recorded(run))
        return made[-1]

    assert add_part("trackers", recorded) == "recorded"
    dataset, recipe = load_esc50(data), changed(recipe, epochs=2, holdout=0.25)
    train(recipe, dataset, 3, tmp_path / "run", trackers=("recorded",))
    (own,) = made
    assert own.run.values["optim.epochs"] == 2
    assert own.epochs == [1, 2]
    assert own.images == [("input", 1), ("input", 2), ("confusion", 2)]
    assert own.endings == ["finished"]
    assert not (tmp_path / "run" / "tensorboard").exists()

    def broken(epoch: int, metrics: Mapping[str, float]) -> None:
        raise RunError("no more")

    with pytest.raises(RunError, match="no more"):
        train(recipe, dataset, 3, tmp_path / "broken", trackers=("recorded",), on_epoch=broken)
    assert made[-1].endings == ["failed"]
    with pytest.raises(RecipeError, match=r"no 'nothing' among the trackers; there are: mlflow, .*tensorboard, wandb"):
        train(recipe, dataset, 3, tmp_path / "unknown", trackers=("nothing",))
    assert not (tmp_path / "unknown").exists()


def interrupted_and_resumed(data: Path, recipe: Recipe, out: Path, tracker: str) -> None:
    """A run of four epochs, which SIGINT stops in the third one."""
    dataset, recipe = load_esc50(data), changed(recipe, epochs=4, holdout=0.25)
    with pytest.MonkeyPatch.context() as patch:
        at_step(6, patch, send_sigint)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, dataset, 3, out, trackers=(tracker,))
    train(recipe, dataset, 3, out, trackers=(tracker,), resume=True)


def test_mlflow(data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of MLflow with the parameters, the metrics of every epoch and the pictures, also where it is resumed."""
    mlflow: Any = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    interrupted_and_resumed(data, recipe, tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert found.info.run_id == json.loads((tmp_path / "run" / "trackers.json").read_text())["mlflow"]
    assert found.info.status == "FINISHED"
    assert found.data.params["optim.epochs"] == "4"
    for metric in ("loss", "val_accuracy"):
        assert [point.step for point in client.get_metric_history(found.info.run_id, metric)] == [1, 2, 3, 4]
    images = {re.split(r"[%+]", Path(each.path).name)[0] for each in client.list_artifacts(found.info.run_id, "images")}
    assert images == {"input", "confusion"}


def log_records(log: bytes) -> Iterator[bytes]:
    """The records of a file of Weights & Biases: LevelDB's log format (checksum, length, and whether the record is
    whole, begins, continues or ends here; blocks of 32 KiB) behind a header of 7 bytes."""
    whole, begins, ends, block, header = 1, 2, 4, 32_768, 7
    at, record = header, b""
    while at + header <= len(log):
        if block - at % block < header:
            at += block - at % block
            continue
        size, kind = unpack_from("<HB", log, at + 4)
        if at + header + size > len(log):
            return  # not written to its end yet
        at += header
        record = (b"" if kind in (whole, begins) else record) + log[at : at + size]
        at += size
        if kind in (whole, ends):
            yield record


def written_records(log: Path) -> list[Any]:
    """The records of a run that has ended; the process of Weights & Biases may write the last ones a little later."""
    from wandb.proto.wandb_internal_pb2 import Record

    deadline = time.monotonic() + 20
    while True:
        records = [Record.FromString(raw) for raw in log_records(log.read_bytes())]
        if (records and records[-1].WhichOneof("record_type") == "exit") or time.monotonic() > deadline:
            return records
        time.sleep(0.2)


def test_weights_and_biases(data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: what `wandb sync` would send has the values, the metrics of every epoch and the pictures; both parts of
    a resumed run have one id."""
    pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "DISABLE_GIT": "true", "DISABLE_CODE": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    interrupted_and_resumed(data, recipe, tmp_path / "run", "wandb")
    parts = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    steps: list[int] = []
    ids, keys = set(), set()
    for part in parts:
        for record in written_records(part):
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
                assert "optim.max_lr" in str(record.run.config)
            if record.WhichOneof("record_type") == "history":
                items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
                keys |= items.keys()
                steps += [int(items["_step"])] if "loss" in items else []
    assert len(parts) == 2
    assert ids == {json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"]}
    assert steps == [1, 2, 3, 4]
    assert {"loss", "accuracy", "lr", "val_loss", "val_accuracy", "input", "confusion"} <= keys
    assert list((tmp_path / "run" / "wandb").glob("**/media/images/*.png"))
