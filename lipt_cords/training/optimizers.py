"""Optimizers in one registry, for workers and for trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from lipt_cords.base.devices import has_fused_steps
from lipt_cords.base.errors import unknown_name
from lipt_cords.base.options import ConfigSection
from lipt_cords.base.registry import Registry, is_foreign
from lipt_cords.models.matrices import hidden_matrices
from lipt_cords.models.usable import require_trainable
from lipt_cords.training.muon import Muon, Rest
from lipt_cords.training.schedules import EVERY_STEP


@dataclass(frozen=True)
class OptimizerOptions:
    """What an optimizer is built with.

    Attributes:
        lr: peak learning rate; the training moves the rate of every group in proportion.
        momentum: in [0, 1).
        weight_decay: 0 or more.
        nesterov: use Nesterov momentum.
        fused: one kernel per step where torch has one; it rounds differently.
        partial_gradients: some steps leave some parameters without a gradient (``subnetwork``).
        matrices: those of the parameters that are hidden weight matrices
            (:func:`~lipt_cords.models.matrices.hidden_matrices`).
        stacked: every parameter holds those of several nets, along its first dimension.
        precision: dtype of the training's forward pass; None: that of the weights.
        rest: for ``muon``: the optimizer of all that is no hidden weight matrix.
        rest_lr: its peak learning rate; None: 0.05 for SGD and 1e-3 for AdamW.
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False
    fused: bool = False
    partial_gradients: bool = False
    matrices: tuple[nn.Parameter, ...] = ()
    stacked: bool = False
    precision: torch.dtype | None = None
    rest: Rest = "sgd"
    rest_lr: float | None = None


CORDS_SCHEDULE = "cosine_annealing"
"""CORDS's own default."""

OptimizerFunction = Callable[[list[nn.Parameter], OptimizerOptions], Optimizer]
OPTIMIZERS: Registry[OptimizerFunction] = Registry(
    "optimizer",
    takes=("parameters", "options"),
    trains_workers=True,
    defaults={},
    schedule=CORDS_SCHEDULE,
)
"""``trains_workers``: whether workers of a warm start can train with it; ``defaults``: of its
``lr``, ``momentum`` and ``weight_decay``, where they are not those of SGD; ``schedule``: of a
training that names none."""


def register_optimizer(
    name: str,
    *,
    trains_workers: bool = True,
    defaults: Mapping[str, float] | None = None,
    schedule: str = CORDS_SCHEDULE,
) -> Callable[[OptimizerFunction], OptimizerFunction]:
    """Register an optimizer under a name, for warm starts and trainings.

    The function takes a list of parameters and :class:`OptimizerOptions`, and returns a
    ``torch.optim.Optimizer`` over all of them.

    Args:
        name: must be free.
        trains_workers: whether workers of a warm start can train with it.
        defaults: of ``lr``, ``momentum`` and ``weight_decay``, where they are not SGD's.
        schedule: of a training that names none
            (:class:`~lipt_cords.training.scheduler.SchedulerConfig`).

    Raises:
        ValueError: the name is taken, the function cannot be called so, or an unknown default or
            schedule.
    """
    known = {"lr", "momentum", "weight_decay"}
    if unknown := sorted(set(defaults or {}) - known):
        raise ValueError(f"defaults of an optimizer are {sorted(known)}, received {unknown}")
    if schedule not in (schedules := (CORDS_SCHEDULE, *EVERY_STEP, "none")):
        raise unknown_name("schedule", schedule, schedules)
    return OPTIMIZERS.register(
        name, trains_workers=trains_workers, defaults=dict(defaults or {}), schedule=schedule
    )


def with_defaults(
    values: Any, named_by: str, unnamed: str = "sgd", others: Mapping[str, float] | None = None
) -> Any:
    """Given options with the optimizer's own defaults, before they are validated.

    Args:
        values: options by name; anything else is returned as it is.
        named_by: the option that names the optimizer.
        unnamed: the optimizer where none is named; its defaults are the record's own.
        others: defaults of any other optimizer, where it has none of its own.

    Raises:
        ValueError: an option of Muon is given with another optimizer.

    >>> with_defaults({"type": "adamw", "weight_decay": 0.0}, "type")
    {'lr': 0.001, 'type': 'adamw', 'weight_decay': 0.0}
    """
    if not isinstance(values, Mapping):
        return values
    name = values.get(named_by, unnamed)
    unused = {"rest": "sgd", "rest_lr": None}  # which a dumped record holds too
    given = [one for one, default in unused.items() if values.get(one, default) != default]
    if given and name != "muon":
        raise ValueError(
            f"{given[0]} is an option of optimizer 'muon', and the optimizer is {name!r}: leave it "
            "out, or set the optimizer to 'muon'"
        )
    if named_by not in values:
        return values
    known = OPTIMIZERS.entry(name).facts["defaults"] if name in OPTIMIZERS else {}
    return {**(others or {}), **known, **values}


def rate_of_rest(rest: Rest, lr: float | None) -> float:
    """The peak learning rate of what Muon does not train: the given one, or the default."""
    return {"sgd": 0.05, "adamw": 1e-3}[rest] if lr is None else lr


@register_optimizer("sgd")
def sgd(parameters: list[nn.Parameter], options: OptimizerOptions) -> Optimizer:
    """SGD with momentum, or with Nesterov momentum."""
    floating = all(parameter.is_floating_point() for parameter in parameters)
    fused = options.fused and floating and has_fused_steps(parameters[0].device)
    optimizer = SGD(
        parameters,
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.nesterov and options.momentum > 0,
        fused=fused or None,
    )
    if options.partial_gradients and options.momentum > 0:
        # A fused step needs momentum buffers for all parameters or none, and a parameter without a
        # gradient cannot start one. A buffer of zeros gives the same bits.
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


