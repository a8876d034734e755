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
WHITE_IS_ZERO = ("TIFF", 262, 0)
"""The format, the tag and its value that say that grey is inverted."""


class UnreadableImage(ValueError):
    """A file that is no whole image.

    Attributes:
        path: the file.
        reason: why it cannot be read, in a few words.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot read the image {path} ({reason}): replace or remove it")
        self.path, self.reason = path, reason


def decoded(path: str, *, small: bool = False) -> Tensor:
    """An image as uint8, shape (3, H, W). Of 16 bits the upper eight are kept, as for colours.

    Args:
        path: the file.
        small: whether a JPEG is decoded at an eighth of its size, which takes less time and finds
            the same faults.

    Raises:
        UnreadableImage: a file that is no whole image, one of more pixels than Pillow's limit (178
            million), or one of numbers without a range.
    """
    try:
        # Reading the file in one go and skipping needless conversions halves the time.
        data = Path(path).read_bytes()
        if not data:
            raise UnreadableImage(path, "empty")
        with Image.open(io.BytesIO(data)) as opened:
            if small:
                opened.draft(None, (1, 1))
            wide = opened.mode.startswith("I;16") or (
                opened.mode == "I" and opened.format in SIXTEEN_BITS
            )
            unknown = not wide and opened.mode in ("I", "F")
            if wide:
                bytes_HW = (np.asarray(opened).astype(np.int64) >> 8).astype(np.uint8)
                kind, tag, value = WHITE_IS_ZERO
                if opened.format == kind and opened.tag_v2.get(tag) == value:
                    bytes_HW = 255 - bytes_HW
                return torch.from_numpy(bytes_HW).expand(3, -1, -1).contiguous()
            if not unknown:
                image = opened if opened.mode == "RGB" else opened.convert("RGB")
                return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    except UnreadableImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(path, f"too large: {error}") from error
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise UnreadableImage(path, _reason(error)) from error
    raise UnreadableImage(
        path, "pixels of 32 bits, whose range is not known: convert it to 8 or 16 bits"
    )


def _reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):  # its text names an object in memory
        return "not an image, or damaged at its beginning"
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return "truncated" if "truncated" in said.lower() else said
