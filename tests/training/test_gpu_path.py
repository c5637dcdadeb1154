"""What a step does around the model on a GPU: its optimizer, its copies; on fake devices."""

from typing import Any

import lightning as L
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from fpt_lightning.data.bits import BitXOR
from fpt_lightning.training.optimizer import build_optimizer
from fpt_lightning.training.packs.adam import PackedAdam


class NothingOnTheHost(TorchDispatchMode):
    """Refuses operations that read a tensor of the host, so also every copy to or from it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_iter((args, kwargs, out)):
            assert not (isinstance(value, torch.Tensor) and value.device.type == "cpu"), f"{func} meets the host"
        return out


def _groups(device: str) -> list[dict[str, Any]]:
    parameters = [torch.nn.Parameter(torch.ones(3, 2, device=device)), torch.nn.Parameter(torch.ones(4, device=device))]
    return [{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:], "lr": 0.2}]


def test_a_packs_optimizer_copies_nothing_to_the_device() -> None:
    runs = [_groups("meta") for _ in range(3)]
    adam = PackedAdam(runs)
    with NothingOnTheHost():
        for _ in range(2):
            adam.zero_grad()
            adam.clip(1.0)
            adam.step()
    with pytest.raises(AssertionError, match="meets the host"), NothingOnTheHost():
        torch.ones(2).to("meta")


def test_adam_is_fused_on_a_gpu_alone() -> None:
    with FakeTensorMode():
        (fused,) = {group["fused"] for group in build_optimizer(None, _groups("cuda"), 0.1).param_groups}
        assert fused
    adam = build_optimizer(None, _groups("cpu"), 0.1)
    assert {(group["foreach"], group["fused"]) for group in adam.param_groups} == {(True, None)}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_are_pinned_for_a_gpu_alone(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = BitXOR(batch_size=4)
    data.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(data.trainer.strategy, "_root_device", torch.device(device))
    assert data.train_dataloader().pin_memory == (device == "cuda")
