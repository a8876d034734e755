"""What a report takes from a results file, checked to the last number: nothing on trust."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lipt_cords.base.provenance import machine_name

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """Text without what no page and no SVG can hold."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


Text = Annotated[str, AfterValidator(printable)]
Amount = Annotated[float, Field(ge=0, le=1e30)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Accuracy = Share | None


class Part(BaseModel):
    """A part of a file: numbers are finite numbers, and what is not needed is left out."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Costs(Part):
    """Costs of a run; see :class:`lipt_cords.training.ledger.Ledger`."""

    warmup_passes: Amount
    warmup_critical_passes: Amount
    warmup_seconds: Amount
    warmup_critical_seconds: Amount
    warmup_bytes: Amount = 0.0
    gradient_seconds: Amount = 0.0
    selection_seconds: Amount
    training_seconds: Amount
    evaluation_seconds: Amount = 0.0
    passes: Amount
    critical_passes: Amount
    seconds: Amount
    critical_seconds: Amount


class Point(Part):
    """A point of a curve."""

    epoch: int
    phase: str
    passes: Amount
    critical_passes: Amount
    seconds: Amount
    critical_seconds: Amount
    test_accuracy: Accuracy


class Shown(Part):
    """A sample of a subset."""

    index: Count
    label: Text
    weight: float
    png: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]*$")] | None = None


class Subsets(Part):
    """What a run tells of its subsets."""

    size: Annotated[int, Field(ge=1)]
    pool: Annotated[int, Field(ge=1)]
    epochs: list[int]
    overlaps: list[Share]
    class_counts: list[Count]
    pool_class_counts: list[Count]
    class_names: list[Text]
    weights_alike: bool
    shown: list[Shown] = Field(default_factory=list)

    @model_validator(mode="after")
    def _agree(self) -> Subsets:
        if len(self.overlaps) != max(0, len(self.epochs) - 1):
            raise ValueError(
                f"expected one overlap less than epochs, received {len(self.overlaps)} and "
                f"{len(self.epochs)}"
            )
        lengths = {len(self.class_counts), len(self.pool_class_counts), len(self.class_names)}
        if len(lengths) != 1:
            raise ValueError("expected one name and two counts for each class")
        if self.size > self.pool:
            raise ValueError(f"a subset of {self.size} out of a pool of {self.pool}")
        return self


class Round(Part):
    """A round of a warm start."""

    critical_path_passes: Amount
    stability: dict[str, float | int | None] | None = None


class Stage(Part):
    """A stage of progressive subnetworks."""

    length: Count
    steps: Annotated[float, Field(gt=0)]
    passes: Annotated[float, Field(gt=0)]
    planned: Amount
    counted: Amount


class Ticket(Part):
    """An Early-Bird ticket."""

    ratio: Annotated[float, Field(ge=0, lt=1)]
    settled: bool
    masks: Annotated[int, Field(ge=1)]
    steps: Count | None = None
    rounds: Count | None = None
    distances: list[list[Annotated[float, Field(ge=0, le=1)]]]
    share_kept: Annotated[float, Field(gt=0, le=1)]
    work: Annotated[float, Field(gt=0)]
    layers: dict[str, Annotated[list[Count], Field(min_length=2, max_length=2)]]
    rescued: list[Text] = Field(default_factory=list)

    @model_validator(mode="after")
    def _square(self) -> Ticket:
        if {len(self.distances), *map(len, self.distances)} != {self.masks}:
            raise ValueError(f"expected distances of {self.masks} masks to each other")
        return self


class WarmStart(Part):
    """Of a warm start within a run: its rounds, and what made its workers cheaper."""

    rounds: list[Round] = Field(default_factory=list)
    stages: list[Stage] = Field(default_factory=list)
    ticket: Ticket | None = None


class Worker(Part):
    """A worker of a warm start."""

    kept: bool


class Clock(Part):
    """Seconds of a warm start."""

    total: Amount


class WarmStartAlone(WarmStart):
    """The report of a warm start that was fitted alone."""

    passes: Amount
    critical_path_passes: Amount
    bytes_communicated: Count
    flops: Amount = 0.0
    critical_path_flops: Amount = 0.0
    seconds: Clock
    workers: list[Worker]
    merged_accuracy: Accuracy = None
    mean_worker_accuracy: Accuracy = None
    notes: list[Text] = Field(default_factory=list)


class Run(Part):
    """A run of a comparison, or a run alone."""

    method: Annotated[Text, Field(min_length=1)]
    seed: int
    status: Literal["ok", "failed"]
    error: Text | None = None
    label: Text | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    test_accuracy: Accuracy = None
    costs: Costs | None = None
    curve: list[Point] = Field(default_factory=list)
    peak_memory_bytes: dict[str, Count] = Field(default_factory=dict)
    subsets: Subsets | None = None
    warm_start: WarmStart | None = None
    notes: list[Text] = Field(default_factory=list)
    revision: Text | None = None
    made_on: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _failed_ones_have_no_figures(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("status") == "failed":
            kept = ("method", "seed", "status", "error", "label", "fraction")
            return {name: value[name] for name in kept if name in value}
        return value

    @model_validator(mode="after")
    def _whole(self) -> Run:
        if self.status == "ok":
            missing = [
                name
                for name in ("test_accuracy", "costs", "curve")
                if getattr(self, name) in (None, [])
            ]
            if missing:
                raise ValueError(f"the run ended well and has no {', '.join(missing)}")
        return self


class Machine(Part):
    """Where it ran."""

    processor: Text | None = None
    cores: int | None = None
    threads: int | None = None
    gpus: list[Text] = Field(default_factory=list)

    def __str__(self) -> str:
        return machine_name(self.model_dump())


class Provenance(Part):
    """With what it was made."""

    python: Text | None = None
    versions: dict[Text, Text | None] = Field(default_factory=dict)
    machine: Machine = Field(default_factory=Machine)
    revision: Text | None = None


class Planned(Part):
    """What a comparison meant to run."""

    runs: Count


class Payload(Provenance):
    """A results file of a comparison or of a single run."""

    kind: Literal["compare", "run"]
    config: dict[str, Any] = Field(default_factory=dict)
    terms: dict[str, Any] | None = None
    command: Text | None = None
    notes: list[Text] = Field(default_factory=list)
    planned: Planned | None = None
    provenance: Provenance | None = None
    runs: list[Run]

    @property
    def made(self) -> Provenance:
        """With what it was made, wherever the file says it."""
        return self.provenance or self


class SavedWarmStart(Part):
    """The ``warm_start.json`` of a warm start."""

    config: dict[str, Any] = Field(default_factory=dict)
    report: WarmStartAlone
