"""Results as a comparison writes them, made up, so that what they must say is known."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

LABELS = {
    "random": "random", "rs2": "RS2", "full": "GLISTER after full data",
    "lipt": "GLISTER after LiPT", "one-worker": "GLISTER after one worker",
    "rs2@total": "RS2, equal passes", "none+selector/static": "Covering",
    "full-data": "all data",
}  # fmt: skip
COSTS = {
    "warmup_seconds": 1.0, "warmup_critical_seconds": 0.5, "gradient_seconds": 0.5,
    "selection_seconds": 2.0, "training_seconds": 3.0, "evaluation_seconds": 0.25,
    "seconds": 6.0, "critical_seconds": 5.5, "warmup_bytes": 0,
}  # fmt: skip


def point(epoch: int, critical: int, total: int, accuracy: float, phase: str) -> dict[str, Any]:
    seconds = {"critical_seconds": 0.01 * critical, "seconds": 0.01 * total}
    passes = {"critical_passes": critical, "passes": total}
    return {"epoch": epoch, "phase": phase, "test_accuracy": accuracy, **passes, **seconds}


def runs_of(
    method: str,
    accuracies: list[float],
    critical: int,
    total: int,
    fraction: float | None = None,
    **more: Any,
) -> list[dict[str, Any]]:
    """One run a seed, which pays for a warm-up and then makes 100 passes."""
    passes = {"warmup_critical_passes": critical, "warmup_passes": total}
    passes |= {"passes": total + 100, "critical_passes": critical + 100}
    return [
        {
            "method": method,
            "label": LABELS.get(method, method),
            "fraction": fraction,
            "seed": seed,
            "status": "ok",
            "error": None,
            "test_accuracy": accuracy,
            "costs": {**COSTS, **passes},
            "peak_memory_bytes": {"process": 2**28},
            "curve": [
                point(0, critical, total, 0.1, "start"),
                point(1, critical + 50, total + 50, accuracy - 0.1, "subset"),
                point(2, critical + 100, total + 100, accuracy, "subset"),
            ],
            **more,
        }
        for seed, accuracy in enumerate(accuracies)
    ]


def png(value: int = 128) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, dtype=np.uint8)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def subsets(alike: bool = False) -> dict[str, Any]:
    """What a run says of its subsets."""
    shown = [
        {"index": i, "label": "cat" if i % 2 else "dog", "weight": 1.0 if alike else 2.0 - i / 24}
        | {"png": png(10 * i)}
        for i in range(24)
    ]
    return {
        "size": 24, "pool": 240, "epochs": [0, 5, 10], "overlaps": [0.25, 0.5],
        "accuracies": [None] * 3, "class_counts": [12, 12], "pool_class_counts": [120, 120],
        "class_names": ["dog", "cat"], "weights_alike": alike, "shown": shown,
    }  # fmt: skip


def rounds(count: int = 4) -> dict[str, Any]:
    """The report of a warm start with several rounds."""
    return {
        "rounds": [
            {
                "round": i,
                "critical_path_passes": 1000 * (i + 1),
                "stability": {
                    "rank_correlation": 0.5 + 0.1 * i, "class_cosine": 0.8 + 0.01 * i,
                    "merged_loss": 1.0 / (i + 1), "benefit": None if i < 2 else 0.1,
                },
            }
            for i in range(count)
        ]
    }  # fmt: skip


def comparison(runs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What ``results.json`` holds."""
    return {
        "schema": 1,
        "kind": "compare",
        "config": {"dataset": {"name": "digits"}, "model": {"architecture": "cnn"}},
        "terms": {"equal": None},
        "command": "lipt-cords compare config.yaml",
        "notes": [],
        "python": "3.11.7",
        "versions": {"torch": "2.14.1", "cords": None},
        "machine": {"processor": "a processor", "cores": 2, "threads": 1, "gpus": []},
        "revision": "abc",
        "runs": runs,
        **more,
    }


def large(fractions: int = 6, seeds: int = 3) -> dict[str, Any]:
    """Five methods at several fractions with several seeds, as a whole comparison has them."""
    draws = np.random.default_rng(0)
    runs = []
    for place in range(fractions):
        fraction = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)[place]
        for number, (method, critical, total) in enumerate(
            (
                ("random", 0, 0),
                ("rs2", 0, 0),
                ("full", 5000, 5000),
                ("lipt", 700, 4000),
                ("one-worker", 700, 700),
            )
        ):
            level = 0.3 + 0.08 * place + 0.05 * number
            accuracies = (level + 0.02 * draws.standard_normal(seeds)).tolist()
            made = runs_of(method, accuracies, critical, total, fraction, subsets=subsets())
            for run, accuracy in zip(made, accuracies, strict=True):
                if method == "lipt":
                    run["warm_start"] = rounds()
                run["curve"] = [point(0, critical, total, 0.1, "start")] + [
                    point(e, critical + 10 * e, total + 10 * e, accuracy * e / 20, "subset")
                    for e in range(1, 21)
                ]
            runs += made
    return comparison(runs)
