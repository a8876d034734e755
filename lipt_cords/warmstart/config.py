"""The options of a warm start, typed and validated before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lipt_cords.base.devices import known_device
from lipt_cords.base.options import by_name, one_of
from lipt_cords.base.sizes import parse_bytes, parse_memory
from lipt_cords.training.cheaper.path_schedule import SubnetworkConfig
from lipt_cords.training.cheaper.tickets import EarlyBirdConfig
from lipt_cords.training.muon import Rest
from lipt_cords.training.optimizers import OPTIMIZERS, with_defaults
from lipt_cords.training.schedules import MergeSchedule, Schedule
from lipt_cords.training.step import MemoryFormat, Precision, refuse_with_memory
from lipt_cords.warmstart.merge.batchnorm import RefreshOptions
from lipt_cords.warmstart.merge.codecs import CodecOptions
from lipt_cords.warmstart.merge.outer import OuterOptions
from lipt_cords.warmstart.merge.soup import SoupOptions
from lipt_cords.warmstart.watch.probe import ProbeOptions
from lipt_cords.warmstart.watch.stop_rule import StopOptions
from lipt_cords.warmstart.workers.augment import AugmentationOptions
from lipt_cords.warmstart.workers.sparsity import SparsityOptions

Preset = Literal["lipt", "lipt-once", "lipt-finetune"]
ONCE: dict[str, Any] = {
    "num_workers": 10, "epochs": 4.0, "common_steps": 100, "batch_size": 64, "optimizer": "sgd",
    "schedule": "constant", "rounds": 1, "outer": "average", "sparsity": "magnitude",
}  # fmt: skip
"""The preset ``lipt-once``, where it is not the defaults."""
FINETUNE: dict[str, Any] = {
    "epochs": 4.0, "common_steps": 0, "batch_size": 8, "optimizer": "adamw", "schedule": "linear",
    "outer": "average",
}  # fmt: skip
"""The preset ``lipt-finetune``, where it is not the defaults; workers and merges follow."""
FINETUNE_RATE = {"lr": 1e-4}
"""Of its ``adamw``, for one worker; another optimizer has its own."""
SGD: dict[str, float] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
"""Defaults of SGD, and of other optimizers where they have none of their own."""
PRUNING = ("density", "densities", "prune_after")
"""Options that do nothing without a sparsity."""
Launch = Literal["auto", "serial", "processes", "torchrun"]


StartFrom = Literal["merged", "initial"]


class WarmStartConfig(
    OuterOptions,
    CodecOptions,
    SoupOptions,
    RefreshOptions,
    SparsityOptions,
    AugmentationOptions,
    StopOptions,
    ProbeOptions,
):
    """Every option of a LiPT warm start (Ro et al., ICML 2023).

    The defaults are those of the preset ``lipt``, the best setting that was found. Where
    ``num_workers``, ``epochs``, ``common_steps`` and ``rounds`` are left out, a fit takes what fits
    its data and processes (:func:`lipt_cords.warmstart.presets.scaled`); what is shown here is for
    16 workers and 20,000 samples.

    >>> WarmStartConfig(num_worker=4)
    Traceback (most recent call last):
    ...
    ValueError: unknown WarmStartConfig option 'num_worker': ... Did you mean 'num_workers'?
    """

    type: Preset = "lipt"
    """The preset: ``lipt`` is the best setting found, in many merges; ``lipt-once`` is the paper,
    with one merge of pruned workers; ``lipt-finetune`` is for pretrained weights, which the rate of
    the others destroys. Options that are given replace single ones of it."""
    num_workers: int = Field(16, ge=1)
    """How many workers train, each on its own shard. Left out: as many as there are processes."""
    epochs: float = Field(8.0, gt=0, le=1e6)
    """Local epochs of every worker over its shard; may be fractional. Left out: 3 for a single
    worker, up to 8 for 16 and more."""
    local_steps: int | None = Field(None, ge=1)
    """Optimizer steps of every worker; replaces ``epochs`` if given."""
    shard_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the training data that all shards hold together."""
    common_steps: int = Field(200, ge=0)
    """Steps of the common start theta* before the workers start; with 0 they start from the given
    model. Left out: 0.16 epochs of all data."""
    batch_size: int = Field(16, ge=1)
    """Samples in a step of the common start and of a worker."""
    optimizer: str = "muon"
    """Optimizer of the common start and of every worker, by its registered name. A net without
    hidden weight matrices takes ``sgd`` where none is given."""
    lr: float = Field(0.03, gt=0)
    """Peak learning rate, with ``muon`` of the hidden weight matrices. Left out: 0.05 for ``sgd``,
    0.03 for ``muon``, 1e-3 for the others; 1e-4 times the square root of the workers for the
    ``adamw`` of ``lipt-finetune``."""
    schedule: Schedule = "wsd"
    """Learning rate over a worker's steps of all rounds; ``wsd`` holds it for three quarters, then
    falls linearly to zero. One merge already acts like a decay; many rounds gain by one."""
    momentum: float = Field(0.6, ge=0, lt=1)
    """Nesterov momentum of SGD (0.9) or Muon (0.6); 0 turns it off."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 decay; 5e-4 for ``sgd``; decoupled for ``adamw`` and ``muon``, whose default is 0."""
    rest: Rest = "sgd"
    """With ``muon``: the optimizer of all that is no hidden weight matrix, ``sgd`` or ``adamw``."""
    rest_lr: float | None = Field(None, gt=0)
    """Its peak learning rate; None: 0.05 for ``sgd`` and 1e-3 for ``adamw``."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay per step of an exponential moving average of a worker's weights, which then goes into
    the soup instead of the last weights."""
    rounds: int = Field(40, ge=1)
    """Merges: a worker's steps are split over them (``merge_schedule``), and after each merge all
    workers continue from the merged weights. 1 is the paper's LiPT; more rounds come closer to
    data-parallel training. Left out: one for every 15 steps, 40 at most."""
    merge_schedule: MergeSchedule = "even"
    """How a worker's steps are split over the merges: ``even``, or ``qsr``: the interval grows as
    one over the squared learning rate, so that most merges come before the rate falls."""
    subnetwork: SubnetworkConfig | None = None
    """Progressive subnetworks (RaPTr): a worker's steps train random paths of residual blocks,
    which grow to the whole net. ``{}`` takes its defaults; None trains the whole net."""
    early_bird: EarlyBirdConfig | None = None
    """Early-Bird tickets: whole channels are removed early in the training, and a smaller net is
    trained from there on. ``{}`` takes its defaults; None trains the given net."""
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
    """The least number of workers in a merge: others may be lost with their processes, and the
    report names them. None: all."""
    worker_timeout: float = Field(600.0, gt=0)
    """Seconds without progress after which a process counts as lost."""
    join_timeout: float = Field(300.0, gt=0)
    """Seconds to wait for all processes at the start."""
    device: str = "auto"
    """Where to train: ``auto``, ``cpu``, ``cuda``, ``cuda:0``, ``xpu`` or ``mps``."""
    precision: Precision = "auto"
    """``bf16`` autocast, ``fp32``, or ``auto``: bf16 on a GPU that has it."""
    memory_format: MemoryFormat = "auto"
    """Layout of images and convolutions while training; ``auto``: channels_last where safe."""
    memory_budget: int | None = None
    """Bytes that a training step may have in memory, or a size such as ``"2GiB"``: activations are
    then kept, swapped to the host or recomputed, as planned, with the same bits. None: no plan."""
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
    """Processes that decode the data; data that does not fit in memory is decoded every epoch. With
    random transforms the draws depend on this number."""
    work_dir: Path | None = None
    """Directory for the result and for every finished worker; an interrupted run resumes from it.
    None writes nothing."""
    keep_workers: bool = False
    """Keep every worker's weights in the result, for held-out difficulty scores and ``forget``."""
    log_samples: bool = False
    """Log what each worker sees of its own samples in every step, at no extra pass, for difficulty
    scores (``result.dynamics``): 8 bytes a sample and local epoch on every process, and 12 in
    messages. The weights stay the same, bit for bit."""
    progress: bool | None = None
    """Show a progress bar; None: only on a terminal, on rank 0."""
    seed: int = Field(0, ge=0)
    """The one seed from which every draw of the warm start is derived."""

    @field_validator(
        "schedule",
        "merge_schedule",
        "launch",
        "precision",
        "memory_format",
        "start_from",
        "type",
        mode="before",
    )
    @classmethod
    def _known_name(cls, value: Any, info: Any) -> Any:
        annotation = cls.model_fields[info.field_name].annotation
        return one_of(info.field_name.replace("_", " "), value, annotation)

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
        return known_device(value)

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

    @field_validator("subnetwork", mode="before")
    @classmethod
    def _subnetwork_by_name(cls, value: Any) -> Any:
        return by_name(value, SubnetworkConfig, "options", "{'lengths': [6, 8, 10, 12]}")

    @field_validator("early_bird", mode="before")
    @classmethod
    def _early_bird_by_name(cls, value: Any) -> Any:
        return by_name(value, EarlyBirdConfig, "options", "{'ratio': 0.3}")

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        if values.get("type") == "lipt-once":
            for name in ("rounds", "outer"):
                if values.get(name, ONCE[name]) != ONCE[name]:
                    raise ValueError(
                        f"the preset 'lipt-once' merges once, by the average: received "
                        f"{name}={values[name]!r}; leave it out, or take the preset 'lipt'"
                    )
            values = ONCE | dict(values)
        elif values.get("type") == "lipt-finetune":
            adamw = values.get("optimizer", "adamw") == "adamw"
            values = FINETUNE | (FINETUNE_RATE if adamw else {}) | dict(values)
        if "sparsity" not in values and any(name in values for name in PRUNING):
            values = {"sparsity": "magnitude", **values}
        return with_defaults(values, "optimizer", "muon", SGD)

    @model_validator(mode="wrap")
    @classmethod
    def _rate_left_out(cls, values: Any, handler: Callable[[Any], WarmStartConfig]) -> Any:
        made = handler(values)
        # Left out, it follows from the workers, as they follow from the processes.
        if isinstance(values, Mapping) and values.get("type") == "lipt-finetune":
            made.model_fields_set.difference_update({"lr"} - values.keys())
        return made

    @model_validator(mode="after")
    def _options_agree(self) -> WarmStartConfig:
        self.require_agreement()
        return self

    def require_agreement(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            ValueError: which, and what to do.
        """
        # Left out, these follow from the data and the processes.
        rounds, workers = (name in self.model_fields_set for name in ("rounds", "num_workers"))
        if self.local_steps is not None and rounds and self.local_steps < self.rounds:
            raise ValueError(
                f"rounds ({self.rounds}) exceeds local_steps ({self.local_steps}): every round "
                "needs a step of every worker"
            )
        if workers and self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers ({self.min_workers}) exceeds num_workers ({self.num_workers}): a "
                "merge cannot have more workers than are trained"
            )
        if self.stop_when is not None and self.rounds == 1:
            raise ValueError(
                "stop_when ends a warm start between two rounds, and rounds=1 has none: set "
                "rounds to 2 or more"
            )
        if self.stop_when is not None and rounds and (self.probe_every or 0) >= self.rounds:
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
            value: None or ``"none"`` (no warm start), the name of a preset, a mapping of options,
                or a ready :class:`WarmStartConfig`.

        Raises:
            ValueError: another type, or a wrong option.

        >>> WarmStartConfig.parse("lipt-once").num_workers
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
