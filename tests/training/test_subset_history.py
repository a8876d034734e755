"""What a run says of its subsets: their changes, their classes, and images that are theirs."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from lipt_cords.data.images import ImageTensors
from lipt_cords.training.subset_history import PIXELS, SHOWN, SubsetHistory, thumbnail

LABELS = torch.arange(60) % 3


def images(side: int = 8, channels: int = 1) -> ImageTensors:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, channels, side, side), generator=draws, dtype=torch.uint8)
    return ImageTensors(pixels, LABELS)


def seen(png: str | None) -> torch.Tensor:
    assert png is not None
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(png)))))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def test_overlaps_classes_and_both_ends_of_the_weights() -> None:
    history = SubsetHistory()
    history.add(0, torch.arange(30), torch.ones(30))
    history.add(5, torch.arange(10, 40), torch.arange(30.0), (0.5, 0.75), 0.2)
    found = history.summary(images(), LABELS, ["a", "b", "c"])
    assert found is not None
    json.dumps(found, allow_nan=False)
    assert (found["size"], found["pool"], found["epochs"]) == (30, 60, [0, 5])
    assert found["cuts"] == [None, 0.2]
    assert found["overlaps"] == [0.5] and found["accuracies"] == [None, [0.5, 0.75]]
    assert found["class_counts"] == [10, 10, 10] and found["pool_class_counts"] == [20] * 3
    assert not found["weights_alike"] and len(found["shown"]) == 2 * SHOWN
    weights = [one["weight"] for one in found["shown"]]
    assert weights == [float(w) for w in (*range(29, 17, -1), *range(11, -1, -1))]
    first = found["shown"][0]
    assert (first["index"], first["label"]) == (39, "abc"[39 % 3])
    # The shown image is the very one, as it was before it was normalised.
    assert torch.equal(seen(first["png"]), images().images[39])


def test_equal_weights_and_a_subset_smaller_than_the_show() -> None:
    history = SubsetHistory()
    assert history.summary(images(), LABELS) is None
    history.add(0, torch.tensor([4, 2]), torch.ones(2))
    found = history.summary(images(), LABELS)
    assert found is not None and found["weights_alike"] and found["class_names"] == ["0", "1", "2"]
    assert [one["index"] for one in found["shown"]] == [4, 2]
    history.add(1, torch.tensor([4, 2, 7]), torch.tensor([1.0, 3.0, 2.0]))
    found = history.summary(images(), LABELS)
    assert found is not None and [one["index"] for one in found["shown"]] == [2, 7, 4]


def test_it_travels_with_a_checkpoint() -> None:
    history = SubsetHistory()
    history.add(0, torch.arange(4), torch.ones(4))
    again = SubsetHistory.from_state(history.state_dict())
    for one in (history, again):
        one.add(1, torch.arange(2, 6), torch.ones(4))
    assert again.overlaps == history.overlaps == [round(2 / 6, 4)]


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_made_small(channels: int) -> None:
    assert seen(thumbnail(images(100, channels), 3)).shape == (channels, PIXELS, PIXELS)


def test_what_is_no_image_is_not_drawn() -> None:
    assert thumbnail(TensorDataset(torch.rand(3, 5), torch.arange(3)), 0) is None
    assert thumbnail(TensorDataset(torch.rand(3, 7, 5, 5), torch.arange(3)), 0) is None
    own_range = TensorDataset(torch.rand(3, 1, 5, 5) * 9 - 4, torch.arange(3))
    pixels = seen(thumbnail(own_range, 0))
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)


def test_peaks_are_those_since_the_start() -> None:
    """In a process of its own: one that ran other tests has freed memory to give out again."""
    code = """
from pathlib import Path
import torch
from lipt_cords.base.process_memory import PeakMemory
cpu = torch.device("cpu")
first = PeakMemory(cpu)
held = torch.ones(2**27)
print(first.read()["process"])
del held
second = PeakMemory(cpu)
print(second.read()["process"])
again = torch.ones(2**27)
print(second.read()["process"])
try:
    print(Path("/proc/self/clear_refs").write_text("5"))
except OSError:
    print(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    high, low, again, can_be_set_back = map(int, done.stdout.split())
    if can_be_set_back:
        assert min(high, again) - low > 0.9 * 2**29
    else:  # all three are the highest ever
        assert high == low == again
