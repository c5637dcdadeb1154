import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from fpt_lightning.models.kernels import linear
from fpt_lightning.models.kernels.linear import Linear, replace_linears

sizes = st.integers(1, 40)


def _pair(layer: nn.Module, *, trained: bool = False) -> tuple[nn.Module, Linear]:
    layer.requires_grad_(trained)
    assert isinstance(layer.weight, nn.Parameter)
    return layer, Linear(layer.weight, layer.bias, transposed=isinstance(layer, Conv1D))  # type: ignore[arg-type]


@pytest.fixture(params=["AVX512", "AVX512 of Intel", "AVX2", "DEFAULT"])
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of every kind of processor, whatever this is: oneDNN multiplies on all."""
    units, _, maker = request.param.partition(" of ")
    monkeypatch.setattr(linear, "WIDE", 20)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: units)
    monkeypatch.setattr(linear, "is_intel", lambda: maker == "Intel")
    return str(request.param)


class _Asked(TorchDispatchMode):
    """The operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@given(
    batch=sizes, length=sizes, width=sizes, out=sizes,
    transposed=st.booleans(), bias=st.booleans(), trained=st.booleans(), first=st.booleans(),
)  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("capability")
def test_it_equals_the_layer_it_replaces(
    batch: int, length: int, width: int, out: int, transposed: bool, bias: bool, trained: bool, first: bool
) -> None:
    torch.manual_seed(0)
    layer, ours = _pair(Conv1D(out, width) if transposed else nn.Linear(width, out, bias=bias), trained=trained)
    x = torch.randn(length, batch, width).transpose(0, 1)  # not contiguous
    weight = torch.randn(batch, length, out)
    found = []
    for module, layout in ((layer, x.contiguous()), (ours, x)):
        entrance = layout.detach().requires_grad_(not (first and trained))
        parameters = [*module.parameters()]
        result = module(entrance)
        wanted = [each for each in (entrance, *parameters) if each.requires_grad]
        found.append([result.detach(), *torch.autograd.grad((result * weight).sum(), wanted)])
    passed_on = 1 + (not (first and trained))  # the result, and the gradient of what came in
    for place, (theirs, own) in enumerate(zip(*found, strict=True)):
        bound = 1e-5 if place < passed_on else 1e-4  # those of parameters are sums over 1,600 rows
        torch.testing.assert_close(own, theirs, atol=bound, rtol=bound)


@pytest.mark.usefixtures("capability")
def test_a_bias_trains_beside_a_frozen_weight() -> None:
    _, ours = _pair(nn.Linear(3, 5))
    assert ours.bias is not None
    ours.bias.requires_grad_(True)
    ours(torch.randn(7, 3)).sum().backward()
    assert ours.weight.grad is None
    torch.testing.assert_close(ours.bias.grad, torch.full((5,), 7.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_take_torchs_own_path(dtype: torch.dtype) -> None:
    layer, ours = _pair(nn.Linear(5, 3).to(dtype))
    x = torch.randn(2, 5, dtype=dtype)
    assert torch.equal(ours(x), layer(x))


@pytest.mark.parametrize(("trained", "products"), [(False, 2), (True, 3)])
def test_onednn_is_for_processors_whose_wide_units_mkl_leaves_idle(
    trained: bool, products: int, capability: str
) -> None:
    _, ours = _pair(nn.Linear(5, 3), trained=trained)
    with _Asked() as asked:
        ours(torch.randn(2, 5, requires_grad=True)).sum().backward()
    called = [name for name in asked.names if "mkldnn" in name]
    assert called == ["mkldnn._linear_pointwise.default"] * (products if capability == "AVX512" else 0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("width", "out"), [(5, 30), (30, 5), (30, 40), (40, 30)])
def test_without_wide_units_onednn_makes_the_wide_product_of_a_frozen_matrix(
    width: int, out: int, transposed: bool, capability: str
) -> None:
    layer = (Conv1D(out, width) if transposed else nn.Linear(width, out)).requires_grad_(False)
    holder = nn.Sequential(copy.deepcopy(layer))
    shared = holder[0].weight
    replace_linears(holder)
    assert holder[0].weight is shared
    assert torch.equal(shared, layer.weight)  # type: ignore[arg-type]
    x = torch.randn(2, width)
    found = []
    for module in (layer, holder):
        entrance = x.clone().requires_grad_()
        with _Asked() as asked:
            result = module(entrance)
            result.square().sum().backward()
        found.append((result.detach(), entrance.grad))
    assert sum("mkldnn" in name for name in asked.names) == {"AVX512": 2, "AVX2": 1}.get(capability, 0)
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_autocast_is_followed() -> None:
    layer, ours = _pair(nn.Linear(5, 3))
    x = torch.randn(2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16
        assert torch.equal(ours(x), layer(x))


@given(batch=sizes, width=sizes, out=sizes, transposed=st.booleans(), bias=st.booleans(), autocast=st.booleans())
def test_a_weight_kept_in_bf16_computes_as_the_rounded_weight(
    batch: int, width: int, out: int, transposed: bool, bias: bool, autocast: bool
) -> None:
    """In fp32 to rounding, under bf16 autocast to the last bit."""
    torch.manual_seed(0)
    holder = nn.Sequential(Conv1D(out, width) if transposed else nn.Linear(width, out, bias=bias)).requires_grad_(False)
    rounded = nn.Sequential(copy.deepcopy(holder[0]))
    rounded[0].weight.copy_(rounded[0].weight.bfloat16())  # type: ignore[operator]
    replace_linears(rounded)
    replace_linears(holder, frozen_dtype=torch.bfloat16)
    assert holder[0].weight.dtype == torch.bfloat16
    x, weight = torch.randn(batch, width), torch.randn(batch, out)
    found = []
    for module in (rounded, holder):
        entrance = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            result = module(entrance)
        (result * weight).sum().backward()
        found.append((result.detach(), entrance.grad))
    for theirs, own in zip(*found, strict=True):
        torch.testing.assert_close(own, theirs, atol=0, rtol=0 if autocast else 1e-6)


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_an_empty_batch_passes(kept: torch.dtype) -> None:
    layer = nn.Linear(5, 3)
    layer.weight.data = layer.weight.to(kept)
    _, ours = _pair(layer)
    assert ours(torch.empty(0, 5)).shape == (0, 3)


@pytest.mark.parametrize("trained", [True, False])
def test_layers_are_replaced_and_names_stay(trained: bool) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"a": Conv1D(2, 3), "b": nn.LayerNorm(2)}), nn.Linear(2, 1))
    names = list(module.state_dict())
    module.requires_grad_(False)
    module[2].bias.requires_grad_(True)
    replace_linears(module, frozen_dtype=torch.bfloat16, trained=trained)
    kinds = [type(child) for child in (module[0], module[1]["a"], module[1]["b"], module[2])]
    assert kinds == [Linear, Linear, nn.LayerNorm, Linear if trained else nn.Linear]
    assert module[0].weight.dtype == torch.bfloat16
    assert module[2].weight.dtype == torch.float32
    assert list(module.state_dict()) == names
