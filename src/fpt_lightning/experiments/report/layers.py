"""What a linear layer reads out of the layers of every arm, where `fpt analyze` looked into all runs that count."""

from collections.abc import Iterator
from statistics import fmean

from fpt_lightning.experiments.report.results import Entry, Results


def probed(results: Results, entry: Entry) -> list[list[float]]:
    """The metric on validation by layer and seed, in the unit of the report.

    Empty where a run was not analysed, or on another number of examples than the others.
    """
    probes = [results.grid.records.probe(run.folder.name) for run in entry.runs]
    if len({(len(probe.scores), probe.examples) for probe in probes}) != 1:
        return []
    by_layer = zip(*(probe.scores for probe in probes), strict=True)
    return [[entry.unit.factor * score for score in seeds] for seeds in by_layer]


def layers(results: Results) -> Iterator[str]:
    """The means over seeds from the first layer to the last, an arm a line."""
    for arm in results.arms:
        read = [
            f"{task.title} {' '.join(entry.unit.write(fmean(seeds)) for seeds in by_layer)}"
            for task in results.tasks
            if (by_layer := probed(results, entry := results.entries[arm, task.name]))
        ]
        if read:
            yield f"{arm}: {', '.join(read)}"
