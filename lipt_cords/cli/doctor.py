"""Is everything here? Versions, devices, CORDS, data, and the command for whatever is missing.

The last line of the check is a real one: a tiny warm start and a selection from it.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from lipt_cords.base.devices import described
from lipt_cords.base.provenance import provenance
from lipt_cords.base.registry import REGISTRIES, is_foreign
from lipt_cords.data.datasets import DATASET_LINES, DATASET_NAMES, DATASETS, find_data, load_dataset

OK, ABSENT, BROKEN = "ok", "absent", "broken"
EXTRAS = {
    "cords": ("apricot", "dotmap", "pandas", "matplotlib"),
    "report": ("matplotlib", "jinja2"),
    "track": ("tensorboard",),
    "prune": ("torch_pruning",),
    "timm": ("timm",),
    "tables": ("pandas", "pyarrow"),
    "dev": ("pytest", "hypothesis", "ruff", "mypy", "importlinter"),
}
"""Modules behind each optional part of the installation."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    part: str
    """``core``, ``device``, ``backend``, ``cords``, ``extra`` or ``data``."""
    name: str
    status: str
    """``ok``, ``absent`` (optional, and not there) or ``broken`` (there, and it does not work)."""
    detail: str
    remedy: str | None = None
    """The command or option that would help."""


@dataclass
class Diagnosis:
    """All checks, and whether the core of the package works."""

    checks: list[Check] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether nothing in the core is broken; optional parts may be absent."""
        return all(check.status == OK for check in self.checks if check.part == "core")

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain JSON types."""
        return {**asdict(self), "healthy": self.healthy}


@dataclass(frozen=True)
class Registered:
    """A name that a configuration or a command can use."""

    kind: str
    """Such as ``selector``."""
    name: str
    line: str
    """What it does."""
    module: str | None
    """Which module registered it; None for this package's own."""


def registered() -> list[Registered]:
    """All registered names, kind by kind; the package's own first."""
    own = [Registered(DATASETS.kind, name, line, None) for name, line in DATASET_LINES.items()]
    return own + [
        Registered(kind, entry.name, entry.line, entry.module if is_foreign(entry.module) else None)
        for kind, registry in REGISTRIES.items()
        for entry in map(registry.entry, registry.names())
    ]


def diagnose(datadir: str | Path | None = None) -> Diagnosis:
    """Look at everything that a run may need.

    Args:
        datadir: where to look for data besides the usual places.

    Returns:
        The checks, the core's first. Nothing is downloaded and nothing is written.
    """
    where = provenance()
    checks = [
        *_core(where["versions"]),
        *device_checks(),
        *_backends(),
        _cords(),
        *(_extra(name, modules) for name, modules in EXTRAS.items()),
        *(_data(name, datadir) for name in DATASET_NAMES),
    ]
    return Diagnosis(checks, where)


def _core(versions: dict[str, str | None]) -> list[Check]:
    checks = [Check("core", "torch", OK, torch.__version__)]
    pairing = (
        "install torch and torchvision together: pip install --force-reinstall torch torchvision"
    )
    checks.append(
        _attempt("core", "torchvision", lambda: _torchvision(versions["torchvision"]), pairing)
    )
    remedy = "pip check"
    checks.append(_attempt("core", "warm start and selection", _smoke, remedy))
    return checks


def _torchvision(version: str | None) -> str:
    importlib.import_module("torchvision").ops.nms(torch.rand(2, 4), torch.rand(2), 0.5)
    return str(version)


def _smoke() -> str:
    """A warm start of two workers on a few digits, and a subset from its gradients."""
    from lipt_cords.models.build import build_model
    from lipt_cords.selectors.base import select
    from lipt_cords.warmstart.warm_start import LiPTWarmStart

    started = time.perf_counter()
    splits = load_dataset("digits", limit=200)
    model = build_model("cnn", splits.num_classes, in_channels=1, image_size=8)
    warm = LiPTWarmStart(
        num_workers=2, local_steps=2, common_steps=2, batch_size=16, device="cpu",
        launch="serial", progress=False,
    ).fit(model, splits.train, splits.val)  # fmt: skip
    selection = select(
        "glister",
        warm.gradients(splits.train),
        20,
        val_gradients=warm.gradients(splits.val),
    )
    seconds = time.perf_counter() - started
    return f"{len(selection)} digits chosen after a warm start of 2 workers, {seconds:.1f} s"


def device_checks() -> list[Check]:
    threads = torch.get_num_threads()
    checks = [Check("device", "cpu", OK, f"{threads} thread{'s' if threads > 1 else ''}")]
    there = described()
    checks += [Check("device", name, OK, detail) for name, detail in there.items()]
    if not there:
        detail = "torch sees none; runs use the CPU"
        checks.append(Check("device", "accelerator", ABSENT, detail))
    return checks


def _backends() -> list[Check]:
    distributed = torch.distributed
    if not distributed.is_available():
        return [Check("backend", "torch.distributed", ABSENT, "this torch was built without it")]
    found = {"gloo": distributed.is_gloo_available(), "nccl": distributed.is_nccl_available()}
    detail = {True: "available", False: "not in this torch build"}
    return [
        Check("backend", name, OK if there else ABSENT, detail[there])
        for name, there in found.items()
    ]


def _cords() -> Check:
    from lipt_cords.cords.importing import INSTALL_CORDS, cords_version, import_cords

    version = cords_version()
    if version is None:
        return Check(
            "cords", "cords", ABSENT, "not installed; our own selectors work", INSTALL_CORDS
        )

    def load() -> str:
        import_cords()
        return f"{version}, imports"

    return _attempt("cords", "cords", load, INSTALL_CORDS)


def _extra(name: str, modules: tuple[str, ...]) -> Check:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if not missing:
        return Check("extra", name, OK, ", ".join(modules))
    remedy = f"pip install 'lipt-cords[{name}]'"
    return Check("extra", name, ABSENT, f"missing {', '.join(missing)}", remedy)


def _data(name: str, datadir: str | Path | None) -> Check:
    place = find_data(name, datadir)
    if place is not None:
        return Check("data", name, OK, str(place))
    return Check("data", name, ABSENT, "not found", "--data DIR, or --download to fetch it")


def _attempt(part: str, name: str, work: Callable[[], str], remedy: str) -> Check:
    """A check that runs something: whatever it raises is the finding, not a crash."""
    try:
        return Check(part, name, OK, work())
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        return Check(part, name, BROKEN, f"{type(error).__name__}: {first_line}", remedy)
