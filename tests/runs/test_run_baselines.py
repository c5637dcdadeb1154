"""What stands beside a result without a backbone."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from conftest import Fpt, write_table
from fpt_lightning import Batch, BitXOR, FPTDataModule, SequenceFile, TaskSpec
from fpt_lightning.data.datamodule import Split
from fpt_lightning.data.loading import BatchDataset
from fpt_lightning.runs.baselines import baselines, linear_baseline


class _Rows(BatchDataset):
    def __init__(self, rows: Batch) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows.tokens)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        mask = self.rows.mask
        longest = None if mask is None else int(mask[chosen].sum(1).max())  # as batches of sequences are cut
        return Batch(
            self.rows.tokens[chosen][:, :longest],
            self.rows.target[chosen],
            None if mask is None else mask[chosen][:, :longest],
        )


class _Foreign(FPTDataModule):
    """A task of a user: two answers of three classes each, decided by the first token and by how many threes there are."""

    def __init__(self, continuous: bool, vocabulary: int = 5) -> None:
        super().__init__()
        self.continuous, self.vocabulary = continuous, vocabulary

    @property
    def task(self) -> TaskSpec:
        kind = {"token_width": 1} if self.continuous else {"vocabulary_size": self.vocabulary}
        return TaskSpec("foreign", 4, 3, answer_tokens=1, answers_per_token=2, **kind)  # type: ignore[arg-type]

    def dataset(self, split: Split) -> BatchDataset:
        draw = torch.Generator().manual_seed(len(split))
        lengths = torch.randint(1, 5, (600,), generator=draw)
        mask = torch.arange(4) < lengths[:, None]
        tokens = torch.randint(5, (600, 4), generator=draw) * mask
        threes = ((tokens == 3) & mask).sum(1).clamp(max=2)
        target = torch.stack([tokens[:, 0] // 2, threes], dim=1)
        junk = torch.where(mask, tokens, 4)  # what stands in the padding is nothing
        return _Rows(Batch(junk.float()[..., None] if self.continuous else junk, target, mask))

    def facts(self) -> dict[str, object]:
        return {}


def test_a_linear_layer_reads_ids_at_their_places() -> None:
    worth = linear_baseline(_Foreign(continuous=False))
    assert min(worth) > 0.97


def test_a_linear_layer_counts_ids_where_there_are_too_many_places() -> None:
    worth = linear_baseline(_Foreign(continuous=False, vocabulary=5000))
    assert 0.6 < worth.test < 0.97, "the first of them cannot be told from the others"


def test_numbers_are_told_from_padding() -> None:
    assert linear_baseline(_Foreign(continuous=True)).test > 0.7
    assert baselines(_Foreign(continuous=True)).keys() == {"commonest class", "linear"}


def test_the_same_again() -> None:
    assert linear_baseline(_Foreign(continuous=True)) == linear_baseline(_Foreign(continuous=True))


def test_a_task_of_the_tables_has_its_linear_arm_there() -> None:
    assert baselines(BitXOR(validation_examples=20, test_examples=20)).keys() == {"commonest class"}


def test_a_layer_that_would_take_minutes_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    data = _Foreign(continuous=False, vocabulary=2**21)
    with caplog.at_level("INFO"):
        assert baselines(data).keys() == {"commonest class"}
    assert "no linear baseline: its 12,582,912 weights would take minutes and gigabytes" in caplog.text


def test_a_regression_is_least_squares(weights_csv: Path) -> None:
    data = SequenceFile("weight", train_file=str(weights_csv), regression=True)
    data.prepare_data()
    worth = baselines(data)
    assert worth["linear"]["test"] == pytest.approx(1, abs=1e-3)
    assert worth["training mean"]["test"] <= 0


def test_a_run_on_data_of_ones_own_ends_with_what_a_linear_layer_is_worth(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    columns: dict[str, list[object]] = {name: rows[:, place].tolist() for place, name in enumerate("ab")}
    labels: list[object] = ["no" if value < 0 else "yes" for value in (rows[:, 0] + rows[:, 1]).tolist()]
    file = write_table(Path("table.csv"), columns | {"label": labels})
    words = ["--config=table.yaml", f"--data.train_file={file}", *tiny, "--model.lr=1e-6"]
    assert fpt("run", *words, "--run_folder=with") == 0
    said = capsys.readouterr().out
    result = json.loads(Path("with/result.json").read_text())
    assert result["baselines"]["linear"]["test"] > 0.9
    assert f"test without a backbone: linear {result['baselines']['linear']['test']:.4f}, commonest class" in said
    assert "which is no less" in said
    assert fpt("run", *words, "--run_folder=without", "--baselines=false") == 0
    assert "baselines" not in json.loads(Path("without/result.json").read_text())
    assert "without a backbone" not in capsys.readouterr().out


def test_a_result_is_there_before_what_stands_beside_it(
    fpt: Fpt, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fpt_lightning.cli.baselines", interrupted)
    assert fpt("run", "--config=bit_xor.yaml", *tiny, "--run_folder=run") == 130
    result = json.loads(Path("run/result.json").read_text())
    assert result["status"] == "finished"
    assert "test_accuracy" in result
