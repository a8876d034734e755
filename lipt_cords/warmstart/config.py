"""The options of a warm start, typed and validated before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.options import StrictModel
from lipt_cords.base.sizes import parse_bytes, parse_memory
from lipt_cords.training.cheaper.path_schedule import SubnetworkConfig
from lipt_cords.training.cheaper.tickets import EarlyBirdConfig
from lipt_cords.training.optimizers import OPTIMIZERS
from lipt_cords.training.schedules import Schedule
from lipt_cords.training.step import MemoryFormat, Precision, refuse_with_memory


class StopRule(StrictModel):
    """When a warm start of several rounds may end early: once all given conditions hold.

    Each is a signal of :class:`lipt_cords.warmstart.watch.stability.Stability`, measured on
    held-out data every few rounds. With the schedule ``wsd`` a third of the rounds
    so far follows, in which the rate falls to zero; the others end at once.
    """

    benefit: float | None = Field(None, gt=0, lt=1)
    """Stop when the merged model's loss fell by less than this share over the last quarter of
    the critical path; 0.05 is a good value. The one to use by itself."""
    merged_loss: float | None = Field(None, gt=0)
    """Stop when the merged model's held-out loss falls below this."""
    rank_correlation: float | None = Field(None, gt=-1, lt=1)
    """Stop when the split-half rank correlation of the losses exceeds this."""
    class_cosine: float | None = Field(None, gt=-1, lt=1)
    """Stop when the pairwise cosine of the class-mean gradients exceeds this."""

    @model_validator(mode="after")
    def _some_condition(self) -> StopRule:
        if not self.model_dump(exclude_none=True):
            raise ValueError(
                "stop_when needs a condition, such as benefit=0.05: set one of "
                + ", ".join(type(self).model_fields)
            )
        return self


Sparsity = Literal["none", "magnitude", "random", "snip"]


Densities = Literal["global", "erk"]


Augmentation = Literal["none", "randaugment"]


Soup = Literal["uniform", "weighted", "greedy"]


Outer = Literal["average", "nesterov"]


Refresh = Literal["auto", "always", "never"]


Launch = Literal["auto", "serial", "processes", "torchrun"]


StartFrom = Literal["merged", "initial"]


_BY_NAME: dict[str, tuple[type, str, str]] = {
    "stop_when": (StopRule, "conditions", "{'benefit': 0.05}"),
    "early_bird": (EarlyBirdConfig, "options", "{'ratio': 0.3}"),
    "subnetwork": (SubnetworkConfig, "options", "{'lengths': [6, 8, 10, 12]}"),
}
"""Options that are records themselves: their type, and how an error calls and shows them."""


