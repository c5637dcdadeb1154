"""What `fpt COMMAND --help` shows first, and where the rest is."""

import pytest

from fpt_lightning.main import main


def _page(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "fit", "validate", "test", "predict", "prepare"])
def test_the_first_page_is_short_and_shows_what_people_change(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = _page(capsys, command, "--help")
    assert page.startswith(f"usage: fpt {command} ")
    assert len(page.splitlines()) <= 85
    assert max(map(len, page.splitlines())) <= 100
    for option in ("--model.backbone small", "--model.lr 0.001", "--data.batch_size 16", "--trainer.max_steps 1000"):
        assert option in page


def test_the_page_shows_the_options_and_values_of_the_configs_given(capsys: pytest.CaptureFixture[str]) -> None:
    page = _page(capsys, "run", "bit_memory.yaml", "--model.lr=0.25", "--help")
    assert "the task, BitMemory:" in page
    assert "--data.n 1000 " in page
    assert "--trainer.max_steps 10000 " in page
    assert "--model.lr 0.25 " in page
    assert _page(capsys, "run", "--help", "bit_memory.yaml", "--model.lr=0.25") == page


@pytest.mark.parametrize("words", [("--help", "model"), ("--model.help",)])
def test_a_group_says_all_of_its_options(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    page = _page(capsys, "run", *words)
    assert "--model.input_dropout 0.0\n    Probability of dropout behind the linear input layer" in page
    assert "--trainer" not in page


def test_the_task_of_a_config_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data.patterns 2\n    Strings in an example." in _page(
        capsys, "run", "--config=bit_xor.yaml", "--data.help"
    )


def test_everything_is_in_the_long_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = _page(capsys, "run", "--help-all")
    assert "--trainer.reload_dataloaders_every_n_epochs" in page
    assert len(page.splitlines()) > 500


def test_a_group_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help", "trainner"]) == 2
    assert "there is no group 'trainner' of options; did you mean 'trainer'?" in capsys.readouterr().err
    assert main(["run", "--help", "nosuch"]) == 2
    assert "no group 'nosuch' of options. The groups are command, model, data, trainer, " in capsys.readouterr().err
