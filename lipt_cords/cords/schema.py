"""The sections of CORDS's configuration schema, typed, each key with its meaning and default.

CORDS spreads a run over nine dictionaries and reads them key by key, hours later. Here each of
them is a strict record: a misspelt key is named at once with its full path, and whatever is left
out has a default. The few keys that CORDS does not have say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lipt_cords.base.devices import known_device
from lipt_cords.base.errors import unknown_name
from lipt_cords.base.options import ConfigSection
from lipt_cords.base.sizes import parse_bytes, parse_memory, parse_share
from lipt_cords.cords.strategies import SELECTION_TYPES, split_strategy
from lipt_cords.data.tables.parts import is_table
from lipt_cords.training.step import MemoryFormat, Precision
from lipt_cords.warmstart.config import WarmStartConfig


class DatasetConfig(ConfigSection):
    """Which data."""

    section: ClassVar[str] = "dataset"

    name: str = "digits"
    """A data set's name, ``imagefolder:DIR``, or ``table:FILE``: CSV or Parquet."""
    datadir: Path | None = None
    """Where the data lies; None looks in the usual places."""
    feature: Literal["dss"] = "dss"
    """CORDS's variant of the data: only the plain one, ``dss``."""
    type: str = "image"
    """Kind of data in CORDS's words; ignored here."""
    download: bool = False
    """Fetch the data if it is not there (not a key of CORDS)."""
    limit: int | None = Field(None, ge=1)
    """At most that many training samples, balanced by class (not a key of CORDS)."""
    val_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the training samples held out for validation (not a key of CORDS)."""
    image_size: int | None = Field(None, ge=1)
    """Side length to which images of an ``imagefolder`` are resized (not a key of CORDS)."""
    skip_unreadable: bool = False
    """Leave out files of an ``imagefolder`` that cannot be read, and rows of a ``table`` without a
    label (not a key of CORDS)."""
    label: str | None = None
    """The column of a ``table`` that holds the classes; None: the one called ``label``, ``target``,
    ``class`` or ``y`` (not a key of CORDS)."""
    columns: dict[str, Literal["number", "category", "leave-out"]] = Field(default_factory=dict)
    """Columns of a ``table`` by name that are used in another way than they would be: as
    ``number``, as ``category``, or ``leave-out`` (not a key of CORDS)."""

    @field_validator("val_fraction", mode="before")
    @classmethod
    def _a_share(cls, value: Any) -> float:
        return parse_share(value)

    @property
    def is_table(self) -> bool:
        """Whether the data are a table."""
        return is_table(self.name)

    split: Path | None = None
    """The ``split.json`` of a run, whose training, validation and test samples are taken (not a
    key of CORDS)."""
    without: Path | None = None
    """A CSV file that names samples to leave out of training and validation, such as the
    ``suspects.csv`` of ``lipt-cords clean`` (not a key of CORDS)."""


class DataloaderConfig(ConfigSection):
    """How batches are made."""

    section: ClassVar[str] = "dataloader"

    shuffle: bool = True
    """Shuffle the subset in every epoch."""
    batch_size: int = Field(32, ge=1)
    """Samples in a step."""
    pin_memory: bool = False
    """Page-locked host memory; used on a GPU only."""
    num_workers: int = Field(0, ge=0)
    """Loading processes (not a key of CORDS)."""
    collate_fn: None = None
    """CORDS's place for a collate function; only None can come from a file."""


class ModelConfig(ConfigSection):
    """Which net."""

    section: ClassVar[str] = "model"

    architecture: str = "cnn"
    """A net's name, in our spelling or CORDS's; for tables ``mlp`` if none is given. ``timm: NAME``
    in its place takes a net of timm, ``import: my_module:make_net`` a function of a module of yours
    (no keys of CORDS)."""
    type: str = "pre-defined"
    """Kind of model in CORDS's words; ignored here."""
    numclasses: int | None = Field(None, ge=2)
    """Outputs of the net; None takes the data's."""


class CheckpointConfig(ConfigSection):
    """Whether a run can be resumed."""

    section: ClassVar[str] = "ckpt"

    is_load: bool = False
    """Resume from the checkpoint of an interrupted run, as ``--resume`` does."""
    is_save: bool = True
    """Write checkpoints, wherever the run has an output directory."""
    dir: Path | None = None
    """CORDS's directory of checkpoints; here they lie in the run's output directory."""
    save_every: int = Field(20, ge=1)
    """Epochs between two checkpoints."""


class LossConfig(ConfigSection):
    """What is minimised."""

    section: ClassVar[str] = "loss"

    type: Literal["CrossEntropyLoss"] = "CrossEntropyLoss"
    """Cross-entropy: the loss of every classification example of CORDS."""
    use_sigmoid: Literal[False] = False
    """CORDS's switch for a sigmoid before the loss; only False has a meaning here."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target spread over all classes (not a key of CORDS)."""


