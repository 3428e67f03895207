"""A timm network behind our interface: its activations, and their separation between threads."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from worker.model.activations import ActivationRecorder
from worker.model.architectures.timm_backbone import TimmConfig, TimmNetwork


@pytest.fixture(scope="module")
def network() -> TimmNetwork:
    torch.manual_seed(0)
    return TimmNetwork(TimmConfig(classes=3, backbone="tf_efficientnet_lite0")).eval()


def run(network: TimmNetwork, x: torch.Tensor, recorder: ActivationRecorder | None) -> None:
    with torch.no_grad():
        network(x, recorder)


@pytest.mark.slow
@pytest.mark.parametrize("other_records", [True, False])
def test_threads_record_their_own_activations(network: TimmNetwork, other_records: bool) -> None:
    """A worker runs one batch per core at a time: no activation of one may appear in another."""
    mine, others = torch.randn(2, 1, 64, 80), torch.randn(5, 1, 64, 80)
    alone = ActivationRecorder(network, maps=[0, 1], embedding=[], cam=[])
    run(network, mine, alone)
    together = Barrier(2)

    def disturb() -> None:
        for _ in range(20):
            together.wait(30)
            recorder = ActivationRecorder(network, maps=[0], embedding=[], cam=[]) if other_records else None
            run(network, others, recorder)

    with ThreadPoolExecutor(1) as pool:
        disturbing = pool.submit(disturb)
        for _ in range(20):
            recorder = ActivationRecorder(network, maps=[0, 1], embedding=[], cam=[])
            together.wait(30)
            run(network, mine, recorder)
            assert list(recorder.maps) == list(alone.maps)
            for layer, values in recorder.maps.items():
                torch.testing.assert_close(values, alone.maps[layer], msg=f"{layer} is of another sound")
        disturbing.result()
