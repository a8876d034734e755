"""Before the rounds: everything is checked, agreed on between the ranks, and read."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipt_cords.config import WarmStartConfig
from lipt_cords.data import BatchSource
from lipt_cords.randomness import isolated_rng
from lipt_cords.warmstart.arguments import Request
from lipt_cords.warmstart.feed import Pool
from lipt_cords.warmstart.fingerprint import fingerprint, require_alike
from lipt_cords.warmstart.folder import RunFolder, first_difference
from lipt_cords.warmstart.identity import complete_description, describe_loss, describe_run, hash_of
from lipt_cords.warmstart.plan import Plan, check_model, data_length, make_plan
from lipt_cords.warmstart.probe import Probe
from lipt_cords.warmstart.ranks import Ranks


def prepare(
    config: WarmStartConfig, ranks: Ranks, request: Request
) -> tuple[Plan, Tensor, RunFolder | None]:
    """The plan and the folder on every rank; the labels, which rank 0 alone has read, there."""
    model, dataset, val_dataset = request.model, request.dataset, request.val_dataset

    def checked() -> dict[str, Any]:
        check_model(model)
        request.check()
        samples = data_length(dataset, "training")
        held_out = 0 if val_dataset is None else data_length(val_dataset, "validation")
        return {
            **describe_run(config, model, samples, ranks.device),
            "loss": describe_loss(request.loss),
            "size of the held-out data": held_out,
        }

    described = ranks.everywhere(checked)
    for rank, one in enumerate(described):
        if (differing := first_difference(described[0], one)) is not None:
            raise ValueError(
                f"rank {rank} differs from rank 0: {differing}. Start the same script with the "
                "same arguments and versions on every rank"
            )
    labels = torch.empty(0, dtype=torch.int64)

    def plan_on_main() -> Plan:
        nonlocal labels
        with isolated_rng(config.seed, "prepare"):
            plan, labels = make_plan(
                config, model, dataset, val_dataset, request.num_classes, request.shards
            )
        return plan

    plan = ranks.on_main(plan_on_main)
    classes = int(model.get_submodule(plan.head).out_features)  # type: ignore[arg-type]
    look = partial(
        fingerprint, model, dataset, val_dataset, request.loss,
        classes=classes, seed=config.seed, device=ranks.device,
    )  # fmt: skip
    found = ranks.everywhere(look)
    require_alike(found)
    plan = replace(plan, unknown=found[0].unknown)
    description = ranks.on_main(
        lambda: complete_description(
            described[0], found[0].weights, labels, plan.shards, found[0].values
        )
    )
    if config.work_dir is None:
        return plan, labels, None
    opened = partial(RunFolder, config.work_dir, hash_of(description), description)
    ranks.on_main(lambda: opened() and None)  # one writes the record, where the disk is shared
    folder: list[RunFolder] = []
    ranks.everywhere(lambda: folder.append(opened()))
    return plan, labels, folder[0]


def read_data(
    config: WarmStartConfig,
    ranks: Ranks,
    plan: Plan,
    dataset: Dataset[Any],
    val_dataset: Dataset[Any] | None,
) -> tuple[Pool | None, BatchSource | None, Probe | None]:
    """This rank's samples, read once and checked before anyone trains; and the held-out data."""
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

    ranks.everywhere(read)
    return pool, validation, probe
