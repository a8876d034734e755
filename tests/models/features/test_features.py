"""Features without training: what auto takes, shapes, determinism, other data, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from lipt_cords import Features, features, register_features
from lipt_cords.models.features import FeatureMap
from lipt_cords.models.features import patches as patches_file
from lipt_cords.models.features.kinds import KINDS, Samples
from lipt_cords.models.gradients import last_layer_gradients


def images(*shape: int, seed: int = 0) -> TensorDataset:
    draws = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(*shape, generator=draws), torch.arange(shape[0]) % 3)


@pytest.mark.parametrize(
    "shape", [(12, 1, 8, 8), (12, 3, 32, 32), (12, 4, 28, 17), (9, 2, 5, 4), (6, 3, 70, 50)]
)
def test_images_of_any_size_and_channels_have_rows(shape) -> None:
    data = images(*shape)
    found = features(data)
    assert found.kind == "patches" and found.values.shape[0] == shape[0]
    assert found.width == 2 * patches_file.GRID**2 * patches_file.FILTERS
    assert bool(torch.isfinite(found.values).all())
    assert torch.equal(found.values, features(data).values)
    assert not torch.equal(found.values, features(data, seed=1).values)


@pytest.mark.parametrize(("channels", "side"), [(2, 9), (1, 9), (3, 19), (1, 18)])
def test_responses_are_those_of_normalised_patches(channels, side, monkeypatch) -> None:
    """A slow oracle: every patch normalised by itself, every filter by a dot product."""
    monkeypatch.setattr(patches_file, "convolves_in_bfloat16", lambda device: False)
    pictures = torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(1)
    filters = patches_file._fitted(pictures, draws)
    found = patches_file._responses(pictures, filters, 1.0)
    size = filters.weight.shape[-1]
    places = side - size + 1
    flat = F.unfold(pictures, size)  # (B, C size size, places)
    spread = (flat.var(dim=1, correction=0, keepdim=True) + patches_file.SMALLEST_CONTRAST).sqrt()
    normal = (flat - flat.mean(dim=1, keepdim=True)) / spread
    weight = filters.weight.flatten(1)
    answers = torch.einsum("kp,bpl->bkl", weight, normal) + filters.bias[:, None]
    maps = answers.unflatten(2, (places, places))
    above = F.adaptive_avg_pool2d(F.relu(maps - patches_file.THRESHOLD), patches_file.GRID)
    below = F.adaptive_avg_pool2d(F.relu(-maps - patches_file.THRESHOLD), patches_file.GRID)
    expected = torch.cat([above, below], dim=1).flatten(1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_other_data_go_through_the_same_map() -> None:
    data = images(20, 3, 12, 12)
    found = features(data)
    some = TensorDataset(data.tensors[0][5:9], data.tensors[1][5:9])
    torch.testing.assert_close(found.of(some).values, found.values[5:9])


def test_columns_are_standardised_and_constant_ones_are_zero() -> None:
    table = torch.tensor([[1.0, 5.0, 2.0], [2.0, 5.0, 4.0], [3.0, 5.0, 9.0]])
    found = features(TensorDataset(table, torch.tensor([0, 1, 0])))
    assert found.kind == "columns"
    torch.testing.assert_close(found.values.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.values.std(0, correction=0), torch.tensor([1.0, 0.0, 1.0]))


def test_a_network_gives_its_embeddings_and_stays_as_it_is() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(48, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)
    )
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    data = images(300, 3, 4, 4)
    found = features(data, net, device="cpu")
    torch.testing.assert_close(found.values, last_layer_gradients(net, data).embeddings)
    assert net.training and found.kind == "embeddings"
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_rows_and_features_that_are_there_are_taken() -> None:
    data = images(10, 3)
    rows = np.random.default_rng(0).normal(size=(10, 4))
    assert features(data, rows).kind == "given"
    assert torch.equal(features(data, Features(torch.eye(10))).values, torch.eye(10))
    with pytest.raises(ValueError, match="have no map"):
        features(data, rows).of(data)


def test_a_kind_of_ones_own() -> None:
    @register_features("mean-colour", fits=lambda inputs: False)
    def mean_colour(samples: Samples) -> FeatureMap:
        """The mean of each channel."""
        return FeatureMap(lambda chunk: chunk.mean(dim=(2, 3)), 3)

    data = images(10, 3, 6, 6)
    try:
        found = features(data, "mean-colour")
    finally:
        KINDS.unregister("mean-colour")
    torch.testing.assert_close(found.values, data.tensors[0].mean(dim=(2, 3)))


class Odd(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        return torch.zeros(2, 3, 4, 5), index % 2


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (Odd(), "auto", "no kind of features fits"),
        (TensorDataset(torch.zeros(0, 3), torch.zeros(0).long()), "auto", "empty"),
        (images(5, 3, 8, 8), "patchs", "Did you mean 'patches'"),
        (images(5, 4), "patches", "need images"),
        (images(5, 4), torch.ones(5, 2), "are equal"),
        (images(5, 4), torch.ones(4, 2), "each of 5 samples"),
        (TensorDataset(torch.tensor([1.0, torch.nan, 2.0])[:, None], torch.tensor([0, 1, 0])),
         "auto", "sample 1 of the pool's data holds NaN"),
        (TensorDataset(torch.ones(5, 3, 8, 8), torch.arange(5) % 2), "auto", "are equal"),
    ],
)  # fmt: skip
def test_bad_input_is_named(data, kind, words) -> None:
    with pytest.raises(ValueError, match=words):
        features(data, kind)


def test_other_shapes_than_the_fitted_ones_are_named() -> None:
    found = features(images(10, 3))
    with pytest.raises(ValueError, match="cannot read samples 0 to 4"):
        found.of(images(5, 4))


def test_an_image_of_huge_values_does_not_hide_the_others() -> None:
    data = images(30, 3, 8, 8)
    data.tensors[0][3] = 1e30
    found = features(data).values
    others = torch.arange(30) != 3
    assert float(found[others].std(dim=0).mean()) > 0.3


def test_an_image_alone_in_a_dict_is_an_image() -> None:
    data = images(10, 3, 8, 8)

    class Named(Dataset):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int):
            return {"pixel_values": data.tensors[0][index], "labels": int(data.tensors[1][index])}

    assert torch.equal(features(Named()).values, features(data).values)


def test_features_beyond_memory_are_refused(monkeypatch) -> None:
    monkeypatch.setattr("lipt_cords.models.features.extract.free_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match="are free"):
        features(images(10, 3, 8, 8))