class WarmStartConfig(StrictModel):
    """Every option of a LiPT warm start (Ro et al., ICML 2023).

    The defaults follow measurements at small scale rather than the paper where the two differ:
    a short common start is the strongest lever, and RandAugment costs accuracy in short local
    runs, so it is off until asked for.

    >>> WarmStartConfig(num_worker=4)
    Traceback (most recent call last):
    ...
    ValueError: unknown WarmStartConfig option 'num_worker': ... Did you mean 'num_workers'?
    """

    type: Literal["lipt"] = "lipt"
    """The kind of warm start; LiPT is the only one."""
    num_workers: int = Field(10, ge=1)
    """How many workers train, each on its own shard."""
    epochs: float = Field(4.0, gt=0, le=1e6)
    """Local epochs of every worker over its shard; may be fractional."""
    local_steps: int | None = Field(None, ge=1)
    """Optimizer steps of every worker; given, it replaces ``epochs``."""
    shard_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the training data that all shards hold together."""
    common_steps: int = Field(100, ge=0)
    """Steps of the common start theta* before the workers fork; 0 forks from the given model."""
    batch_size: int = Field(64, ge=1)
    """Samples in a step of the common start and of a worker."""
    optimizer: str = "sgd"
    """Optimizer of the common start and of every worker, by its registered name."""
    lr: float = Field(0.05, gt=0)
    """Peak learning rate."""
    schedule: Schedule = "constant"
    """Learning rate over a worker's steps of all rounds; ``wsd`` holds it for three quarters, then
    falls linearly to zero. One merge already acts like a decay; many rounds gain by one."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Nesterov momentum of SGD; 0 turns it off."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 decay of SGD."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay per step of an exponential moving average of a worker's weights, which then goes into
    the soup instead of the last weights."""
    rounds: int = Field(1, ge=1)
    """Merges: a worker's steps are split evenly over them, and after each all workers go on from
    the merged weights. 1 is LiPT; more walk towards data-parallel training."""
    outer: Outer = "average"
    """What a merge makes of the averaged weights: takes them, or takes a Nesterov step along the
    averaged change (DiLoCo)."""
    outer_lr: float = Field(0.7, gt=0)
    """Learning rate of the outer Nesterov step."""
    outer_momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the outer Nesterov step."""
    stop_when: StopRule | None = None
    """End the rounds early, once its condition holds at two readings in a row; needs held-out
    data. ``{"benefit": 0.05}`` is the one to use."""
    probe_samples: int = Field(1024, ge=1)
    """Held-out samples on which workers are compared after a round."""
    probe_every: int | None = Field(None, ge=1)
    """Rounds between two comparisons, the last round always included; None: an eighth of them."""
    sparsity: Sparsity = "magnitude"
    """One-shot pruning of every worker's weights: by magnitude, at random, by SNIP; or ``none``."""
    densities: Densities = "global"
    """How the density is spread over layers: by one threshold for all, or by ERK, which leaves
    small layers denser."""
    density: float = Field(0.8, gt=0, le=1)
    """Share of the prunable weights that a worker keeps; 1 prunes nothing."""
    prune_after: float = Field(0.25, ge=0, lt=1)
    """Share of a worker's steps in a round before it prunes, so that the mask depends on its
    shard."""
    subnetwork: SubnetworkConfig | None = None
    """Progressive subnetworks (RaPTr): a worker's steps train random paths of residual blocks,
    which grow to the whole net. ``{}`` takes its defaults; None trains the whole net."""
    early_bird: EarlyBirdConfig | None = None
    """Early-Bird tickets: whole channels are removed once it is known which, so that what follows
    trains a smaller net. ``{}`` takes its defaults; None trains the given net."""
    augmentation: Augmentation = "none"
    """Augmentation of the workers' batches; ``randaugment`` needs image tensors."""
    num_ops: int = Field(2, ge=1)
    """RandAugment operations drawn for each group of images."""
    magnitude: int = Field(9, ge=0, le=30)
    """Strength of RandAugment, 0 to 30."""
    soup: Soup = "uniform"
    """How workers are merged: all averaged, weighted by the size of their shards, or greedily
    while held-out accuracy does not fall."""
    batchnorm_refresh: Refresh = "auto"
    """Recompute BatchNorm statistics of the soup; ``auto`` keeps the better on held-out data."""
    refresh_samples: int = Field(2048, ge=1)
    """Training samples that the BatchNorm refresh may read."""
    head: str | None = None
    """Name of the linear head in ``model.named_modules()``; None finds it."""
    start_from: StartFrom = "merged"
    """In a CORDS loader, train on from the soup (as CORDS does) or from the initial weights (as
    the LiPT authors do); the subset is chosen with the soup either way."""
    launch: Launch = "auto"
    """``serial`` in this process; ``processes`` that the warm start starts on this machine;
    ``torchrun`` over its process group. ``auto`` takes torchrun's where it is, else processes if
    ``processes`` is given or there are several GPUs, else serial."""
    processes: int | None = Field(None, ge=1)
    """Local processes to start; None: one for each GPU, or as many as there are cores."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of a worker; set it to get the same bits however many processes share the
    cores. None leaves torch's number, divided among local processes."""
    max_restarts: int = Field(3, ge=0)
    """How often local processes are started again after one of them was killed."""
    min_workers: int | None = Field(None, ge=1)
    """Workers that a merge needs at least: the others may be lost with their processes, and are
    named. None needs all."""
    worker_timeout: float = Field(600.0, gt=0)
    """Seconds without a sign of progress after which a process counts as lost."""
    join_timeout: float = Field(300.0, gt=0)
    """Seconds to wait for all processes to meet at the beginning."""
    device: str = "auto"
    """Where to train: ``auto``, ``cpu``, ``cuda`` or ``cuda:0``."""
    precision: Precision = "auto"
    """``bf16`` autocast, ``fp32``, or ``auto``: bf16 on a GPU that has it."""
    memory_format: MemoryFormat = "auto"
    """Layout of images and convolutions while training; ``auto``: channels_last where safe."""
    memory_budget: int | None = None
    """Bytes that a training step may have in memory, or a size such as ``"2GiB"``: activations
    are then kept, sent to the host and back, or made again, as a plan says, with the same bits.
    None plans nothing."""
    memory_bandwidth: float | None = Field(None, gt=0)
    """Bytes a second to the host, each way, for ``memory_budget``; None measures it on a GPU, and
    takes 12e9 on a CPU, where the device is simulated."""
    compile: bool = False
    """Train through ``torch.compile``: pays for long local runs."""
    together: int | Literal["auto"] = 1
    """Workers of one process trained at once, as one batched net; ``auto`` measures whether that
    is faster than in turn. Equal to training in turn up to rounding, not bit for bit, and with
    dropout other draws. Holds the weights and activations of all at once."""
    loader_workers: int = Field(0, ge=0)
    """Processes that decode the data; what cannot be kept in memory is decoded every epoch. With
    random transforms another number gives other draws."""
    work_dir: Path | None = None
    """Directory for the result and for every finished worker, from which an interrupted run goes
    on; nothing is written without it."""
    keep_workers: bool = False
    """Keep every worker's weights in the result, for held-out difficulty scores and ``forget``."""
    progress: bool | None = None
    """Show a progress bar; None: on a terminal, on rank 0 alone."""
    seed: int = Field(0, ge=0)
    """The one seed from which every draw of the warm start is derived."""

    @field_validator(
        "schedule", "sparsity", "densities", "augmentation", "soup", "outer", "batchnorm_refresh",
        "launch", "precision", "memory_format", "start_from", "type", mode="before",
    )  # fmt: skip
    @classmethod
    def _known_name(cls, value: Any, info: Any) -> Any:
        valid = get_args(cls.model_fields[info.field_name].annotation)
        if value not in valid:
            raise unknown_name(info.field_name.replace("_", " "), value, valid)
        return value

    @field_validator("optimizer")
    @classmethod
    def _trains_workers(cls, value: str) -> str:
        entry = OPTIMIZERS.entry(value)
        if not entry.facts["trains_workers"]:
            able = OPTIMIZERS.names_with("trains_workers")
            raise ValueError(
                f"optimizer {value!r} cannot train the workers of a warm start yet: expected one "
                f"of {', '.join(map(repr, able))}"
            )
        return entry.name

    @field_validator("device", mode="before")
    @classmethod
    def _known_device(cls, value: Any) -> Any:
        value = str(value)  # a torch.device too
        if value != "auto" and value.split(":")[0] not in ("cpu", "cuda", "mps"):
            raise unknown_name("device", value, ("auto", "cpu", "cuda", "cuda:0", "mps"))
        return value

    @field_validator("memory_budget", mode="before")
    @classmethod
    def _a_size(cls, value: Any) -> Any:
        return None if value is None else parse_bytes(value)

    @field_validator("together")
    @classmethod
    def _some_together(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"together must be at least 1 or 'auto', received {value}")
        return value

    @field_validator("stop_when", "subnetwork", "early_bird", mode="before")
    @classmethod
    def _parts_by_name(cls, value: Any, info: Any) -> Any:
        kind, what, example = _BY_NAME[info.field_name]
        if isinstance(value, Mapping):
            return {str(key): one for key, one in value.items()}
        if isinstance(value, kind) or value is None:
            return value
        raise ValueError(f"expected {what} by name, such as {example}, received {value!r}")

    @model_validator(mode="after")
    def _options_agree(self) -> WarmStartConfig:
        for name in ("outer_lr", "outer_momentum"):
            unused = self.outer != "nesterov"
            if unused and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} does nothing with outer={self.outer!r}: set outer='nesterov', or "
                    "leave it out"
                )
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers ({self.min_workers}) exceeds num_workers ({self.num_workers}): a "
                "merge cannot have more workers than are trained"
            )
        if self.local_steps is not None and self.local_steps < self.rounds:
            raise ValueError(
                f"rounds ({self.rounds}) exceeds local_steps ({self.local_steps}): every round "
                "needs a step of every worker"
            )
        if self.stop_when is not None and self.rounds == 1:
            raise ValueError(
                "stop_when ends a warm start between two rounds, and rounds=1 has none: set "
                "rounds to 2 or more"
            )
        if self.stop_when is not None and (self.probe_every or 0) >= self.rounds:
            raise ValueError(
                f"stop_when is judged every probe_every ({self.probe_every}) rounds, and so not "
                f"before the last of {self.rounds}: set probe_every below rounds"
            )
        if self.stop_when is not None and self.num_workers == 1:
            given = self.stop_when.model_dump(exclude_none=True)
            if spreads := sorted(given.keys() & {"rank_correlation", "class_cosine"}):
                raise ValueError(
                    f"stop_when={' and '.join(spreads)} compares workers, and num_workers=1 has "
                    "one: use benefit or merged_loss, or more workers"
                )
        if self.subnetwork is not None and (self.compile or self.together != 1):
            raise ValueError(
                "subnetwork changes the net from step to step, so it trains neither compiled nor "
                f"together: received compile={self.compile}, together={self.together!r}; leave "
                "them out, or subnetwork"
            )
        self._check_ticket()
        self._check_memory()
        if self.launch == "serial" and (self.processes or 1) > 1:
            raise ValueError(
                f"launch='serial' is one process, received processes={self.processes}: set "
                "launch='processes', or leave processes out"
            )
        return self

    def _check_ticket(self) -> None:
        options = self.early_bird
        if options is None or options.ratio == 0:
            return
        if options.vote and self.rounds == 1:
            raise ValueError(
                "early_bird.vote looks at the merges of several rounds, and rounds=1 has one: set "
                "rounds to 2 or more, or leave vote out"
            )
        if options.vote and self.together != 1:
            raise ValueError(
                f"early_bird.vote searches in every worker, which together={self.together!r} does "
                "not: leave one of them out"
            )
        if not options.vote and self.common_steps == 0:
            raise ValueError(
                "early_bird searches in the common start, and common_steps=0 leaves it out: set "
                "common_steps, or early_bird.vote with several rounds"
            )

    def _check_memory(self) -> None:
        if parse_memory(self.memory_budget, self.memory_bandwidth) is None:
            return
        refuse_with_memory(
            compile=self.compile,
            together=self.together != 1,
            subnetwork=self.subnetwork is not None,
        )

    @classmethod
    def parse(cls, value: Any) -> WarmStartConfig | None:
        """Read the ``warm_start`` key of a configuration.

        Args:
            value: None or ``"none"`` (no warm start), ``"lipt"``, a mapping of options, or a
                ready :class:`WarmStartConfig`.

        Raises:
            ValueError: another type, or a wrong option.

        >>> WarmStartConfig.parse("lipt").num_workers
        10
        >>> WarmStartConfig.parse({"type": "lipt", "num_workers": 8}).num_workers
        8
        """
        if value is None or value == "none" or isinstance(value, cls):
            return value if isinstance(value, cls) else None
        if isinstance(value, str):
            value = {"type": value}
        if hasattr(value, "keys"):
            if len(value) == 0:
                raise ValueError(
                    "warm_start is an empty mapping (reading a missing key of a DotMap creates "
                    "one): set warm_start='lipt', a mapping with type='lipt', or leave it out"
                )
            return cls(**{str(key): value[key] for key in value})
        raise ValueError(
            f"warm_start must be 'lipt' or a mapping of options, received {type(value).__name__}"
        )
