"""A network of timm's under ours: what it shows of its inside, and to whom."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from worker.model.activations import ActivationRecorder
from worker.model.architectures.timm_backbone import TimmConfig, TimmNetwork


@pytest.fixture(scope="module")
def pictures() -> TimmNetwork:
    torch.manual_seed(0)
    return TimmNetwork(TimmConfig(classes=3, backbone="tf_efficientnet_lite0")).eval()


def look(pictures: TimmNetwork, x: torch.Tensor, tap: ActivationRecorder | None) -> None:
    with torch.no_grad():
        pictures(x, tap)


@pytest.mark.parametrize("other_looks", [True, False])
def test_threads_see_their_own_sounds(pictures: TimmNetwork, other_looks: bool) -> None:
    """A worker runs a batch on each core at a time: nothing of one may be shown in the other."""
    mine, others = torch.randn(2, 1, 64, 80), torch.randn(5, 1, 64, 80)
    alone = ActivationRecorder(pictures, maps=[0, 1], embedding=[], cam=[])
    look(pictures, mine, alone)
    together = Barrier(2)

    def disturb() -> None:
        for _ in range(20):
            together.wait(30)
            look(
                pictures, others, ActivationRecorder(pictures, maps=[0], embedding=[], cam=[]) if other_looks else None
            )

    with ThreadPoolExecutor(1) as pool:
        disturbing = pool.submit(disturb)
        for _ in range(20):
            tap = ActivationRecorder(pictures, maps=[0, 1], embedding=[], cam=[])
            together.wait(30)
            look(pictures, mine, tap)
            assert list(tap.maps) == list(alone.maps)
            for layer, seen in tap.maps.items():
                torch.testing.assert_close(seen, alone.maps[layer], msg=f"{layer} shows another sound")
        disturbing.result()
