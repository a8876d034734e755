"""The hidden weight matrices of a network: what Muon trains."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

KEPT_OUT = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.GroupNorm, _NormBase)
"""Modules whose weights are no matrices of a map, although some have two dimensions."""
MATRIX_NAMES = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
RECURRENT_NAMES = ("weight_ih", "weight_hh", "weight_hr")


def hidden_matrices(model: nn.Module, head: str | None = None) -> list[nn.Parameter]:
    """Weights that map activations to activations, in the order of ``model.parameters()``.

    These are the trained weights of linear layers, convolutions, attention and recurrent layers,
    and of other modules whose ``weight`` has at least two dimensions. Not among them are the head,
    embeddings, normalisation, biases, filters with one input (depthwise convolutions), and weights
    that are shared with one of these.

    Args:
        model: any network.
        head: name of its head in ``named_modules()``; None: its last linear layer.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    >>> [tuple(one.shape) for one in hidden_matrices(net)]
    [(8, 3, 3, 3)]
    """
    if head is None:
        linears = [name for name, one in model.named_modules() if isinstance(one, nn.Linear)]
        head = linears[-1] if linears else None
    matrices: set[nn.Parameter] = set()
    others: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            hidden = prefix != head and not isinstance(module, KEPT_OUT)
            into = matrices if hidden and _is_matrix(name, parameter) else others
            into.add(parameter)
    found = matrices - others
    return [one for one in model.parameters() if one in found and one.requires_grad]


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    named = name in MATRIX_NAMES or name.startswith(RECURRENT_NAMES)
    wide = parameter.ndim >= 2 and parameter.shape[0] > 1 and parameter[0].numel() > 1
    depthwise = parameter.ndim > 2 and parameter.shape[1] == 1 and parameter.shape[0] > 1
    return named and wide and not depthwise and parameter.is_floating_point()
