"""One selection from a configuration to files: which samples, why, at what cost, and whether they
are suspect.

The indices count the training images of the configuration's split, in its order, so that any run
of the same ``dataset`` section can train on them.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lipt_cords.base.differences import first_difference
from lipt_cords.base.files import checksum, read_json, write_atomic, write_json
from lipt_cords.base.ownership import is_main_process, owned, owns_output
from lipt_cords.base.process_memory import PeakMemory
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import isolated_rng
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.strategies import fact_of, selector_for
from lipt_cords.data.datasets import DataSplits
from lipt_cords.data.source import BatchSource
from lipt_cords.experiments.assemble import (
    check_selection,
    fit_lipt,
    of_size,
    pick_device,
    subset_size_of,
    warm_start_options,
)
from lipt_cords.experiments.choose import (
    check_strategy,
    choose_subset,
    choose_untrained,
    chooses_untrained,
    dynamics_score_of,
    per_sample_loss,
    schedule_of,
)
from lipt_cords.experiments.chosen_files import SELECTION, write_split, write_table
from lipt_cords.experiments.report.results import PLACES, RESULTS
from lipt_cords.experiments.run import (
    SPLIT_SEED,
    OnData,
    begin,
    build_net,
    load_splits,
    without_cords_warnings,
)
from lipt_cords.experiments.subset_folder import check_subset_folder, make_subset_folder
from lipt_cords.experiments.subset_table import check_subset_table, make_subset_table
from lipt_cords.models.gradients import LastLayerGradients, last_layer_gradients
from lipt_cords.selectors.base import Selection
from lipt_cords.selectors.report import SelectionReport, SubsetAccuracy
from lipt_cords.training.subset import CHECKPOINT
from lipt_cords.training.weights import RECORD as STORED
from lipt_cords.training.weights import load_weights
from lipt_cords.warmstart.result import WarmStartResult

ARRAYS = "selection.npz"
SCHEMA = 1


@dataclass
class SelectionRun:
    """A selection and all that belongs to it."""

    selection: Selection
    """Positions in the training split; the weights average to about 1."""
    report: SelectionReport
    weights_from: str
    """``checkpoint``, ``warm start``, ``full-data epochs`` or ``untrained``: the model that
    selected; or ``no model``."""
    seconds: dict[str, float]
    """Wall time of ``weights``, ``gradients``, ``selection`` and ``total``."""
    peak_memory_bytes: dict[str, int]
    """Most memory of the ``process`` while it selected, and of the ``gpu`` if there is one."""
    config: dict[str, Any]
    checkpoint: str | None = None
    """The file or directory of the weights, where they were given."""
    as_train: bool = False
    """Whether it is the first selection of a training."""
    samples: int | None = None
    """The size that was asked for in place of the configuration's fraction."""
    files: dict[str, str] = field(default_factory=dict)
    """Digests of the files that ``dataset`` names, by key: ``without``, ``split``."""
    splits: DataSplits | None = None
    """The data, which name the samples in ``selected.csv``."""
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=provenance)

    @property
    def objective(self) -> dict[str, float]:
        """What the strategy optimised, over all its groups; empty for one without an objective.

        GLISTER: mean validation loss before and after the virtual step. GradMatch: mean relative
        residual of the matched gradient. CRAIG: facility-location value.
        """
        groups = self.report.info.get("groups", [])
        found: dict[str, float] = {}
        for key in ("validation_loss_before", "validation_loss_after", "residual"):
            values = [float(group[key]) for group in groups if key in group]
            if values:
                found[key] = sum(values) / len(values)
        values = [float(group["value"]) for group in groups if "value" in group]
        if values:
            found["facility_location_value"] = sum(values)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        chosen, report = self.selection, self.report
        return {
            "schema": SCHEMA,
            "kind": "selection",
            "strategy": report.strategy,
            "indices": chosen.indices.tolist(),
            "weights": chosen.weights.tolist(),
            "scores": None if chosen.scores is None else chosen.scores.tolist(),
            "objective": self.objective,
            "pool": {
                "dataset": self.config["dataset"],
                "split_seed": SPLIT_SEED,
                "size": report.pool,
            },
            "weights_from": self.weights_from,
            "checkpoint": self.checkpoint,
            "as_train": self.as_train,
            "samples": self.samples,
            "files": self.files,
            "accuracy": {"subset": report.subset_accuracy, "pool": report.pool_accuracy},
            "warning": report.warning,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "gradient_bytes": report.gradient_bytes,
            "info": _plain(report.info),
            "notes": self.notes,
            "config": self.config,
            "provenance": self.provenance,
        }

    def save(self, directory: str | Path) -> Path:
        """Write the record, the arrays, ``selected.csv`` and ``split.json``, each whole or absent.

        Raises:
            ValueError: the directory cannot be written, or another run uses it.
        """
        where = Path(directory).expanduser()
        chosen = self.selection
        arrays: dict[str, Any] = {
            "indices": chosen.indices.numpy(),
            "weights": chosen.weights.numpy(),
        }
        if chosen.scores is not None:
            arrays["scores"] = chosen.scores.numpy()
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        with owned(where):
            write_atomic(where / ARRAYS, buffer.getvalue())
            if self.splits is not None:
                write_split(where, self.splits)
                write_table(where, self.splits, chosen.indices, chosen.weights, chosen.scores)
            write_json(where / SELECTION, self.to_dict(), seal=True)
        return where


