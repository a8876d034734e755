"""The embeddings of a network: what its linear head reads, for instance of a pretrained one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipt_cords.data.batches import Inputs, to_device
from lipt_cords.models.features.kinds import FeatureMap, Samples
from lipt_cords.models.gradients import readable
from lipt_cords.models.heads import EmbeddingRecorder, find_head, run_model, undisturbed
from lipt_cords.models.outputs import tensor_at
from lipt_cords.models.usable import explained


def embeddings(model: nn.Module, samples: Samples) -> FeatureMap:
    """The inputs of a network's linear head, in eval mode; the network stays as it is.

    Raises:
        ValueError: no single linear head, or a network that cannot read the samples.
    """
    if samples.texts:
        raise ValueError(
            "a network reads tensors, and these samples are texts: tokenise them in the data set"
        )
    model, _, where = readable(model, None, samples.device)
    first = to_device(next(samples.chunks(torch.arange(min(2, len(samples))))), where)
    with undisturbed(model), explained(model, first, "the first samples"):
        head = find_head(model, sample=first)

    def apply(inputs: Inputs) -> Tensor:
        with undisturbed(model), EmbeddingRecorder(head) as recorder:
            output = run_model(model, to_device(inputs, where))
        logits = tensor_at(output, recorder.place_in(output))
        return recorder.embeddings_of(logits).float().cpu()

    return FeatureMap(apply, head.module.in_features)