class DssConfig(ConfigSection):
    """How the subset is selected."""

    section: ClassVar[str] = "dss_args"

    type: str = "GLISTER"
    """The strategy, in any spelling of CORDS: ``GLISTER``, ``GradMatchPB-Warm``, ..., or the name
    of any other registered selector."""
    fraction: float = Field(0.1, gt=0, le=1)
    """Share of the training data in the subset, such as 0.05 or 5%."""
    select_every: int = Field(20, ge=1)
    """Epochs between two selections."""
    kappa: float = Field(0.0, ge=0, lt=1)
    """Share of the run given to CORDS's full-data warm-up; 0 has none. A strategy spelt with
    ``-Warm`` has 0.5 by default, as in CORDS's examples."""
    warm_start: WarmStartConfig | None = None
    """A LiPT warm start: ``lipt``, or a mapping of its options (not a key of CORDS)."""
    selector: Literal["fast", "cords"] | None = None
    """Who selects: our selectors (``fast``, which need no CORDS) or CORDS's strategy (``cords``);
    None: CORDS's where it is installed (not a key of CORDS). Strategies that CORDS lacks, Full,
    RS2 and AdaptiveRandom always go through our selectors."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of our selectors that CORDS has no key for, such as ``validation: all`` of GLISTER
    or ``cut: 0.3`` of Stratified (not a key of CORDS)."""
    linear_layer: bool = True
    """Use the gradients of the head's weights, not of its bias alone."""
    selection_type: str | None = None
    """Per class, per batch, ...; None: what the strategy's name stands for in CORDS."""
    greedy: str = "Stochastic"
    """GLISTER's search."""
    r: int = Field(15, ge=1)
    """Picks that GLISTER's ``RGreedy`` makes at once."""
    eta: float | None = Field(None, gt=0)
    """GLISTER's step size; None: the learning rate, as in CORDS."""
    valid: bool = False
    """GradMatch matches the validation gradient."""
    v1: bool = True
    """GradMatch's newer solver."""
    lam: float = Field(0.5, ge=0)
    """GradMatch's regularisation."""
    eps: float = Field(1e-100, ge=0)
    """GradMatch's tolerance."""
    optimizer: str = "lazy"
    """CRAIG's search."""
    if_convex: bool = False
    """CRAIG compares inputs, not gradients."""
    collate_fn: None = None
    """CORDS's place for a collate function; only None can come from a file."""

    def __init__(self, **options: Any) -> None:
        strategy, per_batch, warm = split_strategy(str(options.get("type", "GLISTER")))
        if options.get("selection_type") is None:
            default = "PerBatch" if per_batch else SELECTION_TYPES.get(strategy)
            options["selection_type"] = default
        if warm and options.get("warm_start") is None:
            options.setdefault("kappa", 0.5)
        super().__init__(**options)

    @field_validator("fraction", mode="before")
    @classmethod
    def _a_share(cls, value: Any) -> float:
        return parse_share(value)

    @field_validator("selector", mode="before")
    @classmethod
    def _known_selector(cls, value: Any) -> Any:
        if value not in (None, "fast", "cords"):
            raise unknown_name("selector", value, ("fast", "cords"))
        return value

    @field_validator("warm_start", mode="before")
    @classmethod
    def _parse_warm_start(cls, value: Any) -> WarmStartConfig | None:
        return WarmStartConfig.parse(value)

    @property
    def strategy(self) -> str:
        """The strategy without CORDS's endings, such as ``GradMatch``."""
        return split_strategy(self.type)[0]


class TrainConfig(ConfigSection):
    """How long, where, and what is reported."""

    section: ClassVar[str] = "train_args"

    num_epochs: int = Field(20, ge=1)
    """Epochs of the run, a full-data warm-up and its skipped epochs included, as in CORDS."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:0``, ``xpu`` or ``mps``."""
    seed: int = Field(0, ge=0)
    """The one seed of the run (not a key of CORDS)."""
    eval_every: int = Field(1, ge=1)
    """Epochs between two evaluations (not a key of CORDS); the last epoch always is one."""
    precision: Precision = "fp32"
    """``bf16`` autocast, ``fp32``, or ``auto``: bf16 on a GPU that has it (not a key of CORDS)."""
    memory_format: MemoryFormat = "auto"
    """Layout of images and convolutions; ``auto``: channels_last if safe (not a key of CORDS)."""
    memory_budget: int | None = None
    """Bytes that a training step may have in memory, or a size such as ``2GiB``: activations are
    then kept, sent to the host and back, or made again, with the same bits (not a key of CORDS)."""
    memory_bandwidth: float | None = Field(None, gt=0)
    """Bytes a second to the host for it; None measures it on a GPU, and takes 12e9 on a CPU, where
    the device is simulated (not a key of CORDS)."""
    tensorboard: bool = False
    """Write TensorBoard's logs beside ``metrics.jsonl`` (not a key of CORDS)."""
    print_every: int = Field(1, ge=1)
    """CORDS's epochs between two printed lines; ignored here."""
    run: int = 1
    """CORDS's number of the run; ignored here."""
    wandb: Literal[False] = False
    """CORDS's switch for an outside tracker; only False is supported."""
    results_dir: Path | None = None
    """CORDS's directory of results; here ``--output`` is used."""
    print_args: tuple[str, ...] = ()
    """CORDS's measures to print; not needed here."""
    return_args: tuple[str, ...] = ()
    """CORDS's measures to return; not needed here."""

    @property
    def memory(self) -> tuple[int, float | None] | None:
        """Budget and bandwidth, if steps are planned."""
        return parse_memory(self.memory_budget, self.memory_bandwidth)

    @model_validator(mode="after")
    def _bandwidth_is_used(self) -> TrainConfig:
        parse_memory(self.memory_budget, self.memory_bandwidth)
        return self

    @field_validator("memory_budget", mode="before")
    @classmethod
    def _a_size(cls, value: Any) -> Any:
        return None if value is None else parse_bytes(value)

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        return known_device(value)
