"""Which labels of a configuration's data are probably wrong: a list and a page with the pictures.

Samples of every part are looked at: a wrong label of a test image makes every figure wrong.
"""

from __future__ import annotations

import hashlib
import io
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import ConcatDataset, Dataset

from lipt_cords.base.files import read_json, write_atomic, write_json
from lipt_cords.base.ownership import owned
from lipt_cords.base.provenance import provenance
from lipt_cords.cords.config import RunConfig
from lipt_cords.data.batches import dataset_length
from lipt_cords.data.datasets import DataSplits
from lipt_cords.data.sample_lists import OF, as_csv
from lipt_cords.experiments.assemble import pick_device
from lipt_cords.experiments.report.suspects import Suspect, suspects_page
from lipt_cords.experiments.run import OnData, build_net, load_splits
from lipt_cords.selectors.label_issues import LabelIssues, find_label_issues
from lipt_cords.training.weights import load_weights

SUSPECTS, RECORD, ARRAYS, PAGE = (
    "suspects.csv", "suspects.json", "probabilities.npz", "suspects.html",
)  # fmt: skip
SCHEMA = 1
COLUMNS = ("part", "label", "likely", "score")


@dataclass
class LabelCheck:
    """Every suspect of a data set, and the probabilities that made it one."""

    suspects: list[Suspect]
    """The most suspect first."""
    issues: LabelIssues
    """The same by place in ``data``, with scores and probabilities of all samples."""
    data: Dataset[Any]
    """Training, validation and test samples, one after the other."""
    samples: list[str]
    """What each of them is called."""
    called: str
    """``path`` where these are files of an image folder, ``row`` in a table, else ``sample``."""
    features: str
    """What the samples were compared by."""
    config: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    known_by: str = ""
    """What tells the data from others, where samples have numbers alone."""
    provenance: dict[str, Any] = field(default_factory=provenance)

    @property
    def agreement(self) -> float:
        """Share of the labels that are what all other samples predict; suspects of a set where it
        is low are often right."""
        return float((self.issues.likely == self.issues.given).double().mean())

    def pairs(self) -> list[tuple[str, str, int]]:
        """Label, likely class and how many suspects, the most frequent first."""
        found = Counter((one.label, one.likely) for one in self.suspects)
        return [(*pair, count) for pair, count in found.most_common()]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the probabilities as plain JSON types."""
        keys = ("sample", "part", "label", "likely", "score")
        return {
            "schema": SCHEMA,
            "kind": "label check",
            "samples": len(self.samples),
            "agreement": self.agreement,
            "suspects": [{key: getattr(one, key) for key in keys} for one in self.suspects],
            "features": self.features,
            "list_sha256": hashlib.sha256(self.table()).hexdigest(),
            "notes": self.notes,
            "config": self.config,
            "provenance": self.provenance,
        }

    def table(self) -> bytes:
        """``suspects.csv``."""
        of = [self.known_by] if self.known_by else []
        rows = (
            [one.sample, one.part, one.label, one.likely, f"{one.score:.6g}", *of]
            for one in self.suspects
        )
        return as_csv([self.called, *COLUMNS, *([OF] if of else [])], rows)

    def save(self, directory: str | Path) -> list[Path]:
        """Write the list, the page, the record and the probabilities, each whole or not at all.

        ``probabilities.npz`` holds what cleanlab takes: ``pred_probs`` (N, C) and ``labels`` (N,),
        and ``samples`` (N,), ``classes`` (C,), ``scores`` (N,).

        Raises:
            ValueError: the directory cannot be written, another run uses it, or it holds a list
                that was edited.
            ImportError: jinja2 is not installed.
        """
        where = Path(directory).expanduser()
        page = suspects_page(
            self.suspects, self.pairs(), self.data, self.features, self.agreement, self.notes,
            leave_out(where),
        )  # fmt: skip
        found = self.issues
        buffer = io.BytesIO()
        np.savez(
            buffer,
            pred_probs=found.probabilities.numpy(),
            labels=np.searchsorted(found.classes.numpy(), found.given.numpy()),
            classes=found.classes.numpy(),
            scores=found.scores.numpy(),
            samples=np.array(self.samples),
        )
        with owned(where):
            refuse_edited(where)
            return [
                write_atomic(where / SUSPECTS, self.table()),
                write_atomic(where / PAGE, page.encode(errors="replace")),
                write_atomic(where / ARRAYS, buffer.getvalue()),
                write_json(where / RECORD, self.to_dict(), seal=True),
            ]


def leave_out(directory: Path) -> str:
    """The option that leaves the suspects in a directory out of a training, for a shell.

    >>> leave_out(Path("my runs"))
    "--set 'dataset.without=my runs/suspects.csv'"
    """
    return f"--set {shlex.quote(f'dataset.without={directory / SUSPECTS}')}"


def refuse_edited(directory: str | Path) -> None:
    """Refuse a directory whose list a person has edited since it was written.

    Raises:
        ValueError: ``suspects.csv`` is not as ``suspects.json`` says it was.
    """
    path = Path(directory).expanduser() / SUSPECTS
    if not path.is_file():
        return
    remedy = f"choose another --output, or move {SUSPECTS} elsewhere"
    record = path.with_name(RECORD)
    written = read_json(record, remedy=remedy).get("list_sha256") if record.is_file() else None
    if hashlib.sha256(path.read_bytes()).hexdigest() != written:
        raise ValueError(f"{path} is not as it was written, and would be written over: {remedy}")


def check_labels(
    config: RunConfig,
    *,
    checkpoint: str | Path | None = None,
    splits: DataSplits | None = None,
    on_data: OnData | None = None,
) -> LabelCheck:
    """Find the labels of a configuration's data that are probably wrong.

    Args:
        config: its section ``dataset`` says which data; the net is used with ``checkpoint`` alone.
        checkpoint: weights of the net, whose embeddings are then the features: a warm start's
            directory, a ``.safetensors`` file, or the checkpoint of a run. None takes features
            that need no training (:func:`lipt_cords.features`).
        splits: the data, already loaded.
        on_data: called with the data when they are loaded here, to say what they are.

    Returns:
        Suspects among training, validation and test samples.

    Raises:
        ValueError: whatever is wrong with the options, the data or the checkpoint.
    """
    notes: list[str] = []
    device = pick_device(config.train_args.device, notes)
    splits = load_splits(config, on_data) if splits is None else splits
    notes += splits.left_out.notes()
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    data: Dataset[Any] = ConcatDataset(list(parts.values()))
    features: str | nn.Module = "auto"
    if checkpoint is not None:
        features = build_net(config, splits).to(device)
        load_weights(features, checkpoint)
        notes.append("the net has seen training samples: it finds fewer wrong labels among these")
    found = find_label_issues(data, features=features, seed=config.train_args.seed, device=device)
    samples = [name for part in parts for name in splits.samples[part]]
    of = [part for part, some in parts.items() for _ in range(dataset_length(some))]

    def called(label: int) -> str:
        return splits.class_names[label] if splits.class_names else str(label)

    suspects = [
        Suspect(
            sample=samples[place],
            part=of[place],
            label=called(int(found.given[place])),
            likely=called(int(found.likely[place])),
            score=float(found.scores[place]),
            place=place,
        )
        for place in found.indices.tolist()
    ]
    tested = sum(one.part == "test" for one in suspects)
    if tested:
        notes.append(f"suspects among the test samples, which dataset.without keeps: {tested:,}")
    if found.warning is not None:
        notes.insert(0, found.warning)
    kind = (
        "features without training" if checkpoint is None else "embeddings of the checkpoint's net"
    )
    return LabelCheck(
        suspects, found, data, samples, splits.naming, kind, config.to_dict(), notes,
        splits.known_by,
    )  # fmt: skip
