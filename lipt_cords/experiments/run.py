"""One configured run from data to results.json: the same path for every method."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lipt_cords.base.errors import already_made
from lipt_cords.base.files import write_json
from lipt_cords.base.ownership import is_main_process, owns_output
from lipt_cords.base.process_memory import PeakMemory
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import isolated_rng, preserved_rng
from lipt_cords.base.registry import code_of
from lipt_cords.cords.config import RunConfig
from lipt_cords.cords.contract import make_cords_compatible
from lipt_cords.data.contents import contents_of
from lipt_cords.data.datasets import DataSplits, load_dataset
from lipt_cords.data.labels import labels_of
from lipt_cords.data.source import BatchSource
from lipt_cords.experiments.assemble import (
    assemble,
    fit_lipt,
    full_data_flops,
    pick_device,
    uses_cords,
    warm_start_options,
)
from lipt_cords.experiments.choose import per_sample_loss, schedule_of
from lipt_cords.experiments.chosen_files import SELECTION, write_split, write_table
from lipt_cords.experiments.record import RunRecord
from lipt_cords.experiments.report.results import RESULTS
from lipt_cords.experiments.tracking import Tracker
from lipt_cords.models.build import build_model, canonical_model_name
from lipt_cords.models.heads import find_head
from lipt_cords.training.ledger import CurvePoint
from lipt_cords.training.optimizers import CORDS_SCHEDULE, build_optimizer
from lipt_cords.training.scheduler import build_scheduler
from lipt_cords.training.step import autocast_dtype
from lipt_cords.training.subset import CHECKPOINT
from lipt_cords.training.trainer import CheckpointPlan, Trainer
from lipt_cords.warmstart.result import WarmStartResult

OnPoint = Callable[[CurvePoint], None]
OnData = Callable[[DataSplits], None]
SCHEMA = 1
SPLIT_SEED = 0
"""Runs of all seeds share one split, so that their spread is that of training and selection."""


def load_splits(config: RunConfig, on_data: OnData | None = None) -> DataSplits:
    """The data of a run.

    Args:
        config: its section ``dataset`` says which.
        on_data: called with them, to say what they are.

    Raises:
        ValueError: data that are not there or cannot be read, or an unknown net, which is named
            before they are read.
    """
    if ":" not in config.model.architecture:
        canonical_model_name(config.model.architecture)
    data = config.dataset
    splits = load_dataset(
        data.name,
        data.datadir,
        seed=SPLIT_SEED,
        val_fraction=data.val_fraction,
        download=data.download,
        limit=data.limit,
        image_size=data.image_size,
        skip_unreadable=data.skip_unreadable,
        without=data.without,
        split=data.split,
        label=data.label,
        columns=data.columns,
    )
    if on_data is not None:
        on_data(splits)
    return splits


def build_net(config: RunConfig, splits: DataSplits) -> nn.Module:
    """The net of a run, on the CPU, with weights drawn from the run's seed.

    Raises:
        ValueError: an unknown net, or fewer outputs than the data has classes.
    """
    classes = config.model.numclasses or splits.num_classes
    if classes < splits.num_classes:
        raise ValueError(
            f"model.numclasses is {classes} but {splits.name} has {splits.num_classes} classes: "
            "leave it out or raise it"
        )
    return build_model(
        config.model.architecture,
        classes,
        in_channels=splits.input_shape[0],
        image_size=1 if splits.is_table else splits.input_shape[-1],
        seed=config.train_args.seed,
    )


def begin(
    config: RunConfig,
    splits: DataSplits,
    device: torch.device,
    *,
    resumed: bool = False,
    fitted: WarmStartResult | None = None,
) -> tuple[Trainer, list[str]] | None:
    """Run the warm start of a configuration, if it has one, and build all that its epochs need.

    Call it inside ``isolated_rng`` with the run's seed and :func:`without_cords_warnings`.

    Args:
        config: the run.
        splits: its data.
        device: of its net.
        resumed: whether a checkpoint will be loaded next.
        fitted: the warm start, where it has run already.

    Returns:
        The trainer, without data to evaluate on, and what a reader must know; None on ranks of
        ``torchrun`` that only help with the warm start.
    """
    model = build_net(config, splits).to(device)
    if uses_cords(config, []):
        make_cords_compatible(model, _head_of_several(model, splits, device))
    # Before the loader, as CORDS's scripts do: a warm start loads its weights in place.
    precision = autocast_dtype(config.train_args.precision, device)
    optimizer = build_optimizer(model, config.optimizer, precision=precision)
    assembled = assemble(config, splits, model, resumed=resumed, fitted=fitted)
    if not is_main_process():
        return None
    trainer = Trainer(
        model,
        assembled.source,
        optimizer,
        build_scheduler(
            optimizer,
            config.scheduler,
            name=config.optimizer.type,
            epochs=_stepped_epochs(config),
        ),
        loss=per_sample_loss(config),
        schedule_over=config.scheduler.over,
        eval_every=config.train_args.eval_every,
        precision=config.train_args.precision,
        memory_format=config.train_args.memory_format,
        memory=config.train_args.memory,
    )
    trainer.result.costs = assembled.costs
    if assembled.report is None:
        flops = full_data_flops(config, splits, model, schedule_of(config).warmup_epochs)
        assembled.costs.warmup_flops = assembled.costs.warmup_critical_flops = flops
    else:
        trainer.extra["warm_start"] = assembled.report.to_dict()
    return trainer, assembled.notes


@owns_output
def run(
    config: RunConfig,
    *,
    method: str | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    splits: DataSplits | None = None,
    warm: WarmStartResult | None = None,
    command: str | None = None,
    on_data: OnData | None = None,
    on_point: OnPoint | None = None,
) -> RunRecord | None:
    """Run a configuration: data, net, warm start, loader, training, evaluation.

    Every draw, those of CORDS included, comes from the run's seed; the global random state of the
    caller is left as it was.

    Args:
        config: the run.
        method: its name in the record; None takes the strategy's.
        seed: replaces the configuration's.
        output: directory for ``results.json``, ``selected.csv`` (the last selection),
            ``split.json`` and the checkpoint; None writes nothing.
        resume: continue from the checkpoint in ``output``.
        splits: the data, already loaded.
        warm: the warm start that the configuration asks for, already fitted on these data with
            this seed; the record carries its costs.
        command: the command line that asked for it, to be written down.
        on_data: called with the data when they are loaded here, to say what they are.
        on_point: called with every point of the curve, for a progress display.

    Returns:
        The record; None on the ranks of ``torchrun`` that only help with the warm start.

    Raises:
        ValueError: whatever is wrong with the options, the data or a checkpoint; another run that
            uses ``output``; or ``output`` holds an earlier one and ``resume`` is not set.
    """
    if seed is not None:
        config = config.updated(train_args={"seed": seed})
    resume = resume or config.ckpt.is_load
    if resume and output is None:
        raise ValueError("resuming needs the --output directory of the interrupted run")
    directory = None if output is None or not is_main_process() else Path(output).expanduser()
    if directory is not None and not resume:
        _refuse_earlier(directory)
    tensorboard = config.train_args.tensorboard
    if tensorboard and output is None:
        raise ValueError("train_args.tensorboard writes its logs into --output: give a directory")
    tracker = None if directory is None else Tracker(directory, tensorboard=tensorboard)
    record = RunRecord(
        method=method or config.dss_args.type,
        seed=config.train_args.seed,
        config=config.to_dict(),
        provenance=provenance(),
    )
    device = pick_device(config.train_args.device, record.notes)
    memory = PeakMemory(device)
    splits = load_splits(config, on_data) if splits is None else splits
    record.notes += splits.left_out.notes()
    plan = _checkpoints(config, directory, splits, device)
    state = plan.load() if resume and plan is not None else None
    with isolated_rng(config.train_args.seed, "run"), without_cords_warnings():
        began = begin(config, splits, device, resumed=resume, fitted=warm)
        if began is None:
            return None
        trainer, notes = began
        record.notes += [*notes, *_schedule_notes(config)]
        trainer.evaluation = {
            "val": BatchSource(splits.val, device=device),
            "test": BatchSource(splits.test, device=device),
        }
        if state is not None:
            trainer.load_state_dict(state)
        kept = plan if config.ckpt.is_save else None
        with tracker or nullcontext():
            result = trainer.run(
                config.train_args.num_epochs,
                plan=kept,
                on_point=_tracked(tracker, trainer, on_point),
            )
    record.test_accuracy, record.val_accuracy = result.test_accuracy, result.val_accuracy
    record.costs, record.curve = result.costs, result.curve
    record.notes += result.notes
    record.warm_start = trainer.extra.get("warm_start")
    record.peak_memory_bytes = memory.read()
    with preserved_rng():  # a data set's own transforms may draw
        record.subsets = trainer.subsets.summary(
            splits.train, labels_of(splits.train), splits.class_names
        )
    if directory is not None:
        last = trainer.subsets
        if last.indices is not None and last.weights is not None:
            write_split(directory, splits)
            write_table(directory, splits, last.indices, last.weights, last.scores)
        head = {"schema": SCHEMA, "kind": "run", "command": command}
        write_json(directory / RESULTS, {**head, **record.to_dict()}, seal=True)
    return record


@owns_output
def fit_warm_start(
    config: RunConfig,
    *,
    output: str | Path | None = None,
    splits: DataSplits | None = None,
    on_data: OnData | None = None,
) -> WarmStartResult:
    """Fit the warm start of a configuration alone, and save it.

    Args:
        config: its data, net and ``dss_args.warm_start``; the default LiPT where it has none.
        output: directory for the merged weights and the report, and for finished workers, from
            which an interrupted run continues; None writes nothing.
        splits: the data, already loaded.
        on_data: called with the data when they are loaded here, to say what they are.

    Raises:
        ValueError: whatever is wrong with the options or the data.
    """
    if config.dss_args.warm_start is None:
        config = config.updated(dss_args={"warm_start": "lipt"})
    notes: list[str] = []
    device = pick_device(config.train_args.device, notes)
    options = warm_start_options(config, device)
    if output is not None and options is not None and options.work_dir is None:
        # So the same command continues where it was interrupted.
        options = options.model_copy(update={"work_dir": Path(output)})
    splits = load_splits(config, on_data) if splits is None else splits
    notes += splits.left_out.notes()
    model = build_net(config, splits).to(device)
    result = fit_lipt(config, options, splits, model)
    result.report.notes.extend(notes)
    if output is not None and is_main_process():
        result.save(output)
    return result


def _head_of_several(model: nn.Module, splits: DataSplits, device: torch.device) -> str | None:
    """The head, found by a sample, where a net has several linear layers; None for any other."""
    if sum(isinstance(layer, nn.Linear) for layer in model.modules()) < 2:
        return None
    source = BatchSource(splits.train, [0], device=device, cache_bytes=0)
    sample, _ = next(source.batches(batch_size=1))
    return find_head(model, sample=sample).name


def _tracked(tracker: Tracker | None, trainer: Trainer, on_point: OnPoint | None) -> OnPoint | None:
    """Log what a trainer has already, and every later point before it is shown."""
    if tracker is None:
        return on_point
    tracker.begin(trainer.extra.get("warm_start"), trainer.result.curve)

    def logged(point: CurvePoint) -> None:
        tracker.point(point)
        if on_point is not None:
            on_point(point)

    return logged


@contextmanager
def without_cords_warnings() -> Iterator[None]:
    """CORDS asks for pinned memory on machines without a GPU, and torch says so at every epoch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pin_memory.*", category=UserWarning)
        yield


