"""The origin of a figure: versions, machine and revision, stored with every result."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lipt_cords.base.devices import model_names

PACKAGES = ("lipt-cords", "torch", "torchvision", "numpy", "scikit-learn", "cords")


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, or None.

    >>> installed_version("no-such-package") is None
    True
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """The revision of the source tree that holds this package, ``+dirty`` if it was changed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def machine() -> dict[str, Any]:
    """The machine, without identifying data: no host name, no path."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": model_names(),
    }


def machine_name(parts: Mapping[str, Any]) -> str:
    """The kind of machine, in a few words: it decides whether seconds can be compared.

    >>> machine_name({"processor": "a processor", "gpus": ["a GPU"]})
    'a processor, a GPU'
    """
    return ", ".join([str(parts.get("processor") or "an unnamed processor"), *parts["gpus"]])


def provenance() -> dict[str, Any]:
    """Versions, machine and revision of this run, ready for JSON."""
    return {
        "python": platform.python_version(),
        "versions": {package: installed_version(package) for package in PACKAGES},
        "machine": machine(),
        "revision": git_revision(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
