"""Before the rounds: everything is checked, compared between the ranks, and read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.differences import first_difference
from lipt_cords.base.ownership import owned
from lipt_cords.base.randomness import isolated_rng
from lipt_cords.data.batches import to_device
from lipt_cords.data.contents import contents_of
from lipt_cords.data.folders import FolderImages
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.labels import labels_of
from lipt_cords.data.source import BatchSource
from lipt_cords.data.tables.rows import TableRows
from lipt_cords.models.copies import copy_model
from lipt_cords.models.described import describe_loss
from lipt_cords.models.heads import (
    model_device,
    run_model,
    undisturbed,
)
from lipt_cords.models.modes import kept_in_eval
from lipt_cords.models.usable import explained
from lipt_cords.training.schedules import steps_per_epoch
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.soup import SOUPS
from lipt_cords.warmstart.plan import FitPlan
from lipt_cords.warmstart.prepare.checks import (
    Request,
    _check_labels,
    check_model,
    data_length,
    first_inputs,
    head_of,
)
from lipt_cords.warmstart.prepare.shards import check_shards, make_shards, missing_classes
from lipt_cords.warmstart.ranks.ranks import Ranks
from lipt_cords.warmstart.resume.fingerprint import fingerprint, require_alike
from lipt_cords.warmstart.resume.folder import RunFolder
from lipt_cords.warmstart.resume.identity import (
    code_hash,
    complete_description,
    describe_run,
    hash_of,
)
from lipt_cords.warmstart.watch.probe import Probe
from lipt_cords.warmstart.workers.augment import require_images
from lipt_cords.warmstart.workers.batches import Pool

VERSION = "code of lipt_cords"
"""The hash of the whole package: ranks exchange messages, so they must have one version."""


def make_plan(
    config: WarmStartConfig,
    model: nn.Module,
    dataset: Dataset[Any],
    val_dataset: Dataset[Any] | None,
    num_classes: int | None,
    shards: Sequence[Tensor] | None = None,
) -> tuple[FitPlan, Tensor]:
    """Check the model and the data, and make the shards, unless they are given.

    Returns:
        The plan, and the labels of the whole training set, shape (N,).

    Raises:
        ValueError: anything that would make the warm start fail later.
    """
    if SOUPS.entry(config.soup).facts["needs_validation"] and val_dataset is None:
        raise ValueError(
            f"soup={config.soup!r} reads held-out accuracies of workers and needs val_dataset: "
            "pass one, or set soup='uniform'"
        )
    if config.stop_when is not None and val_dataset is None:
        raise ValueError(
            "stop_when compares workers on held-out samples and needs val_dataset: pass one, or "
            "leave stop_when out"
        )
    if data_length(dataset, "training") == 0:
        raise ValueError("the training data set is empty: expected at least one sample")
    if val_dataset is not None and data_length(val_dataset, "validation") == 0:
        raise ValueError("the validation data set is empty: pass val_dataset=None, or fill it")
    sample = first_inputs(dataset)
    model = copy_model(model)  # a forward pass may leave something in it
    if config.augmentation != "none":
        require_images(sample, config.augmentation)
    head = head_of(config, model, sample, num_classes)
    classes = head.module.out_features
    of_training: list[str] = []
    of_held_out: list[str] = []
    labels = labels_of(dataset, of_training)
    _check_labels(labels, classes, "training")
    if val_dataset is not None:
        held_out = first_inputs(val_dataset)
        with explained(model, held_out, "the first validation sample"), undisturbed(model):
            run_model(model, to_device(held_out, model_device(model)))
        _check_labels(labels_of(val_dataset, of_held_out), classes, "validation")
    if shards is None:
        dealt = make_shards(labels, config.num_workers, config.shard_fraction, config.seed)
    else:
        dealt = check_shards(shards, config.num_workers, len(labels))
    smallest = min(map(len, dealt))
    steps = round(config.epochs * steps_per_epoch(smallest, config.batch_size))
    if config.local_steps is None and steps < config.rounds:
        raise ValueError(
            f"rounds ({config.rounds}) exceeds the {steps} steps that epochs={config.epochs:g} "
            f"over a shard of {smallest} samples makes, and every round needs one: lower rounds, "
            "or raise epochs"
        )
    missing = missing_classes(labels, dealt)
    changing = BatchSource(dataset, cache_bytes=0).changes()
    relabelled = [
        f"{which} data: {note}"
        for which, notes in (("training", of_training), ("held-out", of_held_out))
        for note in notes
    ]
    return FitPlan(
        head.name, dealt, missing, changing, relabelled=relabelled, in_eval=kept_in_eval(model)
    ), labels


def prepare(
    config: WarmStartConfig, ranks: Ranks, request: Request, held: ExitStack, owners: str | None
) -> tuple[FitPlan, Tensor, RunFolder | None]:
    """The plan and the folder, on every rank; the labels, on rank 0 only.

    Args:
        config: the options.
        ranks: that fit together; together they own the folder.
        request: the arguments of the fit.
        held: ends owning the folder.
        owners: token of those who own it already, or None.
    """
    model, dataset, val_dataset = request.model, request.dataset, request.val_dataset

    def checked() -> dict[str, Any]:
        check_model(model)
        request.check()
        samples = data_length(dataset, "training")
        held_out = 0 if val_dataset is None else data_length(val_dataset, "validation")
        return {
            **describe_run(config, model, samples, ranks.device),
            **_talking(config),
            VERSION: code_hash(),
            "loss": describe_loss(request.loss),
            "size of the held-out data": held_out,
        }

    described = ranks.everywhere(checked, "options")
    for rank, one in enumerate(described):
        if (differing := first_difference(described[0], one)) is not None:
            raise ValueError(
                f"rank {rank} differs from rank 0: {differing}. Start the same script with the "
                "same arguments and versions on every rank"
            )
    work_dir = config.work_dir
    if work_dir is not None:  # before anything is read
        directory = work_dir
        owners = ranks.on_main(
            lambda: held.enter_context(owned(directory, owners)), "the owner of work_dir"
        )
        ranks.everywhere(
            lambda: held.enter_context(owned(directory, owners)) and None, "the owners of work_dir"
        )
    labels = torch.empty(0, dtype=torch.int64)

    def plan_on_main() -> FitPlan:
        nonlocal labels
        with isolated_rng(config.seed, "prepare"):
            plan, labels = make_plan(
                config, model, dataset, val_dataset, request.num_classes, request.shards
            )
        return plan

    plan = ranks.on_main(plan_on_main, "the plan")
    classes = int(model.get_submodule(plan.head).out_features)  # type: ignore[arg-type]
    look = partial(
        fingerprint, model, dataset, val_dataset, request.loss,
        classes=classes, seed=config.seed, device=ranks.device,
    )  # fmt: skip
    found = ranks.everywhere(look, "fingerprints")
    require_alike(found)
    plan = replace(plan, unknown=found[0].unknown)
    if work_dir is None:
        return plan, labels, None

    def describe() -> dict[str, Any]:
        values = found[0].values | _whole_contents(dataset, val_dataset)
        return complete_description(
            _of_the_run(described[0], config), found[0].weights, labels, plan.shards, values
        )

    description = ranks.on_main(describe, "the description of the run")
    opened = partial(RunFolder, work_dir, hash_of(description), description)
    ranks.on_main(lambda: opened() and None, "work_dir")  # one writes: the disk may be shared
    folder: list[RunFolder] = []
    ranks.everywhere(lambda: folder.append(opened()), "work_dir on every rank")
    return plan, labels, folder[0]


def read_data(
    config: WarmStartConfig,
    ranks: Ranks,
    plan: FitPlan,
    dataset: Dataset[Any],
    val_dataset: Dataset[Any] | None,
) -> tuple[Pool | None, BatchSource | None, Probe | None]:
    """This rank's samples, read once and checked before any training; and the held-out data."""
    pool, validation, probe = None, None, None

    def read() -> None:
        nonlocal pool, validation, probe
        with isolated_rng(config.seed, "pool", ranks.rank):
            if mine := plan.shards[ranks.rank :: ranks.size]:
                indices = torch.cat(mine).sort().values
                pool = Pool(
                    dataset, indices, ranks.device, config.loader_workers, changing=plan.changing
                )
            if val_dataset is not None:
                validation = BatchSource(
                    val_dataset, device=ranks.device, num_workers=config.loader_workers
                )
                probe = Probe(validation, config.probe_samples, seed=config.seed, head=plan.head)

    ranks.everywhere(read, "reading the data")
    return pool, validation, probe


def _whole_contents(
    dataset: Dataset[Any], val_dataset: Dataset[Any] | None
) -> dict[str, str | None]:
    """Digests of images and tables, of which not only some samples can be compared, for runs that
    are stored."""
    given = {"training": dataset, "held-out": val_dataset}
    return {
        f"contents of the {which} {'rows' if isinstance(data, TableRows) else 'images'}": (
            contents_of(data)
        )
        for which, data in given.items()
        if isinstance(data, ImageTensors | FolderImages | TableRows)
    }


def _talking(config: WarmStartConfig) -> dict[str, Any]:
    """Options that do not change the weights, but what ranks send each other."""
    return {
        "min_workers": config.min_workers,
        "keep_workers": config.keep_workers,
        "work_dir": config.work_dir and "a directory",  # each machine may have its own
    }


def _of_the_run(described: dict[str, Any], config: WarmStartConfig) -> dict[str, Any]:
    """Without the version: a run can be resumed although other parts of the package changed."""
    left_out = {VERSION, *_talking(config)}
    return {name: value for name, value in described.items() if name not in left_out}
