"""The keys ``warm_start`` and ``selector`` on CORDS's adaptive loaders, and the switch for them.

While the plug-in is enabled, every adaptive loader that is built, a user's own subclass included,
is an object of a class derived from the one asked for, with :class:`PluggedIn` in front. Loaders
keep what they can do after the plug-in is disabled; loaders built before it are untouched.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from lipt_cords.base.randomness import preserved_rng
from lipt_cords.cords.checks import check_loader, rules_of
from lipt_cords.cords.contract import follows_cords_contract, make_cords_compatible
from lipt_cords.cords.importing import ADAPTIVE, allow_imports, disallow_imports, import_cords
from lipt_cords.cords.loader import (
    PluggedIn,
    given_warm_start,
    parse_warm_start,
    pending_warm_start,
    plugged_in,
    without_kappa,
)
from lipt_cords.cords.own_loader import FastSelector, has_dict_samples, with_dicts
from lipt_cords.cords.own_options import (
    device_of,
    loader_options,
    own_strategy,
    who_selects,
)
from lipt_cords.data.batches import split_batch, to_device
from lipt_cords.data.open_files import nothing_left_open
from lipt_cords.models.heads import find_head, model_device
from lipt_cords.warmstart.config import WarmStartConfig

_SL_BASE = "cords.utils.data.dataloader.SL.dssdataloader"
_SSL_BASE = "cords.utils.data.dataloader.SSL.dssdataloader"


def enable() -> None:
    """Import CORDS and let the adaptive loaders built from now on understand our keys.

    ``warm_start`` in ``dss_args`` starts them warm, ``selector: fast`` lets our selectors choose,
    and ``selector: NAME`` any registered one.

    Until :func:`disable`, any module of CORDS can be imported in the usual way. Calling it twice
    is calling it once.

    Raises:
        ImportError: CORDS is not installed; the message says how to install it.
    """
    if _PATCHES:
        return
    import_cords(_SL_BASE, _SSL_BASE)
    allow_imports()
    adaptive = importlib.import_module(ADAPTIVE).AdaptiveDSSDataLoader
    _patch(adaptive, "__new__", staticmethod(_new))
    _patch(adaptive, "__init__", _adaptive_init(adaptive, adaptive.__init__))
    for module in (_SL_BASE, _SSL_BASE):
        base = importlib.import_module(module).DSSDataLoader
        _patch(base, "__init__", _base_init(adaptive, base.__init__))


def disable() -> None:
    """Give CORDS's classes back as they were. Loaders built while enabled keep their keys."""
    if not _PATCHES:
        return
    while _PATCHES:
        owner, name, original = _PATCHES.pop()
        # A class that once had a __new__ of its own refuses constructor arguments without one.
        setattr(owner, name, staticmethod(_plain_new) if name == "__new__" else original)
    disallow_imports()


@contextmanager
def enabled() -> Iterator[None]:
    """The plug-in is enabled inside; outside, it is as it was before."""
    before = bool(_PATCHES)
    enable()
    try:
        yield
    finally:
        if not before:
            disable()


_PATCHES: list[tuple[type, str, Any]] = []


def _patch(owner: type, name: str, value: Any) -> None:
    _PATCHES.append((owner, name, owner.__dict__.get(name)))
    setattr(owner, name, value)


def _plain_new(cls: type, *args: Any, **kwargs: Any) -> Any:
    return object.__new__(cls)


def _new(cls: type, *args: Any, **kwargs: Any) -> Any:
    """Check the arguments before any constructor reads them, and derive the class."""
    loader: Any = plugged_in(cls)
    given = _arguments(cls, args, kwargs)
    if given is not None:
        loaders, dss_args = (given.get("train_loader"), given.get("val_loader")), given["dss_args"]
        vars(loader)["_checked"] = _check(cls, *loaders, dss_args), given_warm_start(dss_args)
    return loader


def _arguments(cls: type, args: Any, kwargs: Any) -> Mapping[str, Any] | None:
    """The constructor's arguments by name; None where only the base will see them.

    A constructor ``(self, *args, **kwargs)`` passes them on; any other that does not name
    ``dss_args`` may make it up, and the check waits until the base constructor gets it.
    """
    for base in cls.__mro__:
        init: Any = base.__dict__.get("__init__")
        if init is None:
            continue
        signature = inspect.signature(init)
        if "dss_args" in signature.parameters:
            try:
                given = signature.bind(None, *args, **kwargs).arguments
            except TypeError:
                return None  # calling the constructor raises a better error
            return given if "dss_args" in given else None
        kinds = [parameter.kind.name for parameter in signature.parameters.values()]
        if kinds[1:] != ["VAR_POSITIONAL", "VAR_KEYWORD"]:
            return None
    return None


