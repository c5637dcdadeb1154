import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import Fpt, read_rows
from fpt_lightning.models.token_shuffle import TokenShuffle, shuffle
from fpt_lightning.runs.folder import RunFolder


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    width=st.none() | st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_shuffling_keeps_the_tokens_of_an_example_and_its_padding(
    lengths: list[int], width: int | None, seed: int
) -> None:
    shape = (len(lengths), 9) if width is None else (len(lengths), 9, width)
    tokens = torch.arange(torch.Size(shape).numel()).view(shape)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    shuffled = shuffle(tokens, torch.rand(tokens.shape[:2], generator=torch.Generator().manual_seed(seed)), mask)
    assert torch.equal(shuffled[~mask], tokens[~mask])
    for row, length in enumerate(lengths):
        real = shuffled[row, :length]
        assert torch.equal(real[real.view(length, width or 1)[:, 0].argsort()], tokens[row, :length])


def test_every_order_is_as_likely_and_examples_differ() -> None:
    tokens = torch.arange(3).expand(6000, 3)
    orders, counts = shuffle(tokens, torch.rand(6000, 3, generator=torch.Generator().manual_seed(0))).unique(
        dim=0, return_counts=True
    )
    assert len(orders) == 6
    assert (counts - 1000).abs().max() < 5 * (6000 * 5 / 36) ** 0.5


def test_training_shuffles_anew_and_evaluation_always_alike() -> None:
    entrance = TokenShuffle()
    tokens = torch.arange(50).expand(4, 50)
    torch.manual_seed(0)
    first, second = entrance(tokens), entrance(tokens)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(entrance(tokens), first)
    entrance.eval()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(entrance(tokens), entrance(tokens))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(entrance(tokens)[0], entrance(tokens)[1])


def test_in_evaluation_an_order_is_a_function_of_the_place_in_the_split() -> None:
    entrance = TokenShuffle().eval()
    lengths = torch.randint(1, 13, (20,), generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(12).expand(20, 12)
    mask = torch.arange(12) < lengths[:, None]
    whole = entrance(tokens, mask)
    for processes, size in ((1, 3), (1, 7), (2, 4), (3, 20)):
        for rank in range(processes):
            for places in torch.arange(20)[rank::processes].split(size):
                longest = int(lengths[places].max())  # padded to the longest of its batch
                rows = entrance(tokens[places, :longest], mask[places, :longest], places.tolist())
                assert torch.equal(rows, whole[places, :longest])


def _figures(folder: str) -> list[list[float]]:
    names = ("val_loss", "val_accuracy")
    return [
        [float(row[name]) for name in names] for row in read_rows(RunFolder(Path(folder)).metrics) if row["val_loss"]
    ]


@pytest.mark.usefixtures("warm")
def test_figures_do_not_depend_on_batches_and_devices(fpt: Fpt, tiny: list[str], image_root: Path) -> None:
    words = [word for word in tiny if "limit" not in word and "steps" not in word and "interval" not in word]
    words += [
        f"--data.root={image_root}",
        "--trainer.max_steps=1",
        "--trainer.val_check_interval=1",
        "--model.lr=1e-12",
        "--config=controls/shuffled_tokens.yaml",
        "--model.dropout=0",
    ]
    for folder, size, devices in (("one", 2, 1), ("other", 5, 1), ("two", 6, 2)):
        more = ["--config=trainer/ddp.yaml", "--trainer.devices=2"] if devices == 2 else []
        command = [
            "--config=image_folder.yaml",
            *words,
            *more,
            f"--data.eval_batch_size={size}",
            f"--run_folder={folder}",
        ]
        if devices == 1:
            assert fpt("fit", *command) == 0
        else:
            done = [sys.executable, "-m", "fpt_lightning", "fit", *command]
            subprocess.run(done, check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert len(_figures("one")) == 1  # of all but untrained models: two processes train on other orders
    assert _figures("other") == [pytest.approx(row, abs=1e-5) for row in _figures("one")]
    assert _figures("two") == [pytest.approx(row, abs=1e-5) for row in _figures("one")]