@register_optimizer(
    "muon", defaults={"lr": 0.03, "momentum": 0.6, "weight_decay": 0.0}, schedule="wsd"
)
def muon(parameters: list[nn.Parameter], options: OptimizerOptions) -> Optimizer:
    """Muon on hidden weight matrices, and SGD or AdamW on everything else."""
    hidden = set(options.matrices)
    return Muon(
        [one for one in parameters if one in hidden],
        [one for one in parameters if one not in hidden],
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        rest=options.rest,
        rest_lr=rate_of_rest(options.rest, options.rest_lr),
        rest_weight_decay=options.weight_decay,
        precision=options.precision,
        stacked=options.stacked,
    )


@register_optimizer("adam", defaults={"lr": 1e-3, "weight_decay": 0.0})
def adam(parameters: list[nn.Parameter], options: OptimizerOptions) -> Optimizer:
    """Adam, with the weight decay added to the gradient."""
    return Adam(parameters, lr=options.lr, weight_decay=options.weight_decay)


@register_optimizer("adamw", defaults={"lr": 1e-3})
def adamw(parameters: list[nn.Parameter], options: OptimizerOptions) -> Optimizer:
    """Adam with decoupled weight decay."""
    return AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay)


@register_optimizer("rmsprop", defaults={"lr": 1e-3, "weight_decay": 0.0})
def rmsprop(parameters: list[nn.Parameter], options: OptimizerOptions) -> Optimizer:
    """RMSprop without momentum."""
    return RMSprop(parameters, lr=options.lr, weight_decay=options.weight_decay)


def build(name: str, parameters: list[nn.Parameter], options: OptimizerOptions) -> Optimizer:
    """An optimizer by name.

    Raises:
        ValueError: an unknown name, or a registered function that returns something else.
    """
    made = OPTIMIZERS[name](list(parameters), options)
    if not isinstance(made, Optimizer):
        raise ValueError(
            f"optimizer {name!r} returned a {type(made).__name__}: expected a "
            "torch.optim.Optimizer over the given parameters"
        )
    if isinstance(made, torch.optim.LBFGS):
        raise ValueError(f"optimizer {name!r} is LBFGS, whose steps need a closure: take another")
    held = {id(one) for group in made.param_groups for one in group["params"]}
    if missing := [one for one in parameters if id(one) not in held]:
        raise ValueError(
            f"optimizer {name!r} leaves out {len(missing)} of {len(parameters)} parameters, the "
            f"first of shape {tuple(missing[0].shape)}, which would keep their values: put all "
            "of them into its groups"
        )
    return made


class OptimizerConfig(ConfigSection):
    """The optimizer of a training."""

    section: ClassVar[str] = "optimizer"

    type: str = "sgd"
    """A registered optimizer: ``sgd``, ``muon``, ``adam``, ``adamw``, ``rmsprop``, or one of your
    own."""
    lr: float = Field(0.05, gt=0)
    """Peak learning rate, with ``muon`` of the hidden weight matrices; also GLISTER's eta unless
    ``dss_args.eta`` is given, as in CORDS. Left out: 0.05 for ``sgd``, 0.03 for ``muon``, 1e-3 for
    the others."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD (0.9) or Muon (0.6)."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 decay; decoupled for ``adamw`` and ``muon``, whose default is 0."""
    nesterov: bool = False
    """Nesterov momentum; Muon has it always."""
    rest: Rest = "sgd"
    """With ``muon``: the optimizer of all that is no hidden weight matrix, ``sgd`` or ``adamw``."""
    rest_lr: float | None = Field(None, gt=0)
    """Its peak learning rate; None: 0.05 for ``sgd`` and 1e-3 for ``adamw``."""

    @model_validator(mode="before")
    @classmethod
    def _optimizers_own_defaults(cls, values: Any) -> Any:
        return with_defaults(values, "type")

    @property
    def head_lr(self) -> float:
        """Peak learning rate of the head."""
        if self.type != "muon":
            return self.lr
        return rate_of_rest(self.rest, self.rest_lr)

    @field_validator("type")
    @classmethod
    def _known_name(cls, value: str) -> str:
        return OPTIMIZERS.entry(value).name


def build_optimizer(
    model: nn.Module,
    config: OptimizerConfig,
    *,
    head: str | None = None,
    precision: torch.dtype | None = None,
) -> Optimizer:
    """The optimizer of a configuration over a model's trainable parameters.

    Args:
        model: on its device.
        config: the optimizer and its options.
        head: name of the linear head, which Muon leaves to its other optimizer; None: the last
            linear layer.
        precision: of the training's forward pass; None: that of the weights.

    Raises:
        ValueError: no parameter is trainable, or the optimizer finds none that it can train.
    """
    options = OptimizerOptions(
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        matrices=tuple(hidden_matrices(model, head)),
        precision=precision,
        rest=config.rest,
        rest_lr=config.rest_lr,
    )
    require_trainable(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return build(config.type, trained, options)


def require_dense_gradients(model: nn.Module, config: OptimizerConfig) -> None:
    """Refuse embeddings with sparse gradients where the optimizer does not take them.

    Of this package's, SGD without decay does; a registered one decides by itself.

    Raises:
        ValueError: such an embedding; it is named.
    """
    takes = config.type == "sgd" and config.weight_decay == 0
    if takes or is_foreign(OPTIMIZERS.entry(config.type).module):
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise ValueError(
                f"the embedding {name!r} has sparse gradients, which optimizer {config.type!r} "
                f"with weight_decay={config.weight_decay:g} does not take: build it with "
                "sparse=False, or train by SGD with weight_decay=0"
            )
