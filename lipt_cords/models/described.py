"""What models and losses are, in words and values, so that a stored run knows its own.

Names and options do not tell everything of a user's code: two functions of one name may compute
different losses. So a loss is also tried, on drawn logits.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.models.losses import LossFunction, mean_loss
from lipt_cords.models.state import digest

MOST_CLASSES = 256
"""Labels on which a loss is tried."""
FEWEST_LABELS = 4
DIGITS = {torch.float64: 6}
"""Digits that do not depend on threads, vector units and machines; other dtypes keep the fewest."""
FEWEST_DIGITS = 3


def without_addresses(text: str) -> str:
    """What an object prints as, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def describe_layers(model: nn.Module) -> dict[str, str]:
    """The type and the options of every module, by name.

    >>> describe_layers(nn.Sequential(nn.Dropout(0.5)))
    {'': 'Sequential()', '0': 'Dropout(p=0.5, inplace=False)'}
    """
    return {
        name: without_addresses(f"{type(module).__name__}({module.extra_repr()})")
        for name, module in model.named_modules()
    }


def describe_loss(loss: LossFunction | None) -> str:
    """The description of a loss: its name, and its options and weights if it is a module."""
    if loss is None:
        return "cross-entropy"
    if not isinstance(loss, nn.Module):
        return str(getattr(loss, "__qualname__", type(loss).__qualname__))
    plain = {k: v for k, v in vars(loss).items() if isinstance(v, bool | int | float | str)}
    plain.pop("training", None)
    return f"{type(loss).__qualname__} {sorted(plain.items())} {digest(loss.state_dict())[:16]}"


def loss_value(loss: LossFunction | None, classes: int, seed: int, device: torch.device) -> str:
    """The loss of drawn logits and labels, which do not depend on model or data.

    Args:
        loss: as it was given; a copy is tried.
        classes: logits of a sample.
        seed: of the draws.
        device: where to try a loss that cannot be tried on the CPU.
    """
    labels = torch.arange(max(FEWEST_LABELS, min(classes, MOST_CLASSES))) % classes
    draws = generator(seed, "fingerprint", "logits")
    logits = 2 * torch.randn(len(labels), classes, dtype=torch.float64, generator=draws)

    def value(wide: bool, where: torch.device | str) -> str:
        mine = copy.deepcopy(loss)
        if wide and isinstance(mine, nn.Module):
            mine = mine.double()
        given = (logits if wide else logits.float()).to(where)
        with torch.no_grad():
            return rounded(mean_loss(mine, where)(given, labels.to(where)))

    return first_that_works(
        [lambda: value(True, "cpu"), lambda: value(False, "cpu"), lambda: value(False, device)]
    )


def steady(compute: Callable[[], str], seed: int) -> str | Exception:
    """The value of a user's code; the error that it raised, or one if it gives two values."""
    values: list[str] = []
    for _ in range(2):
        try:
            with isolated_rng(seed, "fingerprint"):
                values.append(compute())
        except Exception as error:  # any error of a user's code: the run itself will report it
            return error
    if values[0] != values[1]:
        return ValueError("it differs from one try to the next under the same seed")
    return values[0]


def first_that_works(tries: list[Callable[[], str]]) -> str:
    """What the first try gives that raises nothing; the last one's error."""
    for attempt in tries[:-1]:
        try:
            return attempt()
        except Exception:  # such as a layer that insists on float32
            continue
    return tries[-1]()


def rounded(values: Tensor) -> str:
    """Size and three weighted means of some numbers, in the reliable digits."""
    digits = DIGITS.get(values.dtype, FEWEST_DIGITS)
    flat = values.detach().double().cpu().flatten()
    size = float(flat.abs().max())
    draws = torch.Generator().manual_seed(0)
    weights = torch.rand(3, len(flat), dtype=torch.float64, generator=draws)
    means = (weights @ flat / len(flat) / (size or 1.0)).tolist()
    words = [f"{size:.{digits}g}", *(f"{mean + 0.0:.{digits}f}" for mean in means)]
    if len(flat) == 1:
        return words[0] if flat.item() >= 0 else f"-{words[0]}"
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]
