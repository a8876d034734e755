"""What a report takes from a results file, with every number checked."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from lipt_cords.base.printable import printable
from lipt_cords.base.provenance import machine_name
from lipt_cords.training.ledger import CurvePoint, Ledger
from lipt_cords.warmstart.report import RoundReport, WorkerSummary

Text = Annotated[str, AfterValidator(printable)]
Amount = Annotated[float, Field(ge=0, le=1e30)]
Count = Annotated[int, Field(ge=0)]
Whole = Annotated[int, Field(ge=0, le=10**30)]
Share = Annotated[float, Field(ge=0, le=1)]
Accuracy = Share | None


class Part(BaseModel):
    """A part of a file: numbers are finite numbers, and what is not needed is left out."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


def part_of(record: type, *needs: str) -> type[Part]:
    """A part of a file that holds one of the package's own records.

    Names and types are those of the record, so that what is written and what is read cannot drift
    apart. Numbers must be finite and not negative, accuracies at most 1.

    Args:
        record: a dataclass; its properties are written too, and always needed.
        *needs: fields that a report cannot do without. Others may be missing, as in files of
            earlier versions, and then are None or the record's default.
    """
    hints = get_type_hints(record)
    definitions: dict[str, Any] = {}
    for one in fields(record):
        kind = _bounded(one.name, hints[one.name])
        if one.name in needs:
            definitions[one.name] = (kind, ...)
        elif one.default is MISSING:
            definitions[one.name] = (kind | None, None)
        else:
            definitions[one.name] = (kind, one.default)
    for name, value in vars(record).items():
        if isinstance(value, property):
            definitions[name] = (_bounded(name, get_type_hints(value.fget)["return"]), ...)
    unknown = set(needs) - definitions.keys()
    if unknown:
        raise TypeError(f"{record.__name__} has no field {', '.join(sorted(unknown))}")
    return create_model(record.__name__, __base__=Part, **definitions)


def _bounded(name: str, kind: Any) -> Any:
    """A record's type with the bounds that a report relies on."""
    options = get_args(kind)
    if type(None) in options and len(options) == 2:
        return _bounded(name, options[options[0] is type(None)]) | None
    if kind is float and name.endswith("accuracy"):
        return Share
    return {int: Whole, float: Amount, str: Text}.get(kind, kind)


if TYPE_CHECKING:  # they are made when this module is imported
    Costs: TypeAlias = Part
    Point: TypeAlias = Part
    Round: TypeAlias = Part
    Worker: TypeAlias = Part
else:
    Costs = part_of(
        Ledger, "warmup_passes", "warmup_critical_passes", "warmup_seconds",
        "warmup_critical_seconds", "selection_seconds", "training_seconds",
    )  # fmt: skip
    Point = part_of(
        CurvePoint, "epoch", "phase", "passes", "critical_passes", "seconds", "critical_seconds",
        "test_accuracy",
    )  # fmt: skip
    Round = part_of(RoundReport, "critical_path_passes")
    Worker = part_of(WorkerSummary, "kept")


class Shown(Part):
    """A sample of a subset."""

    index: Count
    label: Text
    weight: float
    png: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]*$")] | None = None


class Subsets(Part):
    """What a run records of its subsets."""

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


class SubnetworkStage(Part):
    """A stage of progressive subnetworks."""

    length: Count
    steps: Annotated[float, Field(gt=0)]
    passes: Annotated[float, Field(gt=0)]
    planned: Amount
    counted: Amount


class EarlyBirdTicket(Part):
    """An Early-Bird ticket, as the report of a warm start describes it."""

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
    def _square(self) -> EarlyBirdTicket:
        if {len(self.distances), *map(len, self.distances)} != {self.masks}:
            raise ValueError(f"expected distances of {self.masks} masks to each other")
        return self


class WarmStart(Part):
    """Of a warm start within a run: its rounds, and what made its workers cheaper."""

    rounds: list[Round] = Field(default_factory=list)
    stages: list[SubnetworkStage] = Field(default_factory=list)
    ticket: EarlyBirdTicket | None = None


class PhaseSeconds(Part):
    """Seconds of a warm start by phase; a report reads their sum."""

    total: Amount


class WarmStartAlone(WarmStart):
    """The report of a warm start that was fitted alone."""

    passes: Amount
    critical_path_passes: Amount
    bytes_communicated: Count
    flops: Amount = 0.0
    critical_path_flops: Amount = 0.0
    seconds: PhaseSeconds
    workers: list[Worker]
    merged_accuracy: Accuracy = None
    mean_worker_accuracy: Accuracy = None
    notes: list[Text] = Field(default_factory=list)


class RunPart(Part):
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
    def _whole(self) -> RunPart:
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
    runs: list[RunPart]

    @property
    def made(self) -> Provenance:
        """With what it was made, wherever the file says it."""
        return self.provenance or self


class SavedWarmStart(Part):
    """The ``warm_start.json`` of a warm start."""

    config: dict[str, Any] = Field(default_factory=dict)
    report: WarmStartAlone
