"""Networks: named ones, the linear head of any, its losses and last-layer gradients."""

from lipt_cords.models.build import MODEL_NAMES, build_model, canonical_model_name, register_model
from lipt_cords.models.heads import (
    EmbeddingRecorder,
    Head,
    call_model,
    find_head,
    model_device,
    undisturbed,
)
from lipt_cords.models.outputs import logits_of

__all__ = [
    "MODEL_NAMES",
    "EmbeddingRecorder",
    "Head",
    "build_model",
    "call_model",
    "canonical_model_name",
    "find_head",
    "logits_of",
    "model_device",
    "register_model",
    "undisturbed",
]
