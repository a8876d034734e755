"""Small image folders, written by the tests that read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photos(
    root: Path,
    count: int = 10,
    classes: tuple[str, ...] = ("cat", "dog"),
    *,
    side: int = 12,
    ending: str = ".jpg",
) -> Path:
    """Images of noise, so many in the folder of each class."""
    draws = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = draws.integers(0, 255, (side, side, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}{ending}")
    return root
