"""RandAugment on batches keeps shape and range, follows the seed, and differs between groups."""

from __future__ import annotations

import pytest
import torch

from lipt_cords.base.randomness import isolated_rng
from lipt_cords.warmstart.workers.augment import BatchRandAugment, require_images


def images(channels=3, count=24):
    return torch.rand(count, channels, 12, 12, generator=torch.Generator().manual_seed(0)) * 4 - 2


def augmented(batch, seed=0, **options):
    low, high = batch.amin(dim=(0, 2, 3)), batch.amax(dim=(0, 2, 3))
    transform = BatchRandAugment(low, high, **{"num_ops": 2, "magnitude": 9, **options})
    with isolated_rng(seed, "augment"):
        return transform(batch)


@pytest.mark.parametrize("channels", [1, 3])
def test_shape_dtype_and_range_stay(channels):
    batch = images(channels)
    for seed in range(8):
        out = augmented(batch, seed)
        assert out.shape == batch.shape and out.dtype == batch.dtype
        assert bool(torch.isfinite(out).all())
        assert float(out.min()) >= float(batch.min()) - 1e-5
        assert float(out.max()) <= float(batch.max()) + 1e-5


def test_draws_follow_the_seed_and_leave_the_input_alone():
    batch = images()
    before = batch.clone()
    assert augmented(batch, 1).equal(augmented(batch, 1))
    assert not augmented(batch, 1).equal(augmented(batch, 2))
    assert batch.equal(before)


def test_groups_draw_for_themselves():
    batch = images(count=8).repeat(6, 1, 1, 1)
    groups = augmented(batch, seed=3).split(8)
    assert len({round(float(group.double().sum()), 4) for group in groups}) > 1


def test_a_constant_channel_stays_finite():
    batch = images()
    batch[:, 1] = 0.5
    assert bool(torch.isfinite(augmented(batch)).all())


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="1 or 3 channels, received 2"):
        augmented(images(2))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(4, 10), r"received torch.float32 inputs of shape \(4, 10\)"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), "received torch.uint8"),
        ({"tokens": torch.zeros(4, 10)}, "inputs that are a mapping"),
    ],
)
def test_inputs_that_are_no_images_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        require_images(inputs)