def contents_of_splits(splits: DataSplits) -> dict[str, str | None]:
    """Digests of the three parts of some data, as a stored run names them."""
    return {
        f"contents of the {name} data": contents_of(part)
        for name, part in (
            ("training", splits.train), ("validation", splits.val), ("test", splits.test)
        )
    }  # fmt: skip


def _refuse_earlier(directory: Path) -> None:
    """Refuse a directory that holds an earlier run."""
    if (directory / CHECKPOINT).exists():
        raise already_made(directory / CHECKPOINT)
    if (directory / RESULTS).exists():
        raise ValueError(
            f"{directory / RESULTS} holds results already, of a run that saved no checkpoint: "
            "delete it, or choose another --output"
        )
    if (directory / SELECTION).exists():
        raise ValueError(
            f"{directory / SELECTION} is of lipt-cords select: choose another --output"
        )


def _checkpoints(
    config: RunConfig, directory: Path | None, splits: DataSplits, device: torch.device
) -> CheckpointPlan | None:
    if directory is None:
        return None
    identity: dict[str, Any] = config.to_dict()
    identity.pop("ckpt")
    for unrelated in ("tensorboard", "memory_budget", "memory_bandwidth"):
        identity["train_args"].pop(unrelated)
    for elsewhere in ("datadir", "download", "split"):  # the contents of the parts stand below
        identity["dataset"].pop(elsewhere)
    identity["data"] = contents_of_splits(splits)
    identity["kind of device"] = device.type
    identity["code"] = code_of(config.imports)
    made = f" and {RESULTS}" if (directory / RESULTS).exists() else ""
    afresh = f"delete it{made} and run again without --resume"
    return CheckpointPlan(
        directory / CHECKPOINT, identity, every=config.ckpt.save_every, afresh=afresh
    )


def _stepped_epochs(config: RunConfig) -> int:
    """Epochs in which the schedule is stepped."""
    over_subset = config.scheduler.over == "subset"
    return schedule_of(config).subset_epochs if over_subset else config.train_args.num_epochs


def _schedule_notes(config: RunConfig) -> list[str]:
    """A cosine of another length than the schedule's is worth a note."""
    epochs, wanted = _stepped_epochs(config), config.scheduler.T_max
    kind = config.scheduler.chosen(config.optimizer.type)
    if kind != CORDS_SCHEDULE or wanted in (None, epochs):
        return []
    return [f"scheduler.T_max is {wanted} but the schedule is stepped in {epochs} epochs"]