@owns_output
def select_once(
    config: RunConfig,
    *,
    checkpoint: str | Path | None = None,
    as_train: bool = False,
    samples: int | None = None,
    folder: str | Path | None = None,
    link: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    splits: DataSplits | None = None,
    on_data: OnData | None = None,
) -> SelectionRun | None:
    """Select one subset as a configuration says.

    Args:
        config: data, net, and ``dss_args`` with the strategy and its options.
        checkpoint: weights to select by: a warm start's directory, a ``.safetensors`` file, or
            the checkpoint of a run. None: the configuration's warm start is run; without one,
            ``Covering`` chooses without a model, random strategies by labels, and for others the
            untrained net selects and a note says so.
        as_train: choose what a training of this configuration would choose first, with CORDS's
            loader, a pilot's trials and full-data epochs where it has them.
        samples: size of the subset, in place of ``dss_args.fraction``.
        folder: where the chosen files of an image folder are copied to, into class folders; of a
            table, the new file that gets the chosen rows.
        link: make links to files in place of copies.
        output: directory for ``selection.json``, ``selection.npz``, ``selected.csv`` and
            ``split.json``; None writes nothing.
        overwrite: replace another selection in ``output``.
        splits: the data, already loaded.
        on_data: called with the data when they are loaded here, to say what they are.

    Returns:
        The selection; None on the ranks of ``torchrun`` that only help with the warm start.

    Raises:
        ValueError: whatever is wrong with the options, the data or the checkpoint; ``output`` holds
            a run, or another selection and ``overwrite`` is not set; the data are neither an
            image folder nor a table, or ``folder`` is not a new one.
    """
    started = time.perf_counter()
    selector_for(config.dss_args.strategy)  # Full has none
    if as_train and checkpoint is not None:
        raise ValueError(
            "--as-train selects by the model that the training has then, so --checkpoint has no "
            "place: leave one of them out"
        )
    if as_train:
        check_selection(config, [])
    else:
        check_strategy(config)
    where = None if output is None else Path(output).expanduser()
    target = None if folder is None else Path(folder).expanduser()
    if target is not None:
        if config.dataset.is_table:
            check_subset_table(target, config, link=link)
        else:
            check_subset_folder(target, config, where)
    known = None if checkpoint is None else str(Path(checkpoint).expanduser().resolve())
    files = _digests(config)
    if where is not None and is_main_process():
        asked = {
            "config": config.to_dict(), "checkpoint": known, "as_train": as_train, "files": files,
            "samples": samples,
        }  # fmt: skip
        _refuse_other(where, asked, overwrite)
    notes: list[str] = []
    device = pick_device(config.train_args.device, notes)
    splits = load_splits(config, on_data) if splits is None else splits
    notes += splits.left_out.notes()
    asked_for = config.to_dict()
    if samples is not None:
        config = of_size(config, samples, len(splits.train))  # type: ignore[arg-type]
    memory = PeakMemory(device)
    budget = subset_size_of(len(splits.train), config)  # type: ignore[arg-type]
    weights_seconds = 0.0
    if as_train:
        first = _first_of_training(config, splits, device, notes)
        if first is None:
            return None
        selection, report, weights_from = first
    elif checkpoint is None and chooses_untrained(config):
        if not is_main_process():
            return None
        weights_from = "no model"
        selection, report = choose_untrained(config, budget, splits.train, device)
    else:
        model = build_net(config, splits).to(device)
        weights_from, warm = _weights(config, splits, model, checkpoint, notes)
        if not is_main_process():
            return None
        weights_seconds = time.perf_counter() - started

        def read(source: BatchSource) -> LastLayerGradients:
            return last_layer_gradients(model, source, loss=per_sample_loss(config), device=device)

        train, val = (
            BatchSource(data, device=device, cache_bytes=0) for data in (splits.train, splits.val)
        )
        logged = dynamics_score_of(config)
        scores = None if logged is None or warm is None else warm.dynamics.score(logged)
        selection, report = choose_subset(config, budget, train, val, read, scores=scores)
    made = SelectionRun(
        selection=selection,
        report=report,
        weights_from=weights_from,
        seconds={
            "weights": weights_seconds,
            "gradients": report.gradient_seconds,
            "selection": report.selection_seconds,
            "total": time.perf_counter() - started,
        },
        peak_memory_bytes=memory.read(),
        config=asked_for,
        checkpoint=known,
        as_train=as_train,
        samples=samples,
        files=files,
        splits=splits,
        notes=notes,
    )
    if where is not None:
        made.save(where)
    if target is not None and splits.is_table:
        make_subset_table(target, splits, selection.indices.tolist())
    elif target is not None:
        make_subset_folder(target, splits, selection.indices.tolist(), link=link)
    return made


