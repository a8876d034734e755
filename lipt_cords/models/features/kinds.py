"""The registry of kinds of features, and what each is given: samples without their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipt_cords.base.devices import resolve_device
from lipt_cords.base.randomness import generator
from lipt_cords.base.registry import Registry
from lipt_cords.data.batches import LABEL_KEYS, Inputs, describe, split_batch
from lipt_cords.data.collated import apart
from lipt_cords.data.source import BatchSource, require_finite

CHUNK = 256
"""Samples that are read and mapped at once."""
TEXT_KEYS = ("text", "sentence", "content", "document")
"""Keys of a dict under which its text is found, the first that is there."""
TOKEN_KEY = "input_ids"
TOKEN_TYPES = (torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class FeatureMap:
    """A fitted kind of features.

    Attributes:
        apply: maps a chunk of inputs (a tensor, a dict of tensors, or a list of strings) to
            (B, width) float32.
        width: numbers a sample.
    """

    apply: Callable[[Any], Tensor]
    width: int


class Samples:
    """The inputs of a data set, chunk by chunk, without labels.

    Inputs that are tensors come as one tensor or a dict of tensors a chunk; texts as a list of
    strings.

    Args:
        dataset: a map-style data set of ``(x, y)`` pairs or dicts with labels.
        device: where tensors are given out.
        seed: of :meth:`draw`.
    """

    def __init__(self, dataset: Dataset[Any], device: torch.device | str, seed: int = 0) -> None:
        self.device, self.seed = resolve_device(device), seed
        # Reading a text costs an item; everything else goes through batches.
        self.texts = isinstance(_first_input(dataset), str) if len(dataset) else False  # type: ignore[arg-type]
        self._dataset = dataset
        self._source = (
            None if self.texts else BatchSource(dataset, device=self.device, cache_bytes=0)
        )

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def chunks(self, indices: Tensor | None = None, size: int = CHUNK) -> Iterator[Any]:
        """Inputs of the samples at ``indices``, or of all, in order."""
        order = torch.arange(len(self)) if indices is None else indices
        if self._source is None:
            for part in torch.split(order, size):
                yield [_text_of(self._dataset[i], i) for i in part.tolist()]
            return
        batches = self._source.batches(order, batch_size=size)
        for part, (inputs, _) in zip(torch.split(order, size), batches, strict=True):
            require_finite(inputs, part, "pool's")
            yield inputs

    def draw(self, count: int) -> Any:
        """Inputs of so many different samples, drawn at random, to fit a map to."""
        draws = generator(self.seed, "features", "samples")
        some = torch.randperm(len(self), generator=draws)[:count].sort().values
        # What a function of the user's pads has one length in one chunk.
        whole = apart(self._dataset)[1] is not None
        parts = list(self.chunks(some, max(1, len(some)) if whole else CHUNK))
        if self.texts:
            return [text for part in parts for text in part]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


FeatureFunction = Callable[[Samples], FeatureMap]
KINDS: Registry[FeatureFunction] = Registry("kind of features", takes=("samples",), fits=None)
"""``fits``: whether samples such as the first are of this kind, a function of the first one's
input; None: never chosen by ``auto``."""


def register_features(
    name: str, *, fits: Callable[[Any], bool] | None = None
) -> Callable[[FeatureFunction], FeatureFunction]:
    """Make a function known as a kind of features.

    The function takes :class:`Samples`, fits itself to some of them (``samples.draw(n)``) and
    returns a :class:`FeatureMap`.

    Args:
        name: must be free.
        fits: tells from the first sample's input whether ``"auto"`` may choose this kind.

    Raises:
        ValueError: the name is taken, or the function cannot be called so.

    >>> @register_features("mean-colour")
    ... def mean_colour(samples):
    ...     "The mean of each channel."
    ...     return FeatureMap(lambda images: images.mean(dim=(2, 3)), 3)
    >>> KINDS.unregister("mean-colour")
    """
    return KINDS.register(name, fits=fits)


def kind_of(dataset: Dataset[Any]) -> str:
    """The kind that fits the first sample.

    Raises:
        ValueError: none does.
    """
    first = _first_input(dataset)
    for name in KINDS.names():
        fits = KINDS.entry(name).facts["fits"]
        if fits is not None and fits(first):
            return name
    raise ValueError(
        f"no kind of features fits samples such as the first, {_shown(first)}: expected images "
        "(C, H, W), rows of numbers (F,), texts, or token ids (T,), in a dict as 'input_ids'. Give "
        "features= a network whose embeddings are to be used, Features of your own, or one of "
        f"{', '.join(KINDS.names())}"
    )


def token_ids(inputs: Any) -> Tensor | None:
    """The token ids of inputs that are tokenised texts, (T,) or (B, T), else None.

    Integers wider than a byte are token ids: bytes are images.
    """
    if isinstance(inputs, Mapping):
        inputs = inputs.get(TOKEN_KEY)
    ids = isinstance(inputs, Tensor) and inputs.dtype in TOKEN_TYPES and inputs.ndim in (1, 2)
    return inputs if ids else None


def alone(inputs: Mapping[str, Any]) -> Tensor | None:
    """The tensor of floats in a dict that holds nothing else, else None."""
    (value, *others) = inputs.values() or (None,)
    floats = isinstance(value, Tensor) and value.is_floating_point() and not others
    return value if floats else None


def unfit(kind: str, expected: str, inputs: Any) -> ValueError:
    """The error of a kind that cannot read a chunk of inputs."""
    received = _shown(inputs[0]) if isinstance(inputs, list | Tensor) else _shown(inputs)
    return ValueError(
        f"features {kind!r} need {expected}, received {received}: convert the items, or give "
        "features= a network or rows of your own"
    )


def _first_input(dataset: Dataset[Any]) -> Any:
    """The first sample's input: its text, or what its own batch holds of it."""
    plain, collate_fn = apart(dataset)
    item = plain[0]
    if collate_fn is None or (
        isinstance(item, Mapping | tuple | list) and isinstance(_input_of(item), str)
    ):
        return _input_of(item)
    inputs, _ = split_batch(collate_fn([item]))
    if isinstance(inputs, Tensor):
        return inputs[0]
    return {name: value[0] for name, value in inputs.items()}


def _input_of(item: Any) -> Any:
    """The input of an item, its text if it has one."""
    if isinstance(item, Mapping):
        for key in TEXT_KEYS:
            if isinstance(item.get(key), str):
                return item[key]
        return {name: value for name, value in item.items() if name not in LABEL_KEYS}
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0]
    raise ValueError(
        f"expected items (x, y) or dicts with 'labels', received {describe(item)}: let the data "
        "set return a pair or a dict"
    )


def _text_of(item: Any, index: int) -> str:
    text = _input_of(item)
    if not isinstance(text, str):
        raise ValueError(
            f"sample {index} is no text but {_shown(text)}, where the first one is a text"
        )
    return text


def _shown(inputs: Inputs | Any) -> str:
    if isinstance(inputs, Tensor):
        return f"a tensor of {inputs.dtype} {tuple(inputs.shape)}"
    return describe(inputs)
