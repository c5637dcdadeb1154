"""The runs of a table as CSV, a row a run: what a figure is made of, for whoever tests or draws it in another way."""

import csv
import io
from collections.abc import Sequence

from fpt_lightning.experiments.report.page import Page, RunText

COLUMNS = ("arm", "task", "learning_rate", "seed", "counts", "state", "steps", "validation", "test", "run")


def frame(page: Page) -> str:
    """Every run that was asked for; ``counts`` says of which the table's figures are the means.

    Accuracies are shares, as in ``result.json``; of a run that pauses, the best on validation so far. The test is given
    of runs that count alone: others only helped to choose a learning rate, on validation.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in page.cells:
        for row in cell.runs:
            told = [cell.arm, cell.task, row.run.lr, row.run.seed, str(row.counts).lower(), row.outcome.state]
            writer.writerow([*told, *_measured(row), row.run.folder.name])
    return file.getvalue()


def _measured(row: RunText) -> Sequence[float | None]:
    """Steps, validation and test, as far as there are any."""
    if (result := row.outcome.result) is not None:
        return result.steps, result.validation, result.test if row.counts else None
    if not (course := row.outcome.validations):
        return None, None, None
    return course[-1][0], max(value for _, value in course), None
