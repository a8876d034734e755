"""One image file to bytes in RGB, or an error that names the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose numbers of mode ``I`` are 16 bits wide."""


def decoded(path: str) -> Tensor:
    """An image as uint8, shape (3, H, W). Of 16 bits the upper eight are kept, as for colours.

    Raises:
        ValueError: a file that is no whole image, one of more pixels than Pillow's limit (178
            million), or one of numbers without a range; it is named.
    """
    try:
        # Reading the file in one go and skipping needless conversions halves the time.
        with Image.open(io.BytesIO(Path(path).read_bytes())) as opened:
            wide = opened.mode.startswith("I;16") or (
                opened.mode == "I" and opened.format in SIXTEEN_BITS
            )
            unknown = not wide and opened.mode in ("I", "F")
            if wide:
                bytes_HW = (np.asarray(opened).astype(np.int64) >> 8).astype(np.uint8)
                return torch.from_numpy(bytes_HW).expand(3, -1, -1).contiguous()
            if not unknown:
                image = opened if opened.mode == "RGB" else opened.convert("RGB")
                return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} is too large ({error}): make it smaller or remove it") from error
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, UnidentifiedImageError):  # it names an object in memory
            reason = "it has no format that Pillow knows"
        raise ValueError(f"{path} is not a whole image ({reason}): delete or replace it") from error
    raise ValueError(
        f"{path} has pixels of 32 bits, whose range is not known: convert it to 8 or 16 bits"
    )
