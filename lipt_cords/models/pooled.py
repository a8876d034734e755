"""Heads that read every token, and whose outputs are pooled into the logits of a sample.

Decoders that classify do so (GPT-2, Llama): a linear layer makes outputs of every token, and those
of the last token are the logits. Let the logits be z = sum_t a_t (W e_t + b) with weights a_t that
add up to one. Then z = W e + b with e = sum_t a_t e_t, and the gradient in the layer is that of a
head which reads e once. The weights are what autograd gives for dz/d(outputs).
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = {torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Relative error of pooling by dtype; others have the fewest."""
LEAST_ROUNDING = 1e-3


def traced(outputs: Tensor) -> Tensor:
    """The outputs of a head as a leaf, so that autograd tells how they are pooled from here on.

    Gradients stay enabled; the caller restores the mode.

    Raises:
        ValueError: under ``torch.inference_mode()``, where autograd cannot.
    """
    if torch.is_inference_mode_enabled() or outputs.is_inference():
        raise ValueError(
            "the head reads every token, and autograd finds out how its outputs are pooled, which "
            "torch.inference_mode() does not allow: call this outside of it (torch.no_grad() does "
            "no harm)"
        )
    torch.set_grad_enabled(True)
    return outputs.detach().requires_grad_()


def pooled_embeddings(
    inputs_BTE: Tensor, outputs_BTC: Tensor, logits_BC: Tensor, head: str
) -> Tensor:
    """The embedding of every sample: what its tokens' embeddings are pooled to.

    Args:
        inputs_BTE: what the head read; between batch and width any dimensions.
        outputs_BTC: what it made, as :func:`traced` returned it.
        logits_BC: of the network, made from that.
        head: its name, for messages.

    Returns:
        (B, E), detached.

    Raises:
        ValueError: the logits are no weighted mean of the head's outputs.
    """
    batch, classes = logits_BC.shape
    if outputs_BTC.shape[0] != batch or outputs_BTC.shape[-1] != classes:
        raise _not_pooled(head, f"it makes {tuple(outputs_BTC.shape)} of {tuple(logits_BC.shape)}")
    slopes = None
    if logits_BC.requires_grad:
        (slopes,) = torch.autograd.grad(
            logits_BC, outputs_BTC, torch.ones_like(logits_BC), allow_unused=True, retain_graph=True
        )
    if slopes is None:
        raise _not_pooled(head, "they do not depend on its outputs")
    rows = slopes.detach().reshape(batch, -1, classes).float()
    made = outputs_BTC.detach().reshape(batch, -1, classes).float()
    weights_BT = rows[:, :, 0]
    error = ROUNDING.get(outputs_BTC.dtype, LEAST_ROUNDING)
    if bool(((rows - weights_BT[:, :, None]).abs() > error).any()):
        raise _not_pooled(head, "each class has weights of its own, as in pooling by the maximum")
    total = float((weights_BT.sum(dim=1) - 1).abs().max())
    if total > error:
        raise _not_pooled(head, "the weights of a sample's tokens do not add up to 1")
    # A token of weight 0, such as padding, may be infinite.
    hidden = weights_BT[:, :, None] == 0
    again = torch.einsum("bt,btc->bc", weights_BT, made.masked_fill(hidden, 0.0))
    if not torch.allclose(again, logits_BC.detach().float(), rtol=error, atol=error / 100):
        raise _not_pooled(head, "something is computed after it")
    tokens = inputs_BTE.detach().reshape(batch, -1, inputs_BTE.shape[-1]).float()
    return torch.einsum("bt,bte->be", weights_BT, tokens.masked_fill(hidden, 0.0))


def _not_pooled(head: str, why: str) -> ValueError:
    return ValueError(
        f"the head {head!r} reads every token, and the logits are no weighted mean of its outputs: "
        f"{why}. Take the outputs of one token, or their mean, or pool the tokens before the head"
    )
