"""Texts and token ids as dense rows: hashed words and pairs of words, weighted and projected.

Words tell the topic and pairs of them what single words lose ("not good"); longer runs hardly
repeat among a few thousand texts. Hashing needs no vocabulary, so a map has the same size whatever
it was fitted to. Directions of most weight (latent semantic analysis, Deerwester et al., 1990)
bring texts near each other that share no word, but words of the same company.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from lipt_cords.base.randomness import derive_seed
from lipt_cords.models.features.kinds import (
    FeatureMap,
    Samples,
    register_features,
    token_ids,
    unfit,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WIDTH = 256
FITTED = 20_000
"""Texts that weights and directions are taken from."""
BUCKETS = 2**16
"""Of the hash: 64 MiB of directions in float32."""
SMALLEST_VALUE = 1e-5
"""Directions whose singular value is below this part of the largest are left out."""
WORD, TOKEN = r"(?u)\b\w+\b", r"\S+"
MASK_KEY = "attention_mask"


def is_text(inputs: Any) -> bool:
    """Whether an input is a text, or the token ids (T,) of one."""
    ids = token_ids(inputs)
    return isinstance(inputs, str) or (ids is not None and ids.ndim == 1)


@register_features("ngrams", fits=is_text)
def ngrams(samples: Samples) -> FeatureMap:
    """Hashed words and pairs of words, or of token ids, weighted by rarity, in 256 directions.

    Upper and lower case are one. Token ids are words; those with 0 in ``attention_mask`` are left
    out, and without it padding counts as a token. A text without a word is a row of zeros.

    Raises:
        ValueError: neither texts nor token ids (T,), a mask of another shape, or no word in any of
            the texts drawn.
    """
    # Slow to import, and only needed here.
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.preprocessing import normalize

    some = samples.draw(FITTED)
    vectorizer = HashingVectorizer(
        n_features=BUCKETS, ngram_range=(1, 2), token_pattern=WORD if samples.texts else TOKEN,
        norm=None, alternate_sign=False, dtype=np.float32,
    )  # fmt: skip
    counts = vectorizer.transform(as_texts(some))
    if counts.nnz == 0:
        raise ValueError(
            f"none of {counts.shape[0]:,} texts drawn has a word: expected texts or token ids that "
            "are not all empty or masked"
        )
    weighting = TfidfTransformer(sublinear_tf=True).fit(counts)
    directions = _directions(weighting.transform(counts), samples.seed)

    def apply(inputs: Any) -> Tensor:
        weighted = weighting.transform(vectorizer.transform(as_texts(inputs)))
        return torch.from_numpy(normalize(weighted @ directions, copy=False))

    return FeatureMap(apply, directions.shape[1])


def as_texts(inputs: Any) -> list[str]:
    """A chunk of inputs as texts; token ids become words.

    Args:
        inputs: a list of strings; token ids (B, T); or a dict of them as ``input_ids`` and, if
            padding is to be left out, ``attention_mask`` of the same shape.
    """
    if isinstance(inputs, list):
        return inputs
    ids = token_ids(inputs)
    if ids is None or ids.ndim != 2:
        raise unfit("ngrams", "texts or token ids, integers (T,)", inputs)
    mask = inputs.get(MASK_KEY) if isinstance(inputs, Mapping) else None
    if mask is None:
        return [" ".join(map(str, row)) for row in ids.tolist()]
    if mask.shape != ids.shape:
        raise ValueError(
            f"expected {MASK_KEY} of the shape of the token ids, {tuple(ids.shape[1:])}, received "
            f"{tuple(mask.shape[1:])}"
        )
    return [
        " ".join(str(one) for one, kept in zip(row, keep, strict=True) if kept)
        for row, keep in zip(ids.tolist(), mask.tolist(), strict=True)
    ]


def _directions(rows: csr_matrix, seed: int) -> NDArray[np.float32]:
    """The directions of most weight, (buckets, at most 256)."""
    from sklearn.utils.extmath import randomized_svd

    used = np.unique(rows.indices)
    width = min(WIDTH, rows.shape[0], len(used))
    draws = derive_seed(seed, "features", "ngrams") % 2**32
    with threadpool_limits(limits=1):  # the same bits on any number of threads
        _, values, found = randomized_svd(rows[:, used], width, n_iter=4, random_state=draws)
    kept = found[values > SMALLEST_VALUE * values[0]]
    directions = np.zeros((rows.shape[1], len(kept)), dtype=np.float32)
    directions[used] = kept.T
    return directions
