"""Load a network's weights from any file that this package or CORDS writes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lipt_cords.base.files import checksum, read_json
from lipt_cords.base.tensor_files import load_plain, load_tensors
from lipt_cords.training.checkpoint import FORMAT, require_seal

RECORD = "warm_start.json"
MERGED = "merged.safetensors"
NAMES = (MERGED, "checkpoint.pt")
"""Files that are looked for in a directory: a warm start's, then a run's."""
_AGAIN = "delete it and run the warm start again"
_COPY = "give a whole copy of it, or make it again"


def load_weights(model: nn.Module, path: str | Path) -> Path:
    """Load weights into a network, in place.

    Args:
        model: of the architecture that the weights were trained with.
        path: a ``.safetensors`` file; a checkpoint of a run; a file of CORDS or torch that holds a
            state dict of tensors; or the directory of a warm start or a run. Nothing in a file is
            executed.

    Returns:
        The file that was read.

    Raises:
        ValueError: no such file, a truncated or damaged one, one that its warm start's record does
            not name, one without weights, or weights of another architecture; the file is named.
    """
    file = weights_file(path)
    if file.name == MERGED and file.parent == Path(path).expanduser():
        tensors = recorded_tensors(file)
    else:
        tensors = (
            load_tensors(file, remedy=_COPY)
            if file.suffix == ".safetensors"
            else _pickled_tensors(file)
        )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        # torch names every key of both nets: the first few are enough.
        misfit = textwrap.shorten(str(error).partition("\n")[2] or str(error), 240)
        raise ValueError(
            f"the weights in {file} do not fit {type(model).__name__}: give the configuration "
            f"that they were trained with. {misfit}"
        ) from error
    return file


def weights_file(path: str | Path) -> Path:
    """The file of weights at a path.

    Raises:
        ValueError: nothing at this path, or a directory without weights.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"no weights at {path}: give a .safetensors file or a checkpoint")
        return path
    for name in NAMES:
        if (path / name).is_file():
            return path / name
    raise ValueError(
        f"{path} holds none of {', '.join(NAMES)}: give the directory of a warm start or of a run"
    )


def recorded_tensors(file: Path, record: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Tensors of a warm start's file, which its record names with its checksum.

    Args:
        file: a ``.safetensors`` file in the directory of a warm start.
        record: the record; None reads the directory's. Without any the file stands for itself.

    Raises:
        ValueError: the file is damaged, or of another warm start.
    """
    where = file.with_name(RECORD)
    if record is None:
        record = read_json(where, remedy=_AGAIN) if where.is_file() else {}
    sums = record.get("sha256")
    if isinstance(sums, Mapping) and sums.get(file.stem) != checksum(file):
        raise ValueError(
            f"{file} does not belong to {where}: it was damaged or is from another run; {_AGAIN}"
        )
    return load_tensors(file, remedy=_AGAIN)


def _pickled_tensors(file: Path) -> dict[str, Tensor]:
    payload, has_seal = load_plain(
        file,
        what=str(file),
        expected="a file of plain tensors",
        remedy="give a whole copy of it, or the model's state_dict() as safetensors",
    )
    if isinstance(payload, Mapping) and payload.get("format") == FORMAT:
        require_seal(file, payload, has_seal, _COPY)
        payload = payload["state"]["model"]
    for key in ("state_dict", "model"):
        if isinstance(payload, Mapping) and isinstance(payload.get(key), Mapping):
            payload = payload[key]
    if not isinstance(payload, Mapping) or not payload:
        raise ValueError(f"{file} holds no state dict: expected named tensors")
    if not all(isinstance(value, Tensor) for value in payload.values()):
        raise ValueError(f"{file} holds no state dict: expected named tensors and nothing else")
    return dict(payload)
