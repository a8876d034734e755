"""Nets that this package does not have: timm's by name, and functions of a user's module."""

from __future__ import annotations

import difflib
import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lipt_cords.base.errors import missing_extra, unknown_name
from lipt_cords.base.registry import import_modules

TIMM = "timm"
ARGUMENTS = ("num_classes", "in_channels", "image_size")
"""What a function of the user's is called with, by name, as far as it takes it."""

_MADE: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Nets that functions of the user's have returned, as long as they live."""


def module_of(architecture: str) -> str | None:
    """The user's module that ``my_module:make_net`` names, which is to be imported; else None.

    >>> module_of("my_module:make_net"), module_of("timm:resnet18"), module_of("cnn")
    ('my_module', None, None)
    """
    module, separator, _ = architecture.partition(":")
    return module if separator and module != TIMM else None


def build_outside(
    architecture: str, num_classes: int, in_channels: int, image_size: int
) -> nn.Module:
    """Build ``timm:NAME`` or ``my_module:make_net``; weights come from the global random state.

    Raises:
        ValueError: there is no such net, it cannot be built so, or one is returned twice.
        ImportError: timm is not installed.
    """
    where, _, name = architecture.partition(":")
    if where == TIMM:
        return _of_timm(name, num_classes, in_channels, image_size)
    make = _function(where, name)
    given = dict(zip(ARGUMENTS, (num_classes, in_channels, image_size), strict=True))
    net = make(**{key: given[key] for key in _taken(make, architecture)})
    if isinstance(net, nn.Module):
        if net in _MADE:
            raise ValueError(
                f"{architecture} returned the net that it had returned before, which another run "
                "may have trained: build a new one at every call"
            )
        _MADE.add(net)
    return net  # type: ignore[no-any-return]


def _function(module: str, name: str) -> Callable[..., Any]:
    import_modules([module])
    found = sys.modules[module]
    known = [key for key, value in vars(found).items() if callable(value) and key[0] != "_"]
    if not hasattr(found, name):
        raise unknown_name(f"function in {module}", name, known)
    make = getattr(found, name)
    if isinstance(make, nn.Module) or not callable(make):
        raise ValueError(
            f"{module}:{name} is a {type(make).__name__}: expected a function that makes a net, so "
            "that its weights are drawn from the seed of the run"
        )
    return make  # type: ignore[no-any-return]


def _taken(make: Callable[..., Any], architecture: str) -> list[str]:
    """The arguments that a function takes by name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(make).parameters.values()
    for one in parameters:
        required = one.default is one.empty and one.kind not in (
            one.VAR_POSITIONAL,
            one.VAR_KEYWORD,
        )
        if required and (one.name not in ARGUMENTS or one.kind not in by_name):
            raise ValueError(
                f"{architecture} needs {one.name!r}: a function that makes a net is called with "
                f"those of {', '.join(ARGUMENTS)} that it takes; give {one.name!r} a default"
            )
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return list(ARGUMENTS)
    return [one.name for one in parameters if one.name in ARGUMENTS]


def _of_timm(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise missing_extra("timm", "timm", "to build its nets") from None
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"timm {timm.__version__} has no model {name!r}: timm.list_models() lists all.{meant}"
        )
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels}
    known = timm.models.get_pretrained_cfg(name)
    if known is not None and known.fixed_input_size:  # of transformers: positions of patches
        options["img_size"] = image_size
    try:
        net: nn.Module = timm.create_model(name, pretrained=False, **options)
        with torch.no_grad():  # an image that is too small is found by reading one
            net.eval()(torch.zeros(1, in_channels, image_size, image_size))
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"timm has no {name!r} for images of {in_channels} channels and {image_size} "
            f"pixels ({type(error).__name__}: {str(error).partition(chr(10))[0]}): set "
            "dataset.image_size, or take another net"
        ) from error
    return net.train()
