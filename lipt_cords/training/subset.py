"""Training on one chosen subset, in one call: the plain way to use a :class:`Selection`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from lipt_cords.base.devices import resolve_device
from lipt_cords.base.errors import already_made, unknown_name
from lipt_cords.base.ownership import owns
from lipt_cords.base.randomness import isolated_rng, preserved_rng
from lipt_cords.base.sizes import parse_memory
from lipt_cords.data.batches import (
    collate,
    dataset_length,
    different_indices,
    split_batch,
    to_device,
)
from lipt_cords.data.collated import CollateFunction, apart, collated
from lipt_cords.data.contents import contents_of
from lipt_cords.data.open_files import nothing_left_open
from lipt_cords.data.reads import NotedItems
from lipt_cords.data.source import BatchSource
from lipt_cords.models.copies import bare
from lipt_cords.models.described import describe_layers, describe_loss, loss_value, steady
from lipt_cords.models.eager import uncompiled
from lipt_cords.models.heads import call_model, undisturbed
from lipt_cords.models.logits_alone import return_everything, return_logits_alone
from lipt_cords.models.losses import PerSampleLoss, per_sample_loss
from lipt_cords.models.modes import kept_in_eval
from lipt_cords.models.state import digest
from lipt_cords.models.usable import (
    explained,
    require_class_outputs,
    require_clear_modes,
    require_trainable,
    require_weights,
)
from lipt_cords.selectors.base import Selection
from lipt_cords.training.cheaper.path_schedule import SubnetworkConfig
from lipt_cords.training.cheaper.steps import CheaperSteps, parse_cheaper
from lipt_cords.training.cheaper.tickets import EarlyBirdConfig
from lipt_cords.training.ledger import CurvePoint
from lipt_cords.training.optimizers import (
    OPTIMIZERS,
    OptimizerConfig,
    build_optimizer,
    require_dense_gradients,
)
from lipt_cords.training.scheduler import SchedulerConfig, at_every_step, build_scheduler
from lipt_cords.training.schedules import steps_per_epoch
from lipt_cords.training.sources import SelectionSchedule, SelectorSource
from lipt_cords.training.step import (
    MemoryFormat,
    Precision,
    autocast_dtype,
    refuse_with_memory,
)
from lipt_cords.training.trainer import CheckpointPlan, Trainer, TrainingResult

CHECKPOINT = "checkpoint.pt"


@owns("checkpoint_dir")
def train_on_subset(
    model: nn.Module,
    train_dataset: Dataset[Any],
    selection: Selection | Tensor | Sequence[int],
    *,
    val_dataset: Dataset[Any] | None = None,
    epochs: int = 20,
    batch_size: int = 32,
    lr: float | None = None,
    optimizer: str | Mapping[str, Any] = "sgd",
    momentum: float | None = None,
    nesterov: bool = True,
    weight_decay: float | None = None,
    schedule: str | Mapping[str, Any] | SchedulerConfig | None = "auto",
    loss: nn.Module | PerSampleLoss | None = None,
    collate_fn: CollateFunction | None = None,
    eval_every: int = 1,
    precision: Precision = "fp32",
    memory_format: MemoryFormat = "auto",
    subnetwork: SubnetworkConfig | Mapping[str, Any] | None = None,
    early_bird: EarlyBirdConfig | Mapping[str, Any] | None = None,
    memory_budget: int | str | None = None,
    memory_bandwidth: float | None = None,
    seed: int = 0,
    device: str = "auto",
    checkpoint_dir: str | Path | None = None,
    save_every: int = 1,
    resume: bool = False,
    on_point: Callable[[CurvePoint], None] | None = None,
) -> TrainingResult:
    """Train a model, in place, on a weighted subset.

    The loss of a batch is sum(w l) / sum(w), as in CORDS. Every draw comes from ``seed``; the
    global random state of the caller is left as it was.

    Args:
        model: any module; it is moved to ``device``. Modules that are in eval mode in a model in
            train mode stay in it (a model in eval mode as a whole is trained as a whole), and so
            do BatchNorm layers in a part without trainable weights.
        train_dataset: a map-style data set of ``(x, y)`` pairs or dicts with labels.
        selection: samples of it and their weights; or indices of samples with equal weights.
        val_dataset: held-out data on which accuracy is measured, or None.
        epochs: epochs over the subset.
        batch_size: samples in a step.
        lr: peak learning rate; None: 0.05 for ``sgd``, 0.03 for ``muon``, 1e-3 for the others.
        optimizer: ``sgd``, ``muon``, ``adam``, ``adamw``, ``rmsprop`` or a registered one of your
            own; or the options of :class:`~lipt_cords.training.optimizers.OptimizerConfig`, such as
            ``{"type": "muon", "rest": "adamw"}``.
        momentum: of SGD (None: 0.9) or Muon (None: 0.6).
        nesterov: use Nesterov momentum in SGD.
        weight_decay: L2 decay; None: 5e-4, or the optimizer's own default.
        schedule: of the learning rate over all epochs: ``cosine_annealing`` moves it once per epoch
            as CORDS does; ``cosine``, ``linear`` and ``wsd`` (held, falling over the last quarter)
            at every step; ``none`` or None holds it; ``auto`` is ``wsd`` for ``muon``, ``cosine``
            for others, and what an optimizer of your own was registered with; or options of
            :class:`~lipt_cords.training.scheduler.SchedulerConfig`.
        loss: what a warm start takes: a torch loss, whose reduction is taken over, or a callable of
            (logits, labels); None is cross-entropy.
        collate_fn: makes a batch of a list of items, as DataLoader's does, such as one that pads
            texts; None stacks tensors.
        eval_every: epochs between two evaluations; the last epoch always is one.
        precision: ``bf16`` autocast of the forward pass, ``fp32``, or ``auto``: bf16 on a GPU
            that has it.
        memory_format: layout of images and convolutions: ``channels_last``, ``contiguous``, or
            ``auto``, which is channels_last, but on a CPU for nets whose backward pass torch
            may crash in (strided 1x1 convolutions of fewer than 16 channels).
        subnetwork: progressive subnetworks (RaPTr): options of
            :class:`~lipt_cords.training.cheaper.path_schedule.SubnetworkConfig`; ``{}`` takes its
            defaults.
        early_bird: an Early-Bird ticket: options of
            :class:`~lipt_cords.training.cheaper.tickets.EarlyBirdConfig`. The model ends with the
            weights of the smaller net that was trained, and zeros elsewhere.
        memory_budget: bytes that a step may have in memory, or a size such as ``"2GiB"``; a plan
            then keeps, swaps or recomputes activations, with the same bits
            (:class:`~lipt_cords.training.memory.planner.MemoryPlanner`).
        memory_bandwidth: bytes a second to the host for it; None measures it on a GPU, and takes
            12e9 on a CPU, where the device is simulated.
        seed: of the shuffling, of the paths, and of dropout and random transforms.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:0``, ``xpu`` or ``mps``.
        checkpoint_dir: directory for ``checkpoint.pt``; None writes nothing. One that holds a
            checkpoint is refused unless ``resume`` is set.
        save_every: epochs between two checkpoints.
        resume: continue from the checkpoint; bit for bit the uninterrupted run. What decides bits
            must be as it was then.
        on_point: called with every point of the curve, for a progress display.

    Returns:
        The curve and the costs.

    Raises:
        ValueError: a wrong option; a model without weights yet, without trainable ones, or with
            sparse gradients that the optimizer does not take; samples outside of the data, or named
            twice; a missing, truncated or foreign checkpoint, or one of another model; another run
            in ``checkpoint_dir``; samples that the model cannot read; a loss that is not finite.
    """
    require_weights(model)
    require_clear_modes(model)
    require_trainable(model)
    train_dataset = collated(train_dataset, collate_fn)
    if val_dataset is not None:
        val_dataset = collated(val_dataset, collate_fn)
    for option, number in (("epochs", epochs), ("batch_size", batch_size)):
        if number is None or isinstance(number, bool) or number < 1:
            raise ValueError(f"{option} must be at least 1, received {number!r}")
    for name, value, known in (
        ("precision", precision, get_args(Precision)),
        ("memory_format", memory_format, get_args(MemoryFormat)),
    ):
        if value not in known:
            raise unknown_name(name, value, known)
    if isinstance(selection, Subset):
        raise ValueError("expected a selection or indices, received a Subset: pass its .indices")
    if not isinstance(selection, Selection):
        chosen = different_indices(selection, dataset_length(train_dataset))
        selection = Selection(chosen, torch.ones(len(chosen)))
    if resume and checkpoint_dir is None:
        raise ValueError("resume=True needs the checkpoint_dir of the interrupted run")
    path = None if checkpoint_dir is None else Path(checkpoint_dir).expanduser() / CHECKPOINT
    if path is not None and path.exists() and not resume:
        raise already_made(path, resume="resume=True", directory="checkpoint_dir")
    paths, ticket = parse_cheaper(subnetwork, early_bird)
    memory = parse_memory(memory_budget, memory_bandwidth)
    if memory is not None:
        refuse_with_memory(subnetwork=paths is not None)
    target = resolve_device(device)
    named = {"type": optimizer} if isinstance(optimizer, str) else dict(optimizer)
    given = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    given = {name: value for name, value in given.items() if value is not None}
    optimizer_config = OptimizerConfig(**{"nesterov": nesterov, **given, **named})
    if isinstance(schedule, SchedulerConfig):
        rate = schedule
    elif schedule is None or isinstance(schedule, str):
        rate = SchedulerConfig(type=schedule)
    elif isinstance(schedule, Mapping):
        rate = SchedulerConfig(**schedule)
    else:
        raise ValueError(
            "expected the name of a schedule or options of SchedulerConfig, received "
            f"{type(schedule).__name__}"
        )
    if rate.type == "auto":
        rate = at_every_step(rate, optimizer_config.type)
    plan = None
    model.to(target)
    half = autocast_dtype(precision, target)
    few = Subset(train_dataset, selection.indices[: min(2, batch_size)].tolist())
    logits = _try(model, few, "the first of the chosen samples", target, half)
    if val_dataset is not None or not _is_of_the_user(loss):
        require_class_outputs(logits.shape[-1], "the model")
    if val_dataset is not None:
        few = Subset(val_dataset, range(min(2, dataset_length(val_dataset))))
        _try(model, few, "the first of the held-out samples", target)
    if path is not None:
        chosen_items = Subset(train_dataset, selection.indices.tolist())
        tried = steady(lambda: loss_value(loss, logits.shape[-1], seed, target), seed)
        identity = {
            "epochs": epochs,
            "batch_size": batch_size,
            "optimizer": optimizer_config.model_dump(),
            **OPTIMIZERS.foreign_code(optimizer_config.type),
            "schedule": rate.told(),
            "loss": describe_loss(loss),
            "value of the loss": None if isinstance(tried, Exception) else tried,
            "kind of device": target.type,
            "precision": precision,
            "memory_format": memory_format,
            "seed": seed,
            "subset": _fingerprint(selection),
            "contents of the chosen data": contents_of(chosen_items),
            "weights": {
                name: f"{'trained' if weight.requires_grad else 'frozen'}, {tuple(weight.shape)}, "
                f"{weight.dtype}"
                for name, weight in bare(model).named_parameters()
            },
            "layers": describe_layers(bare(model)),
            "modules in eval mode": kept_in_eval(bare(model)),
            "subnetwork": paths and paths.model_dump(mode="json"),
            "early_bird": ticket and ticket.model_dump(mode="json"),
        }
        plan = CheckpointPlan(path, identity, every=save_every)
    state = plan.load() if resume and plan is not None else None
    evaluation = {}
    if val_dataset is not None:
        evaluation["val"] = BatchSource(val_dataset, device=target)
    with isolated_rng(seed, "train on subset"):
        per_sample = per_sample_loss(loss, target) or nn.CrossEntropyLoss(reduction="none")
        cheaper = None
        if paths is not None or (ticket is not None and ticket.ratio > 0):
            epoch_steps = steps_per_epoch(len(selection.indices), batch_size)
            # Trial passes do not use the training's random numbers.
            with preserved_rng():
                some = BatchSource(train_dataset, selection.indices[:2].tolist(), device=target)
                cheaper = CheaperSteps(
                    model,
                    next(some.batches(batch_size=2)),
                    lambda logits, labels: per_sample(logits, labels).mean(),
                    steps=epochs * epoch_steps,
                    epoch_steps=epoch_steps,
                    seed=seed,
                    subnetwork=paths,
                    early_bird=ticket,
                )
        require_dense_gradients(model, optimizer_config)
        steps = build_optimizer(model, optimizer_config, precision=half)
        source = SelectorSource(
            train_dataset,
            lambda epoch: selection,
            SelectionSchedule(epochs, kappa=0.0, fraction=1.0, select_every=epochs),
            batch_size=batch_size,
            seed=seed,
        )
        trainer = Trainer(
            model,
            source,
            steps,
            build_scheduler(steps, rate, name=optimizer_config.type, epochs=epochs),
            loss=per_sample,
            evaluation=evaluation,
            eval_every=eval_every,
            precision=precision,
            memory_format=memory_format,
            cheaper=cheaper,
            memory=memory,
        )
        with nullcontext() if cheaper is None else cheaper.applied():
            if state is not None:
                trainer.load_state_dict(state)
            return trainer.run(epochs, plan=plan, on_point=on_point)


def _is_of_the_user(loss: nn.Module | PerSampleLoss | None) -> bool:
    """Whether a loss may read logits in its own way: it is none of torch's."""
    return loss is not None and not type(loss).__module__.startswith("torch.nn")


def _fingerprint(selection: Selection) -> dict[str, Any]:
    """The size of a selection, and a digest of its samples and weights."""
    parts = {"indices": selection.indices, "weights": selection.weights}
    return {"samples": len(selection.indices), "digest": digest(parts)[:16]}


def _try(
    model: nn.Module,
    samples: Subset[Any],
    what: str,
    device: torch.device,
    half: torch.dtype | None = None,
) -> Tensor:
    """The logits of some samples; nothing is changed by them.

    Raises:
        ValueError: the model cannot read them; shapes and dtypes are named.
    """
    with preserved_rng(), nothing_left_open(samples):
        plain, collate_fn = apart(samples)
        items = NotedItems(plain)
        taken = [items[place] for place in range(len(samples))]
        inputs, _ = split_batch((collate_fn or collate)(taken))
    inputs = to_device(inputs, device)
    return_logits_alone(model)
    try:
        with (
            explained(model, inputs, what),
            uncompiled(),
            undisturbed(model),
            torch.autocast(device.type, dtype=half, enabled=half is not None),
        ):
            return call_model(model, inputs)
    finally:
        return_everything(model)
