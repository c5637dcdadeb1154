"""A model that leaves its run: checkpoints, run folders, folders of the hub, and back to the same answers."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

import fpt_lightning
from conftest import Fpt
from fpt_lightning import Batch, BitXOR, FPTClassifier, FPTTrainer, SequenceFile, load
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.models.lora import LoraOptions

TOKENS = torch.randint(2, (3, 10, 1), generator=torch.Generator().manual_seed(0)).float()


class Halved(FPTClassifier):
    """A class of the user's own, with an argument of its own."""

    def __init__(self, *args: Any, share: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.share = share


@pytest.fixture
def run(fpt: Fpt, tiny: list[str]) -> Path:
    assert fpt("run", "--config=bit_xor.yaml", *tiny, "--model.part_lr={output: 0.1}", "--run_folder=run") == 0
    return Path("run")


def _trained(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    return state


def test_a_checkpoint_needs_no_arguments_and_warns_of_nothing(run: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = FPTClassifier.load_from_checkpoint(run / "checkpoints/best.ckpt")
    for name, tensor in _trained(run).items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert model.task == BitXOR().task
    assert model.hparams.part_lr == {"output": 0.1}
    assert FPTClassifier.load_from_checkpoint(run / "checkpoints/best.ckpt", dropout=0.0).hparams.dropout == 0.0


def test_other_frozen_weights_are_refused(run: Path) -> None:
    with pytest.raises(FPTError, match="was trained on the frozen weights"):
        FPTClassifier.load_from_checkpoint(run / "checkpoints/best.ckpt", seed=1)


@pytest.mark.parametrize("place", [".", "checkpoints/best.ckpt"])
def test_a_run_folder_is_a_model_ready_to_answer(run: Path, place: str) -> None:
    model = load(run / place)
    assert not model.training
    expected = FPTClassifier.load_from_checkpoint(run / "checkpoints/best.ckpt").eval()
    assert torch.equal(model(TOKENS), expected(TOKENS))
    result = json.loads((run / "result.json").read_text())
    for name in ("val_accuracy", "test_accuracy"):
        assert model.figures[name] == result[name]


def test_a_model_that_trains_on_is_no_longer_what_was_measured(run: Path, weights_csv: Path) -> None:
    """And it reads new data as its last training did, whether that left a checkpoint or not."""
    model = load(run)
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    FPTTrainer(max_steps=1, limit_val_batches=0, **quiet).fit(model, BitXOR())
    assert model.figures == {}
    table = SequenceFile("weight", train_file=str(weights_csv), regression=True, batch_size=4)
    fresh = FPTClassifier(table.task, "tiny")
    FPTTrainer(max_steps=1, limit_val_batches=0, **quiet).fit(fresh, table)
    assert fresh.encoding == table.encoding() != {}


def test_adapters_and_a_class_of_ones_own_come_back(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--model=test_portable.Halved", *tiny, "--model.share=0.25", "--model.lora.rank=2"]
    assert fpt("run", "--config=bit_xor.yaml", *words, "--run_folder=run") == 0
    model = load("run")
    assert isinstance(model, Halved)
    assert model.share == 0.25
    assert any("lora" in name for name in model.model.trained_parameters())
    model.save_pretrained("shared")
    assert torch.equal(Halved.from_pretrained("shared")(TOKENS), model(TOKENS))


def test_there_and_back_by_a_folder_in_the_hubs_layout(run: Path) -> None:
    model = load(run)
    model.save_pretrained("shared")
    assert {path.name for path in Path("shared").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    shutil.rmtree(run)
    for back in (FPTClassifier.from_pretrained("shared"), load("shared")):
        assert not back.training
        assert torch.equal(back(TOKENS), model(TOKENS))
        assert back.figures == model.figures
    card = ModelCard.load("shared/README.md")
    assert card.data.library_name == "fpt-lightning"
    measured = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert measured["test_accuracy"] == model.figures["test_accuracy"]
    assert model.model.frozen_hash() in card.text
    assert "tokens [batch, length, 1] -> [batch, 5, 2]" in card.text


def test_the_folder_is_what_is_pushed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, Any] = {}

    class Hub:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id: str, folder_path: Path, **_: Any) -> str:
            shutil.copytree(folder_path, "cache/snapshot")
            pushed["repo_id"] = repo_id
            return "https://huggingface.co/" + repo_id

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    model = load(run)
    assert model.push_to_hub("me/bits") == "https://huggingface.co/me/bits"
    assert pushed == {"repo_id": "me/bits"}

    def download(repo_id: str, filename: str, **_: Any) -> str:
        assert repo_id == "me/bits"
        return f"cache/snapshot/{filename}"

    for module in ("huggingface_hub.hub_mixin", "fpt_lightning.training.artifacts.portable"):
        monkeypatch.setattr(f"{module}.hf_hub_download", download)
    assert torch.equal(FPTClassifier.from_pretrained("me/bits")(TOKENS), model(TOKENS))


def _changed(**values: Any) -> None:
    path = Path("shared/config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": 1}, "was trained on the frozen weights"),
        ({"trainable": ["output"]}, "does not fit this model"),
        ({"backbone": "small"}, "fit this model"),
        ({"fpt-lightning": None}, "no config.json of fpt-lightning"),
        ({"optimizer": {"class_path": "os.system", "init_args": {}}}, "trained with the optimizer os.system: pass"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(run: Path, values: dict[str, Any], message: str) -> None:
    load(run).save_pretrained("shared")
    _changed(**values)
    with pytest.raises(FPTError, match=message):
        FPTClassifier.from_pretrained("shared")


def test_what_is_no_model_of_a_task_is_named(tmp_path: Path, fpt: Fpt, small_language: list[str]) -> None:
    with pytest.raises(FPTError, match="there is no run folder nowhere"):
        load("nowhere")
    with pytest.raises(FPTError, match="it is not a run folder"):
        load(tmp_path)
    with pytest.raises(FPTError, match=r"no config\.json of fpt-lightning"):
        FPTClassifier.from_pretrained(tmp_path)
    assert fpt("fit", *small_language, "--run_folder=text") == 0
    with pytest.raises(FPTError, match="holds no model of a task"):
        load("text")


def test_an_optimizer_of_torch_is_known_by_its_name_alone() -> None:
    schedule = {"class_path": "CosineAnnealingLR", "init_args": {"T_max": 10}}
    model = FPTClassifier(BitXOR().task, "tiny", optimizer="AdamW", lr_scheduler=schedule)
    model.save_pretrained("saved")
    assert FPTClassifier.from_pretrained("saved").hparams["optimizer"] == model.hparams["optimizer"]


def test_adapters_are_plain_values_in_a_checkpoint() -> None:
    model = FPTClassifier(BitXOR().task, "tiny", lora=LoraOptions(rank=2))
    model.save_pretrained("shared")
    assert json.loads(Path("shared/config.json").read_text())["lora"]["rank"] == 2
    assert FPTClassifier.from_pretrained("shared").hparams.lora["rank"] == 2


def test_public_names_are_seen() -> None:
    assert {"load", "FPTClassifier", "BitXOR", "__version__"} <= set(dir(fpt_lightning))
    source = Path(fpt_lightning.__file__).read_text()
    for name, home in fpt_lightning._HOME.items():
        assert f"    from fpt_lightning.{home} import {name} as {name}\n" in source
        assert getattr(fpt_lightning, name).__name__ == name


class Foreign(torch.utils.data.Dataset[Any]):
    """Tuples, as most datasets give them."""

    def __init__(self, *more: Any, width: int = 1) -> None:
        self.more = more
        self.width = width

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        tokens = torch.ones(10, self.width)
        return (tokens, *self.more) if self.more else tokens


def _fit_on(dataset: Foreign) -> FPTTrainer:
    trainer = FPTTrainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(FPTClassifier(BitXOR().task, "tiny"), torch.utils.data.DataLoader(dataset, batch_size=4))
    return trainer


def test_tuples_of_others_are_batches() -> None:
    trainer = _fit_on(Foreign(torch.ones(5, dtype=torch.int64)))
    assert trainer.global_step == 2
    assert issubclass(Batch, tuple)


ANSWERS = torch.ones(5, dtype=torch.int64)


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_masks_of_others_are_of_any_kind(kind: torch.dtype) -> None:
    assert _fit_on(Foreign(ANSWERS, (torch.arange(10) < 7).to(kind))).throughput.padding_share == pytest.approx(0.3)


@pytest.mark.parametrize(
    "mask",
    [torch.arange(10) >= 3, torch.arange(10) >= 7, torch.arange(10) < 4, torch.ones(9), torch.ones(10, 1)],
    ids=["padded before", "true for padding", "fewer than answer", "shorter", "of another shape"],
)
def test_a_mask_by_which_other_tokens_would_answer_is_refused(mask: torch.Tensor) -> None:
    with pytest.raises(UsageError, match=r"has masks \[batch, length\], true for real tokens, .* at least 5"):
        _fit_on(Foreign(ANSWERS, mask))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Foreign(), "has no use for a Tensor"),
        (
            Foreign(torch.ones(5, dtype=torch.int64), width=3),
            r"has tokens \[batch, length, 1\] float, got \[4, 10, 3\]",
        ),
        (Foreign(torch.ones(2, dtype=torch.int64)), r"has targets \[batch, 5\] int64, got \[4, 2\]"),
        (Foreign(torch.ones(5)), r"has targets \[batch, 5\] int64, got \[4, 5\] torch.float32"),
    ],
)
def test_other_batches_are_refused_in_a_line(dataset: Foreign, message: str) -> None:
    with pytest.raises(UsageError, match=r"fpt_lightning\.Batch.*" + message):
        _fit_on(dataset)
