"""Which modules train: those that the user keeps in eval mode or frozen stay as they are.

A network in train mode may have modules in eval mode: BatchNorm layers of a pretrained backbone,
or a dropout that is switched off. They stay in eval mode. A network that is in eval mode as a whole
trains as a whole. A ``train()`` of its own decides as in any training. BatchNorm layers in a part
without trainable weights are frozen too: their statistics are not moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in the mode in which it was before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def train_as_given(model: nn.Module) -> None:
    """Put a network in train mode, except what its user keeps in eval mode or frozen."""
    kept = [module for module in model.modules() if not module.training] if model.training else []
    model.train()
    for module in [*kept, *_frozen_norms(model)]:
        module.training = False


def kept_in_eval(model: nn.Module) -> list[str]:
    """Names of the modules that stay in eval mode while the network is trained."""
    with modes_restored(model):
        train_as_given(model)
        modules = model.named_modules(remove_duplicate=False)
        return [name for name, module in modules if not module.training]


def moving_batchnorms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers whose running statistics a training moves, by name."""
    kept = set(kept_in_eval(model))
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm) and name not in kept
        # A momentum of zero keeps the statistics too.
        if module.running_mean is not None and module.momentum != 0
    }


def frozen_entries(model: nn.Module) -> set[str]:
    """Entries of the state that no training changes: frozen weights, and statistics that are kept.

    A name may be of an entry that the state lacks.
    """
    kept = kept_in_eval(model)
    weights = model.named_parameters(remove_duplicate=False)
    frozen = {name for name, weight in weights if not weight.requires_grad}
    for name in kept:
        frozen |= {_joined(name, key) for key in model.get_submodule(name)._buffers}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _NormBase) and module.momentum == 0:
            frozen |= {_joined(name, "running_mean"), _joined(name, "running_var")}
    return frozen


def _joined(module: str, key: str) -> str:
    return f"{module}.{key}" if module else key


def _frozen_norms(model: nn.Module) -> list[nn.Module]:
    """Normalisations with statistics, in a part of the network that has no trainable weight.

    The part is the layer itself, or, if it has no weights, the smallest module around it that has.
    """
    found: list[nn.Module] = []
    for name, module in model.named_modules():
        if not isinstance(module, _NormBase) or module.running_mean is None:
            continue
        part, where = model.get_submodule(name), name
        while where and next(part.parameters(), None) is None:
            where = where.rpartition(".")[0]
            part = model.get_submodule(where)
        weights = list(part.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            found.append(module)
    return found
