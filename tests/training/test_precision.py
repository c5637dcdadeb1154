"""A training in fp32 on a device that is faster in bf16 says so, once, and one in bf16 where fp32 is faster."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from conftest import Fpt
from fpt_lightning import machine
from fpt_lightning.training import precision


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What Lightning logs of precision, in a process that has said nothing yet."""
    monkeypatch.setattr(precision.RecommendPrecision, "said", False)
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: True)
    return lambda: [record.getMessage() for record in caplog.records if "bf16-mixed" in record.getMessage()]


def test_it_is_said_once_to_runs_that_follow_each_other(
    fpt: Fpt, tiny: list[str], told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_units", lambda device: ["AMX-BF16"] * (device == "cpu"))
    words = ["fit", "--config=bit_xor.yaml", *tiny, "--trainer.max_steps=1"]
    assert fpt(*words, "--trainer.precision=bf16-mixed") == 0
    assert not told()
    for _ in range(2):
        assert fpt(*words) == 0
    (line,) = told()
    assert "bf16 faster than fp32 (AMX-BF16): --trainer.precision bf16-mixed, or --config trainer/bf16.yaml" in line


def test_nothing_is_said_where_bf16_is_no_faster(
    fpt: Fpt, tiny: list[str], told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_units", lambda _: [])
    assert fpt("fit", "--config=bit_xor.yaml", *tiny, "--trainer.max_steps=1") == 0
    assert not told()


def test_bf16_that_is_computed_in_fp32_is_named_once(
    fpt: Fpt, tiny: list[str], told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_units", lambda _: [])
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: False)
    for _ in range(2):
        assert (
            fpt("fit", "--config=bit_xor.yaml", *tiny, "--trainer.max_steps=1", "--trainer.precision=bf16-mixed") == 0
        )
    (line,) = told()
    assert "those of bf16-mixed are made in fp32: --trainer.precision 32-true is faster" in line


AVX512 = {"avx2": True, "avx512_f": True, "avx512_bf16": True}


@pytest.mark.parametrize(
    ("has", "features", "units"),
    [
        ({"avx2": True, "avx512_f": False}, ["AVX2"], []),
        (AVX512, ["AVX2", "AVX-512", "AVX512-BF16"], ["AVX512-BF16"]),
        ({"avx2": True, "amx_bf16": True, "sse": True}, ["AVX2", "AMX-BF16"], ["AMX-BF16"]),
        ({"architecture": "arm64"}, [], []),
    ],
)
@pytest.mark.parametrize("public", [True, False])
def test_what_a_processor_has(
    has: dict[str, Any], features: list[str], units: list[str], public: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked as torch of today and torch 2.11 can be asked."""
    monkeypatch.setattr(machine, "is_intel", lambda: False)
    if public:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    else:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        for name, feature in {
            "avx2": "avx2",
            "avx512": "avx512_f",
            "avx512_bf16": "avx512_bf16",
            "amx_tile": "amx_bf16",
        }.items():
            monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda feature=feature: has.get(feature, False))
    assert machine.features("cpu") == features
    assert machine.bf16_units("cpu") == units
    assert machine.features("mps") == []


@pytest.mark.parametrize(
    ("intel", "has", "units"),
    [(True, AVX512, []), (True, {**AVX512, "amx_bf16": True}, ["AMX-BF16"]), (False, AVX512, ["AVX512-BF16"])],
    ids=["Intel without AMX", "Intel with AMX", "AMD"],
)
def test_intels_avx512_multiplies_bf16_slower_than_fp32(
    intel: bool, has: dict[str, bool], units: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "is_intel", lambda: intel)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert machine.bf16_units("cpu") == units
    assert machine.multiplies_bf16.__wrapped__() == bool(units)


def test_a_gpu_that_only_plays_bf16_has_no_units(monkeypatch: pytest.MonkeyPatch) -> None:
    for real in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, real=real: real or including_emulation
        )
        assert machine.bf16_units("cuda") == (["bf16"] if real else [])
