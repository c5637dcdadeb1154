"""The runs of a table as CSV, a row a run: what a figure is made of, for whoever tests or draws it in another way."""

import csv
import io

from fpt_lightning.experiments.report.page import Page

COLUMNS = ("arm", "task", "learning_rate", "seed", "counts", "state", "steps", "validation", "test", "run")


def frame(page: Page) -> str:
    """Every run that was asked for; ``counts`` says of which the table's figures are the means.

    Accuracies are shares, as in ``result.json``. The test is given of runs that count alone: others only helped to
    choose a learning rate, on validation.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in page.cells:
        for row in cell.runs:
            result = row.outcome.result
            measured = [result.steps, result.validation, result.test if row.counts else None] if result else [None] * 3
            told = [cell.arm, cell.task, row.run.lr, row.run.seed, str(row.counts).lower(), row.outcome.state]
            writer.writerow([*told, *measured, row.run.folder.name])
    return file.getvalue()