def _first_of_training(
    config: RunConfig, splits: DataSplits, device: torch.device, notes: list[str]
) -> tuple[Selection, SelectionReport, str] | None:
    """The first selection of a training, its report, and what selected; None on helping ranks."""
    dss, after = config.dss_args, schedule_of(config).select_after
    with isolated_rng(config.train_args.seed, "run"), without_cords_warnings():
        began = begin(config, splits, device)
        if began is None:
            return None
        trainer, said = began
        opened = trainer.first_subset(after)
    notes += said
    chosen = opened.chosen
    if chosen is None:
        raise ValueError(f"epoch {after} of this training selects nothing: check dss_args")
    subset, pool = opened.accuracies
    warning = None
    if subset is not None and pool is not None:
        warning = SubsetAccuracy(subset=subset, pool=pool, size=len(chosen)).warning
    report = SelectionReport(
        strategy=dss.strategy,
        selection_type=dss.selection_type or "PerClass",
        epoch=after,
        budget=len(chosen),
        pool=len(splits.train),  # type: ignore[arg-type]
        gradient_seconds=opened.gradient_seconds,
        selection_seconds=opened.selection_seconds - opened.gradient_seconds,
        gradient_bytes=chosen.info.get("gradient_bytes"),
        subset_accuracy=subset,
        pool_accuracy=pool,
        warning=warning,
        info=chosen.info,
    )
    if dss.warm_start is not None:
        return chosen, report, "warm start"
    if after > 0:
        return chosen, report, "full-data epochs"
    if not chooses_untrained(config) and not fact_of(dss.strategy, "labels_only"):
        notes.append("as in CORDS, an untrained model chooses nothing: the first subset is random")
    return chosen, report, "no model"


def _digests(config: RunConfig) -> dict[str, str]:
    """What the files that ``dataset`` names hold; one that is not there is refused when read."""
    named = {"without": config.dataset.without, "split": config.dataset.split}
    there = {key: path.expanduser() for key, path in named.items() if path is not None}
    return {key: checksum(path)[:16] for key, path in there.items() if path.is_file()}


def _refuse_other(directory: Path, asked: dict[str, Any], overwrite: bool) -> None:
    """Refuse a directory that holds a run, or a selection that was asked for in other words."""
    for name in (RESULTS, CHECKPOINT):
        if (directory / name).exists():
            raise ValueError(f"{directory / name} is of a run: choose another --output")
    path = directory / SELECTION
    if overwrite or not path.exists():
        return
    remedy = "choose another --output, or replace it by --overwrite"
    before = read_json(path, remedy=remedy)
    if "files" not in before:  # of an earlier version
        asked = {name: value for name, value in asked.items() if name != "files"}
    stored = {name: before.get(name) for name in asked}
    changed = first_difference(asked, stored, ignore=PLACES)
    if changed is not None:
        raise ValueError(f"{path} holds another selection ({changed}): {remedy}")


def _weights(
    config: RunConfig,
    splits: DataSplits,
    model: nn.Module,
    checkpoint: str | Path | None,
    notes: list[str],
) -> tuple[str, WarmStartResult | None]:
    """Load the weights to select by; returns where they come from, and a warm start's result.

    A stored one is read only where a score needs what it logged.
    """
    options = warm_start_options(config, next(model.parameters()).device)
    if checkpoint is not None:
        load_weights(model, checkpoint)
        if options is not None:
            notes.append("dss_args.warm_start was not run: the checkpoint's weights select")
        score = dynamics_score_of(config)
        if score is None:
            return "checkpoint", None
        if not (Path(checkpoint).expanduser() / STORED).is_file():
            raise ValueError(
                f"dss_args.options.score {score!r} reads what the workers of a warm start saw, and "
                f"{checkpoint} is not the directory of one: give that directory, or leave the "
                "checkpoint out"
            )
        return "checkpoint", WarmStartResult.load(checkpoint)
    if options is not None:
        result = fit_lipt(config, options, splits, model)
        result.apply_to(model)
        return "warm start", result
    if not fact_of(config.dss_args.strategy, "labels_only"):
        notes.append(
            "an untrained net selects: its gradients say little about the data. Give --checkpoint, "
            "or set dss_args.warm_start=lipt"
        )
    return "untrained", None


def _plain(value: Any) -> Any:
    """Nested settings and figures as JSON types; numbers that are not finite become text."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value
