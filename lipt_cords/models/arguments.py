"""Which keys of a dict batch a network takes, by the signature of its ``forward``."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin

from torch import Tensor, nn
from typing_extensions import Unpack, is_typeddict

from lipt_cords.models.copies import bare

logger = logging.getLogger(__name__)

KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def taken(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keyword arguments that a network takes; others, such as a column ``idx``, are left out.

    A ``forward`` with ``**kwargs`` takes everything, unless their type names them, as
    transformers' models do (``**kwargs: Unpack[...]``). What is left out is logged once.
    """
    function = getattr(bare(model).forward, "__func__", bare(model).forward)
    unknown = _left_out(function, tuple(inputs), type(model).__name__)
    return {name: value for name, value in inputs.items() if name not in unknown}


@functools.lru_cache(maxsize=256)
def _left_out(function: Callable[..., Any], names: tuple[str, ...], net: str) -> frozenset[str]:
    known = _keywords(function)
    unknown = () if known is None else [name for name in names if name not in known]
    if unknown:
        logger.warning(
            "%s.forward() does not take these keys of a batch, so they are left out: %s",
            net, ", ".join(unknown),
        )  # fmt: skip
    return frozenset(unknown)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, SyntaxError):  # names that only type checkers import
        return inspect.signature(function)


def _keywords(function: Callable[..., Any]) -> frozenset[str] | None:
    """Names of the keyword arguments of a function; None if it takes any or does not tell."""
    try:
        parameters = _signature(function).parameters.values()
    except (TypeError, ValueError):  # such as a ScriptModule's
        return None
    names = {one.name for one in parameters if one.kind in KEYWORDS}
    for one in parameters:
        if one.kind is inspect.Parameter.VAR_KEYWORD:
            more = get_args(one.annotation)[:1] if get_origin(one.annotation) is Unpack else ()
            if not more or not is_typeddict(more[0]):
                return None
            names |= more[0].__annotations__.keys()
    return frozenset(names)