def _check(cls: type, train_loader: Any, val_loader: Any, dss_args: Any) -> WarmStartConfig | None:
    config = parse_warm_start(dss_args)
    strategy = own_strategy(cls, dss_args)
    val_loader = train_loader if val_loader is None else val_loader
    fast = strategy is not None
    check_loader(cls, train_loader, val_loader, dss_args, warm=config is not None, fast=fast)
    if strategy is not None:
        loader_options(strategy, dss_args, train_loader.batch_size)
    return config


def _fast_selector(cls: type, dss_args: Any, train_loader: Any) -> FastSelector | None:
    strategy = own_strategy(cls, dss_args)
    if strategy is None:
        return None
    options = loader_options(strategy, dss_args, train_loader.batch_size)
    return FastSelector(options, device_of(dss_args))


def _adaptive_init(adaptive: type, original: Any) -> Any:
    """The constructor that every adaptive loader reaches, before it copies the model."""

    @functools.wraps(original)
    def init(
        self: Any, train_loader: Any, val_loader: Any, dss_args: Any, logger: Any, *args: Any,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        if not isinstance(self, PluggedIn):  # built around __new__
            original(self, train_loader, val_loader, dss_args, logger, *args, **kwargs)
            return
        cls = type(self)
        checked = vars(self).pop("_checked", None)
        if checked is None:
            config = _check(cls, train_loader, val_loader, dss_args)
        elif checked[1] is given_warm_start(dss_args):  # parsed once
            config = checked[0]
        else:  # a constructor has replaced it on the way
            config = parse_warm_start(dss_args)
        _prepare_model(cls, dss_args, train_loader)
        self._fast_selector = _fast_selector(cls, dss_args, train_loader)
        if self._fast_selector is not None or config is not None:
            self._dict_samples = has_dict_samples(train_loader.dataset)
        if config is not None:
            plan = pending_warm_start(cls, config, dss_args, logger)
            dss_args = without_kappa(dss_args)
            self._pending_warm_start = plan
        with nothing_left_open(*(one.dataset for one in (train_loader, val_loader))):
            original(self, train_loader, val_loader, dss_args, logger, *args, **kwargs)
        self._first_epoch = self.cur_epoch
        if self._dict_samples:
            with_dicts(self.wtdataloader)

    return init


def _base_init(adaptive: type, original: Any) -> Any:
    """The constructor of all loaders: those that are not adaptive cannot start warm."""

    @functools.wraps(original)
    def init(self: Any, full_data: Any, dss_args: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(self, adaptive):
            keys = {
                "warm_start": parse_warm_start(dss_args) is not None,
                "selector": who_selects(dss_args) != "cords",
            }
            for key in (key for key, used in keys.items() if used):
                raise ValueError(
                    f"{type(self).__name__} does not understand {key}: only CORDS's adaptive "
                    "loaders for supervised learning do (GLISTER, GradMatch, CRAIG, Random). Take "
                    "the key out of dss_args"
                )
        original(self, full_data, dss_args, *args, **kwargs)

    return init


def _prepare_model(cls: type, dss_args: Any, train_loader: Any) -> None:
    """Give the model CORDS's contract where a strategy of CORDS will use it."""
    model = dss_args["model"] if "model" in dss_args.keys() else None  # noqa: SIM118
    if not isinstance(model, nn.Module) or follows_cords_contract(model):
        return
    if rules_of(cls) is not None:
        _give_contract(model, train_loader)
    elif not cls.__module__.startswith("cords."):
        # A user's own strategy may or may not want the contract; it is given if it can be.
        with suppress(ValueError):
            _give_contract(model, train_loader)


def _give_contract(model: nn.Module, train_loader: Any) -> None:
    # The data set may transform at random, and open a file at its first read.
    with preserved_rng(), nothing_left_open(train_loader.dataset):
        sample, _ = split_batch(train_loader.collate_fn([train_loader.dataset[0]]))
    head = find_head(model, sample=to_device(sample, model_device(model)))
    make_cords_compatible(model, head=head.name)
