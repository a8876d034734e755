"""The field's table: its methods, its augmentation and its own net."""

from __future__ import annotations

import argparse

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta

from benchmarks.augmented import RECIPES, moved, train, whitened_patches
from benchmarks.field import METHODS, Pool, beta_density, dual_shape
from benchmarks.rows import begun
from lipt_cords.base.files import write_json
from lipt_cords.data import DataSplits
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.source import BatchSource
from lipt_cords.training.evaluation import accuracy


def images(count: int, seed: int) -> ImageTensors:
    """Dark and bright images of two classes, with some noise."""
    labels = torch.arange(count) % 2
    noise = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    values = 255 * (0.3 * noise + 0.7 * labels[:, None, None, None])
    return ImageTensors(values.to(torch.uint8), labels)


@pytest.fixture(scope="module")
def pool() -> Pool:
    splits = DataSplits(
        "made", images(96, 0), images(32, 1), images(32, 2), num_classes=2, input_shape=(3, 16, 16)
    )
    return Pool(splits, seed=0, net="resnet8", score_epochs=2, device="cpu", workers=2)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_meets_the_budget(pool: Pool, method: str) -> None:
    chosen, warm = METHODS[method](pool, 0.125, 12)
    indices = chosen if isinstance(chosen, torch.Tensor) else chosen.indices
    assert len(set(indices.tolist())) == 12 and int(indices.max()) < 96
    assert (warm is None) == (method in ("random", "choose_subset"))


def test_dual_draws_by_the_density_of_a_beta_distribution() -> None:
    values = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    one, other = dual_shape(values, values, 0.1)
    assert other == pytest.approx(15 * (1 - 0.5) * (1 - 0.9**5.5)) and one + other == 16
    wanted = torch.from_numpy(beta.pdf(values.numpy(), one, other))
    torch.testing.assert_close(beta_density(values, one, other), wanted / wanted.max())


def test_an_image_is_moved_by_whole_pixels_and_mirrored() -> None:
    given = torch.rand(40, 2, 8, 8)
    found = moved(given, 2, torch.Generator().manual_seed(0))
    padded = F.pad(given, (2,) * 4, mode="reflect")
    for before, after in zip(padded, found, strict=True):
        crops = before.unfold(1, 8, 1).unfold(2, 8, 1).flatten(1, 2).transpose(0, 1)
        assert any(torch.equal(after, one) for crop in crops for one in (crop, crop.flip(2)))


def test_responses_of_the_first_layer_are_white() -> None:
    given = torch.randn(64, 3, 12, 12).cumsum(dim=3)
    responses = F.conv2d(given, whitened_patches(given)[:12]).transpose(0, 1).flatten(1)
    covariance = torch.cov(responses)
    torch.testing.assert_close(covariance, torch.eye(12), rtol=0, atol=0.02)


@pytest.mark.parametrize(("net", "epochs"), [("fast", 8), ("resnet18", 3)])
def test_both_nets_learn(net: str, epochs: int) -> None:
    given, test = images(64, 0), images(32, 1)
    untrained = RECIPES[net].make(given, 2, 0)
    assert accuracy(untrained, BatchSource(test)) < 0.8
    reached = train(
        RECIPES[net], given, torch.arange(48), test, classes=2, passes=48 * epochs, seed=0,
        device="cpu",
    )  # fmt: skip
    assert reached == 1.0


def test_a_part_of_a_benchmark_has_its_own_file(tmp_path) -> None:
    args = argparse.Namespace(output=tmp_path, set="digits", resume=True)
    path, payload = begun(args, "field", "--net fast", pool=3)
    assert path.name == "field-digits-fast.json"
    assert payload["command"].endswith("--set digits --net fast") and payload["rows"] == []
    write_json(path, payload | {"rows": [{"seed": 0}]})
    assert begun(args, "field", "--net fast", pool=3)[1]["rows"] == [{"seed": 0}]
    assert begun(args, "field", pool=3)[1]["rows"] == []
