"""Proteins as sequences of amino acids."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from fpt_lightning.data.cache import content_hash
from fpt_lightning.data.datamodule import SPLITS, FPTDataModule, Split
from fpt_lightning.data.download import RemoteFile, fetch, unpack
from fpt_lightning.data.proteins.records import FOLDS, VOCABULARY
from fpt_lightning.data.proteins.tape import EXAMPLES, find_split, read_proteins, require_lmdb
from fpt_lightning.data.sequences import LabelledSequences, SequenceTable
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError, UsageError, at_least

CLS, SEP = VOCABULARY.index("<cls>"), VOCABULARY.index("<sep>")
RELEASED_OUTPUTS = 1200


class RemoteHomology(FPTDataModule):
    """Remote homology: which fold a protein has, told from its sequence (FPT section 2.2; TAPE, Rao et al. 2019).

    TAPE's 12,312 training, 736 validation and 718 test proteins of SCOP 1.75 (Hou et al. 2018). Test are the proteins
    of superfamilies that training has none of, the split of TAPE's table; FPT's figures are of validation. A protein is
    read as TAPE reads it: ``<cls>``, a token for each amino acid, ``<sep>``, of which the last carries the answer.

    FPT's reference implementation reads the answer elsewhere, at the last position of the padded batch, and masks
    nothing: all but the longest proteins of a batch are read on ``<pad>``, so that the batch size belongs to the task.
    It judges four times as many proteins at a time as it trains on, and so does ``read_at: batch_end``, whatever
    ``eval_batch_size`` is, in one process alone.

    Args:
        holdout: The test split: proteins of superfamilies of known folds (``fold``), of families of known
            superfamilies (``superfamily``), or of known families (``family``), that training has none of.
        limit: Tokens that a sequence may have, ``<cls>`` and ``<sep>`` among them.
        too_long: ``truncate`` reads the first ``limit`` tokens of a longer sequence, the last of them ``<sep>``.
            ``skip_and_scale`` leaves it out and counts it as wrong: accuracy is multiplied by :meth:`kept_share`; FPT
            used 0.9739, leaving out whole batches that held one.
        read_at: Where the answer is read: ``sep``, or ``batch_end`` as released.
        outputs: Classes to choose among, of which TAPE has 1,195; as released 1,200.
        download: Fetch TAPE's LMDB files where a split is missing.
        kwargs: Those of :class:`FPTDataModule`; ``root`` holds ``remote_homology_SPLIT.json`` or ``.lmdb`` or a
            folder ``remote_homology`` with them.
    """

    ARCHIVE = RemoteFile(
        name="remote_homology.tar.gz",
        urls=("https://s3.amazonaws.com/songlabdata/proteindata/data_pytorch/remote_homology.tar.gz",),
        checksum="md5:1d687bdeb9e3866f77504d6079eed00a",
    )

    def __init__(
        self,
        holdout: Literal["fold", "superfamily", "family"] = "fold",
        limit: int = 1024,
        too_long: Literal["truncate", "skip_and_scale"] = "truncate",
        read_at: Literal["sep", "batch_end"] = "sep",
        outputs: int = FOLDS,
        download: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.holdout = holdout
        self.limit = limit
        self.too_long = "skip_and_scale" if self.as_released else too_long
        self.read_at = "batch_end" if self.as_released else read_at
        self.outputs = RELEASED_OUTPUTS if self.as_released else outputs
        if self.read_at == "batch_end":
            self.eval_batch_size = 4 * self.batch_size
        self.download = download
        self.names: dict[Split, str] = {"train": "train", "validation": "valid", "test": f"test_{holdout}_holdout"}
        self._proteins: dict[Split, LabelledSequences] = {}
        at_least(FOLDS, "data.", outputs=outputs)
        if limit < 3:
            raise UsageError(f"data.limit must be at least 3: <cls>, an amino acid, <sep>; got {limit}")

    @property
    def task(self) -> TaskSpec:
        return TaskSpec("remote_homology", self.limit, classes=self.outputs, vocabulary_size=len(VOCABULARY))

    def setup(self, stage: str) -> None:
        if self.read_at == "batch_end" and self._processes > 1:
            raise UsageError(
                f"data.read_at batch_end: {self._processes} processes pad their parts of a batch apart, and would read "
                "other tokens than one;\nrun on one (--trainer.devices 1), or not as released, with data.read_at sep"
            )
        super().setup(stage)

    def prepare_data(self) -> None:
        if self._missing() and self.download:
            require_lmdb()
            unpack(fetch(self.ARCHIVE, Path(self.root)), Path(self.root))
        if missing := self._missing():
            raise self._not_found(missing)
        for split in SPLITS:
            self.proteins(split)

    def proteins(self, split: Split) -> LabelledSequences:
        """The proteins of a split as :func:`read_proteins` gives them, read once.

        Raises:
            FPTError: If the split is missing or damaged.
        """
        if split not in self._proteins:
            path = find_split(Path(self.root), self.names[split])
            if path is None:
                raise self._not_found([self.names[split]])
            self._proteins[split] = read_proteins(path, self.cache_folder)
        return self._proteins[split]

    def dataset(self, split: Split) -> SequenceTable:
        """The proteins of a split between ``<cls>`` and ``<sep>``; target ``[examples, 1]``."""
        proteins, room = self.proteins(split), self.limit - 2
        rows = np.flatnonzero((proteins.lengths <= room) | (self.too_long == "truncate"))
        if not rows.size:
            raise UsageError(f"data.limit {self.limit} leaves no example of {self.names[split]}")
        residues, lengths, folds = proteins.take(rows).truncated(room)
        ends = lengths.cumsum()
        # an end stands before the beginning behind it
        places = np.concatenate([ends, ends - lengths])
        values = np.insert(residues, places, np.repeat(np.array([SEP, CLS], np.uint8), len(rows)))
        return LabelledSequences(values, lengths + 2, folds).table(masked=self.read_at == "sep")

    def kept_share(self, split: Split) -> float:
        proteins, skipped = len(self.proteins(split).lengths), self.longer(split)
        return 1.0 if self.too_long == "truncate" else (proteins - skipped) / proteins

    def longer(self, split: Split) -> int:
        """How many proteins of a split are longer than the limit: truncated or left out."""
        return int((self.proteins(split).lengths > self.limit - 2).sum())

    def facts(self) -> dict[str, Any]:
        """Hashes of what was read, the same whichever format it was read from, and what is done with long sequences.

        The batch size is among them where answers are read at its end.
        """
        return {
            "content": {
                name: content_hash(self.proteins(split).as_tensors().values())[:16]
                for split, name in self.names.items()
            },
            "limit": self.limit,
            "too_long": self.too_long,
            "longer": {name: self.longer(split) for split, name in self.names.items()},
            "kept_share": {name: self.kept_share(split) for split, name in self.names.items()},
            **({"read_at": self.read_at, "batch_size": self.batch_size} if self.read_at == "batch_end" else {}),
        }

    def describe(self) -> list[str]:
        lines = super().describe()
        if self.read_at == "batch_end":
            lines.append("as released: read at the end of the padded batch, which is not masked")
        seen = set(self.proteins("train").targets.tolist())
        for split, name in self.names.items():
            lengths, folds = self.proteins(split).lengths, set(self.proteins(split).targets.tolist())
            known = "" if split == "train" else f", {len(folds & seen)} of them in train"
            fate = "truncated" if self.too_long == "truncate" else f"left out, accuracy x {self.kept_share(split):.4f}"
            longer = self.longer(split)
            lines.append(
                f"{name}: {len(lengths):,} of TAPE's {EXAMPLES[name]:,} proteins of {lengths.min():,} to "
                f"{lengths.max():,} amino acids, mean {lengths.mean():.0f}; "
                f"{longer or 'none'} longer than {self.limit:,} tokens{f' {fate}' if longer else ''}; "
                f"{len(folds):,} of {FOLDS:,} folds{known}"
            )
        return lines

    def _missing(self) -> list[str]:
        return [name for name in self.names.values() if find_split(Path(self.root), name) is None]

    def _not_found(self, names: list[str]) -> FPTError:
        return FPTError(
            f"remote homology: no {', '.join(names)} (remote_homology_{names[0]}.json or .lmdb) "
            f"in {self.root} or {Path(self.root) / 'remote_homology'}.\n"
            f"Unpack {self.ARCHIVE.urls[0]} there, or let data.download fetch it."
        )
