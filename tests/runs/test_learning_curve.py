from pathlib import Path

from fpt_lightning.runs.learning_curve import plot_learning_curve

HEADER = "step,train_loss,train_accuracy,val_loss,val_accuracy\n"


def test_a_picture_of_training_and_validation() -> None:
    Path("metrics.csv").write_text(HEADER + "0,2.3,0.1,,\n1,2.0,0.2,,\n1,,,2.1,0.15\n2,1.5,0.4,,\n2,,,1.8,0.3\n")
    plot_learning_curve(Path("metrics.csv"), Path("curve.svg"), "mnist on tiny")
    picture = Path("curve.svg").read_text()
    assert picture.startswith("<?xml")
    assert len(picture) > 10_000


def test_a_run_without_validation_is_drawn_too() -> None:
    Path("metrics.csv").write_text(HEADER + "0,2.3,0.1,,\n")
    plot_learning_curve(Path("metrics.csv"), Path("curve.png"))
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_regression_is_drawn_with_its_own_figure() -> None:
    Path("metrics.csv").write_text("step,train_loss,val_loss,val_r2\n0,2.3,,\n1,2.0,,\n1,,2.1,0.15\n2,,1.8,0.3\n")
    plot_learning_curve(Path("metrics.csv"), Path("with.svg"), metric="r2")
    plot_learning_curve(Path("metrics.csv"), Path("without.svg"))
    assert Path("with.svg").stat().st_size > Path("without.svg").stat().st_size
