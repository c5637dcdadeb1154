"""Any Hugging Face dataset as a task: by name from the hub or its cache, or from a folder."""

import textwrap
from functools import cached_property
from pathlib import Path
from typing import Any

from fpt_lightning.data.columnar.columns import TableSource
from fpt_lightning.data.columnar.datamodule import TableTask
from fpt_lightning.data.datamodule import Split
from fpt_lightning.errors import FPTError, UsageError, did_you_mean

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves of several splits, and of one


class HubDataset(TableTask):
    """A task in a Hugging Face dataset (``pip install "fpt-lightning[hub]"``).

    Code that comes with a dataset is never run. Labels that have names (``ClassLabel``) are known by them alone, in the
    order that the training split has: another dataset may number them otherwise. One of -1 is none, and is refused.

    Args:
        path: A name on the hub, such as ``stanfordnlp/imdb``; or a folder, in ``root`` or an absolute path: one that
            ``save_to_disk`` has left, or one of Parquet, CSV or JSON files.
        target_column: See :class:`TableTask`, which reads the columns.
        subset: The configuration of a dataset that has several.
        revision: The branch, tag or commit on the hub.
        train_split: The split to train on.
        validation_split: The validation split; cut from the training split where it is left out.
        test_split: The test split, likewise.
        predict_split: A split of new rows for ``fpt predict``, of this dataset or of another at ``path``: with the
            input columns and perhaps the target, read as the training split was.
        kwargs: Those of :class:`TableTask`.
    """

    PACKAGE, EXTRA = "datasets", "hub"

    def __init__(
        self,
        path: str,
        target_column: str,
        subset: str | None = None,
        revision: str | None = None,
        train_split: str = "train",
        validation_split: str | None = None,
        test_split: str | None = None,
        predict_split: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(target_column, **kwargs)
        self.path = path
        self.subset = subset
        self.revision = revision
        self.predict_split = predict_split
        self.names: dict[Split, str | None] = {"train": train_split, "validation": validation_split, "test": test_split}

    @property
    def default_name(self) -> str:
        return Path(self.path).name.strip(".") or "dataset"

    def source(self, split: Split) -> TableSource | None:
        return self._source(self.names[split])

    def new_source(self) -> TableSource | None:
        return self._source(self.predict_split)

    def _source(self, name: str | None) -> TableSource | None:
        if name is None:
            return None
        if name not in self._splits:
            raise UsageError(
                f"dataset {self.path} has no split '{name}'{did_you_mean(name, self._splits)} "
                f"Its splits are {', '.join(self._splits)}."
            )
        dataset, target = self._splits[name], self.target_column
        names = getattr(dataset.features.get(target), "names", None)  # of a ClassLabel, whose labels are numbers

        def load(columns: list[str]) -> Any:
            import pyarrow as pa
            import pyarrow.compute as pc

            table = dataset.select_columns(columns).with_format("arrow")[:]
            if names is None or target not in columns:
                return table
            if table.num_rows and pc.all(pc.equal(table[target], -1)).as_py():  # as of test splits on the hub
                return table.set_column(table.column_names.index(target), target, pa.nulls(table.num_rows))
            if (row := pc.index(table[target], pa.scalar(-1, table[target].type)).as_py()) >= 0:
                raise source.fault(target, row, "has no label (-1): filter such rows")
            if self.regression:
                return table
            labels = pc.take(pa.array(names, pa.large_string()), table[target])
            return table.set_column(table.column_names.index(target), target, labels)

        source = TableSource(
            name=f"dataset {self.path}, split '{name}'",
            columns=dataset.column_names,
            load=load,
            place=lambda row: f"row {row} counted from 0",
            classes=names and [name.strip() for name in names],  # as text is read
        )
        return source

    @cached_property
    def _splits(self) -> dict[str, Any]:
        import datasets

        folder = Path(self.root) / self.path
        try:
            if any((folder / name).is_file() for name in SAVED):
                loaded = datasets.load_from_disk(str(folder))
            else:
                # the cache knows a folder by its last name, by which nobody who asks for another is to find it
                own = f"{datasets.config.HF_DATASETS_CACHE}/folders"
                path, cache = (str(folder), own) if folder.is_dir() else (self.path, None)
                loaded = datasets.load_dataset(path, self.subset, cache_dir=cache, revision=self.revision)
        except (OSError, ValueError, RuntimeError, IndexError, datasets.exceptions.DatasetsError) as error:
            reason = textwrap.shorten(str(error.__cause__ or error), 250)
            raise FPTError(
                f"dataset '{self.path}' is neither a readable folder here nor in the Hugging Face cache or hub "
                f"({type(error).__name__}: {reason})"
            ) from error
        return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
