"""The result of a warm start: merged weights, common start, and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.files import checksum, read_json, write_json
from lipt_cords.base.messages import decode, encode
from lipt_cords.base.ownership import owned
from lipt_cords.base.tensor_files import save_tensors
from lipt_cords.data.collated import CollateFunction, collated
from lipt_cords.data.source import BatchSource
from lipt_cords.models.copies import bare, copy_model
from lipt_cords.models.gradients import LastLayerGradients, last_layer_gradients
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.state import State
from lipt_cords.selectors.dynamics import TrainingDynamics
from lipt_cords.training.cheaper.tickets import Ticket
from lipt_cords.training.weights import RECORD, recorded_tensors
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.fitted import Origins, Unlearning
from lipt_cords.warmstart.prepare.checks import data_length
from lipt_cords.warmstart.report import WarmStartReport
from lipt_cords.warmstart.unlearning.forget import add, forget

M = TypeVar("M", bound=nn.Module)

MERGED, THETA_STAR, SHARDS, TICKET = "merged", "theta_star", "shards", "ticket"
DYNAMICS = "dynamics"
FORMAT = 1


@dataclass(repr=False)
class WarmStartResult:
    """The outcome of :meth:`LiPTWarmStart.fit`; all tensors are on the CPU.

    Attributes:
        state_dict: the merged model.
        theta_star: the common start, from which the workers trained.
        config: the options.
        report: costs and accuracies.
        shards: ascending indices of every worker's samples.
        worker_states: with ``keep_workers``, every worker's state dict in order, None for one
            whose weights are not finite; otherwise None.
        logged: with ``log_samples``, what the workers saw of their samples; see :attr:`dynamics`.
        ticket: with ``early_bird``, the channels of the smaller net; all other weights are zero
            here.
        forgotten: samples that :meth:`forget` has removed, ascending.
        unlearning: cost and limits of the last :meth:`forget` or :meth:`add`, or None.
        origins: the data and the loss that it was fitted on; None for a result that was loaded from
            files, pickled or deeply copied.
        template: a copy of the fitted module; None for a result loaded from files.
        device: where it was fitted, and where gradients are computed by default.
    """

    state_dict: State
    theta_star: State
    config: WarmStartConfig
    report: WarmStartReport
    shards: list[Tensor]
    worker_states: list[State | None] | None = None
    logged: TrainingDynamics | None = None
    ticket: Ticket | None = None
    forgotten: list[int] = field(default_factory=list)
    unlearning: Unlearning | None = None
    origins: Origins | None = None
    template: nn.Module | None = None
    device: torch.device | None = None

    def __repr__(self) -> str:
        report = self.report
        accuracy = report.merged_accuracy
        known = "" if accuracy is None else f", held-out accuracy {accuracy:.1%}"
        return (
            f"WarmStartResult({len(report.workers)} workers{known}, "
            f"{report.critical_path_passes:,} passes on the critical path, "
            f"{report.passes:,} in all)"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "origins": None}  # data sets are large, and often cannot be pickled

    @property
    def dynamics(self) -> TrainingDynamics:
        """What the workers saw of their own samples while they trained, for difficulty scores.

        Visits are in local training alone, in train mode, with the augmentation, masks and paths
        of that step. ``dynamics.score("aum")`` goes into ``select(..., scores=...)``.

        Raises:
            ValueError: the warm start did not log its samples.
        """
        if self.logged is None:
            raise ValueError(
                "the warm start did not log what its workers saw of their samples: fit it with "
                "log_samples=True"
            )
        return self.logged

    def apply_to(self, model: M) -> M:
        """Load the merged weights into a model, in place, so that its optimizer keeps working.

        In one of torch.compile, DataParallel or DistributedDataParallel, into the module inside.

        With a ticket the given net gets zeros elsewhere; a model of the smaller net is accepted
        too.

        Returns:
            The same model.

        Raises:
            ValueError: the model is of another architecture.
        """
        state = self.state_dict
        if self.ticket is not None and self.ticket.fits(bare(model).state_dict()):
            state = self.ticket.gather(state)
        try:
            bare(model).load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"the merged weights do not fit {type(model).__name__}: build the model that the "
                f"warm start was fitted with. {error}"
            ) from error
        return model

    def model(self) -> nn.Module:
        """A new copy of the fitted module with the merged weights.

        Raises:
            ValueError: the result was loaded from files, which hold no module.
        """
        if self.template is None:
            raise ValueError(
                "a result loaded from files has weights but no module: build the model and call "
                "result.apply_to(model)"
            )
        return self.apply_to(copy_model(self.template))

    def forget(self, indices: Any) -> WarmStartResult:
        """The warm start as if some samples had never been in a shard.

        The workers that trained on them are trained again from theta*, and the soup is made again,
        with the BatchNorm refresh. The bits are those of a warm start from this theta* on the
        shards without them. ``unlearning`` holds the cost, and whether theta* was trained on them.

        Args:
            indices: of training samples, or a mask.

        Returns:
            A new result; this one is unchanged.

        Raises:
            ValueError: several rounds, workers that were not kept (``keep_workers``), a result from
                files without :meth:`on`; samples outside of the data, named or forgotten twice; a
                shard that would be empty.

        Source: Bourtoule et al., Machine Unlearning (SISA), IEEE S&P 2021.
        """
        return replace(self, **vars(forget(self, indices)))

    def add(self, indices: Any) -> WarmStartResult:
        """The warm start with more samples of its data set, all added to the smallest shard.

        Args:
            indices: of training samples that are in no shard: forgotten ones, those that
                ``shard_fraction`` left out, or new ones of a longer data set (:meth:`on`).

        Raises:
            ValueError: as :meth:`forget`; samples that are in a shard already.
        """
        return replace(self, **vars(add(self, indices)))

    def on(
        self,
        model: nn.Module,
        train_dataset: Dataset[Any],
        val_dataset: Dataset[Any] | None = None,
        *,
        loss: LossFunction | None = None,
        collate_fn: CollateFunction | None = None,
    ) -> WarmStartResult:
        """A result with the model and the data that it was fitted on, after loading it from files.

        Args:
            model: of the fitted architecture; it is copied.
            train_dataset: the training set, the same samples under the same indices.
            val_dataset: the held-out data of the fit.
            loss: the loss of the fit.
            collate_fn: the function of the fit that made batches.
        """
        held, samples = int(torch.cat(self.shards).max()), data_length(train_dataset, "training")
        if samples <= held:
            raise ValueError(
                f"the shards hold sample {held}, and this training set has {samples}: pass the one "
                "of the fit, or a longer one that begins with it"
            )
        template = copy_model(bare(model)).cpu()
        self.apply_to(copy_model(template))
        train_dataset = collated(train_dataset, collate_fn)
        if val_dataset is not None:
            val_dataset = collated(val_dataset, collate_fn)
        return replace(self, template=template, origins=Origins(train_dataset, val_dataset, loss))

    def ticket_model(self) -> nn.Module:
        """A new copy of the smaller net that the warm start trained, with the merged weights.

        Raises:
            ValueError: there is no ticket (``early_bird``), or no module to cut it from.
        """
        if self.ticket is None:
            raise ValueError(
                "this warm start drew no ticket (report.notes say why if it searched one): set "
                "early_bird={'ratio': 0.3}, or take model()"
            )
        return self.ticket.build(self.model())

    def gradients(
        self,
        dataset: Dataset[Any] | BatchSource,
        *,
        model: nn.Module | None = None,
        **options: Any,
    ) -> LastLayerGradients:
        """Last-layer gradients of the merged model: what the selectors read.

        With a ticket the smaller net is used: the same gradients, without the zeros of removed
        channels.

        Args:
            dataset: whose samples.
            model: a module to use instead of a copy of the fitted one; it is not modified.
            **options: of :func:`lipt_cords.models.gradients.last_layer_gradients`. ``device`` is
                the one that this rank trained on, unless ``model`` brings its own; ``loss`` and
                ``collate_fn`` are those of the fit.
        """
        if model is None:
            options.setdefault("device", self.device)
            merged = self.model() if self.ticket is None else self.ticket_model()
        else:
            merged = self.apply_to(copy_model(model))
        options.setdefault("head", self.config.head)
        if self.origins is not None:  # the loss whose gradients trained the workers
            options.setdefault("loss", self.origins.loss)
            if not isinstance(dataset, BatchSource):
                options.setdefault("collate_fn", self.origins.collate_fn)
        return last_layer_gradients(merged, dataset, **options)

    def save(self, directory: str | Path) -> Path:
        """Write weights, shards and the report into a directory.

        Every file is written completely or not at all. The record is written last and holds the
        checksums of the others, so files of different runs are never mixed.

        Raises:
            ValueError: the directory cannot be written, or another run uses it.
        """
        where = Path(directory).expanduser()
        parts: dict[str, Mapping[str, Tensor]] = {
            MERGED: self.state_dict,
            THETA_STAR: self.theta_star,
            SHARDS: {f"{number:05d}": shard for number, shard in enumerate(self.shards)},
        }
        if self.logged is not None:
            parts[DYNAMICS] = dict(vars(self.logged))
        for number, state in enumerate(self.worker_states or []):
            if state is not None:
                parts[f"worker_{number:05d}"] = state
        if self.ticket is not None:
            parts[TICKET] = self.ticket.tensors()
        try:
            with owned(where):
                return self._write(where, parts)
        except OSError as error:
            raise ValueError(
                f"cannot write the warm start to {where} ({error.strerror}): make room and run the "
                "same command again; finished workers in it are not trained again"
            ) from error

    def _write(self, where: Path, parts: Mapping[str, Mapping[str, Tensor]]) -> Path:
        sums = {name: checksum(save_tensors(_file(where, name), parts[name])) for name in parts}
        record = {
            "format": FORMAT,
            "config": self.config.model_dump(mode="json"),
            "report": self.report.to_dict(),
            "keeps_workers": self.worker_states is not None,
            "forgotten": self.forgotten,
            "unlearning": None if self.unlearning is None else asdict(self.unlearning),
            "ticket": None if self.ticket is None else self.ticket.details(),
            "sha256": sums,
        }
        write_json(where / RECORD, record, seal=True)
        return where

    def to_bytes(self) -> bytes:
        """All but the module and the data, as bytes for another process of this run."""
        ticket, device = self.ticket, self.device
        return encode(
            {
                "warm start": FORMAT,
                "state_dict": self.state_dict,
                "theta_star": self.theta_star,
                "config": self.config.model_dump(mode="json", exclude_unset=True),
                "report": self.report,
                "shards": self.shards,
                "worker_states": self.worker_states,
                "logged": self.logged,
                "ticket": None if ticket is None else (ticket.tensors(), ticket.details()),
                "forgotten": self.forgotten,
                "unlearning": self.unlearning,
                "device": None if device is None else str(device),
            }
        )

    @classmethod
    def from_bytes(cls, payload: bytes, template: nn.Module | None = None) -> WarmStartResult:
        """Read :meth:`to_bytes`, with the module that was fitted.

        Raises:
            ValueError: bytes that it did not write; nothing in them is executed.
        """
        held = decode(payload)
        if not isinstance(held, dict) or held.pop("warm start", None) != FORMAT:
            raise ValueError(f"expected a warm start, received a message of {type(held).__name__}")
        try:
            ticket, device = held.pop("ticket"), held.pop("device")
            return cls(
                config=WarmStartConfig(**held.pop("config")),
                ticket=None if ticket is None else Ticket.parse(*ticket),
                template=None if template is None else copy_model(template).cpu(),
                device=None if device is None else torch.device(device),
                **held,
            )
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"expected a warm start of this version of lipt-cords ({type(error).__name__}: "
                f"{error})"
            ) from error

    @classmethod
    def load(cls, directory: str | Path) -> WarmStartResult:
        """Read what :meth:`save` wrote. The module is not stored.

        Raises:
            ValueError: a file is missing, truncated, damaged, or from another run; it is named.
        """
        where = Path(directory).expanduser()
        record = read_json(where / RECORD)
        parts_of_it = (record.get(key) for key in ("config", "report", "sha256"))
        if record.get("format") != FORMAT or not all(isinstance(p, dict) for p in parts_of_it):
            raise ValueError(f"{where / RECORD} is not the record of a warm start")
        sums = record["sha256"]
        parts = {name: recorded_tensors(_file(where, name), record) for name in sums}
        if missing := {MERGED, THETA_STAR, SHARDS} - set(parts):
            raise ValueError(f"{where / RECORD} names no {', '.join(sorted(missing))}")
        config = WarmStartConfig(**record["config"])
        workers = None
        if record.get("keeps_workers"):
            workers = [parts.get(f"worker_{n:05d}") for n in range(config.num_workers)]
        return cls(
            state_dict=parts[MERGED],
            theta_star=parts[THETA_STAR],
            config=config,
            report=WarmStartReport.from_dict(record["report"]),
            shards=[shard for _, shard in sorted(parts[SHARDS].items())],
            worker_states=workers,
            logged=TrainingDynamics(**parts[DYNAMICS]) if DYNAMICS in parts else None,
            forgotten=list(record.get("forgotten", [])),
            unlearning=Unlearning(**record["unlearning"]) if record.get("unlearning") else None,
            ticket=Ticket.parse(parts[TICKET], record["ticket"]) if TICKET in parts else None,
        )


def _file(directory: Path, name: str) -> Path:
    return directory / f"{name}.safetensors"
