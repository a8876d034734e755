from __future__ import annotations

import pytest
import torch

from lipt_cords.data.images import ImageTensors, channel_statistics


def random_images(count: int, channels: int = 3, side: int = 6) -> torch.Tensor:
    draws = torch.Generator().manual_seed(2)
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)


def test_statistics_equal_those_over_all_pixels():
    images = random_images(37)
    pixels = images.double().transpose(0, 1).flatten(1) / 255
    mean, std = channel_statistics(images, chunk=10)
    torch.testing.assert_close(mean.double(), pixels.mean(dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(std.double(), pixels.std(dim=1, correction=0), atol=1e-6, rtol=0)


def test_a_constant_channel_stays_finite():
    data = ImageTensors(torch.full((3, 1, 4, 4), 255, dtype=torch.uint8), torch.arange(3))
    assert data.std.item() == 1
    assert torch.isfinite(data[0][0]).all()


def test_items_are_normalised_and_gathered_bit_for_bit():
    data = ImageTensors(random_images(20), torch.arange(20))
    indices = torch.tensor([7, 0, 19])
    images, labels = data.gather(indices)
    assert labels.tolist() == [7, 0, 19] and labels.dtype == torch.int64
    for position, index in enumerate(indices.tolist()):
        image, label = data[index]
        assert torch.equal(images[position], image) and label == index
        assert isinstance(label, int)
    everything = data.gather(torch.arange(20))[0]
    torch.testing.assert_close(everything.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    spread = everything.transpose(0, 1).flatten(1).std(dim=1, correction=0)
    torch.testing.assert_close(spread, torch.ones(3), atol=1e-5, rtol=0)
    expected = (data.images[7] / 255 - data.mean[:, None, None]) / data.std[:, None, None]
    torch.testing.assert_close(data[7][0], expected)


def test_a_loader_reads_whole_batches():
    data = ImageTensors(random_images(9), torch.arange(9))
    subset = torch.utils.data.Subset(data, [8, 2, 5])
    images, labels = next(iter(torch.utils.data.DataLoader(subset, batch_size=3)))
    assert torch.equal(images, data.gather(torch.tensor([8, 2, 5]))[0])
    assert labels.tolist() == [8, 2, 5]


def test_selecting_keeps_the_normalisation():
    data = ImageTensors(random_images(20), torch.arange(20))
    part = data.select(torch.tensor([3, 1]))
    assert len(part) == 2 and part[0][1] == 3
    assert torch.equal(part[0][0], data[3][0])
    other = data.normalised_as(torch.zeros(3), torch.ones(3))
    assert torch.equal(other[0][0], data.images[0].float() * (1 / 255.0))
    assert torch.equal(data.statistics(torch.tensor([3, 1]))[0], part.statistics()[0])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.ones(3, 1, 2, 2), torch.arange(3), "expected uint8 images .* received torch.float"),
        (torch.ones(3, 2, 2, dtype=torch.uint8), torch.arange(3), "of shape .3, 2, 2."),
        (torch.ones(3, 1, 2, 2, dtype=torch.uint8), torch.arange(2), "3 images and 2 labels"),
    ],
)
def test_wrong_images_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageTensors(images, labels)
