"""Images whose classes differ by light alone: patches do not see it, and that is said."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from lipt_cords import choose_subset, find_label_issues
from lipt_cords.data import load_dataset

LABELS = torch.arange(160) % 2


def images(light: float = 0.0, colour: float = 0.0, channels: int = 3) -> TensorDataset:
    """Noise of one contrast; a class is brighter, or has another colour."""
    draws = torch.Generator().manual_seed(0)
    pixels = 0.5 + 0.1 * torch.randn(160, channels, 12, 12, generator=draws)
    pixels += light * LABELS[:, None, None, None]
    pixels[:, 0] += colour * LABELS[:, None, None]
    return TensorDataset(pixels, LABELS)


@pytest.mark.parametrize("channels", [1, 3])
def test_light_that_patches_do_not_see_is_said(channels, caplog) -> None:
    data = images(light=0.4, channels=channels)
    for said in (choose_subset(data, 0.1).info["warning"], find_label_issues(data).warning):
        assert "how bright images are tells 100% of their labels" in said
        assert "features='columns'" in said
    assert "how bright" in caplog.text
    remedied = choose_subset(data, 0.1, features="columns")
    assert remedied.info["leave_one_out_accuracy"] == 1.0 and "warning" not in remedied.info


def test_what_patches_see_gives_no_warning() -> None:
    assert "warning" not in choose_subset(images(colour=0.2), 0.1).info
    assert find_label_issues(load_dataset("digits", limit=300).train).warning is None


def test_rows_of_ones_own_are_not_compared() -> None:
    data = images(light=0.4)
    said = choose_subset(data, 0.1, features=torch.randn(160, 5)).info.get("warning")
    assert said is None or "bright" not in said


def test_images_without_any_difference_of_light_are_taken() -> None:
    patterns = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    patterns = (patterns - patterns.mean(dim=(2, 3), keepdim=True)).sign()
    patterns = torch.cat([patterns, -patterns])[LABELS + 2 * (torch.arange(160) // 80)]
    assert len(choose_subset(TensorDataset(patterns, LABELS), 0.1)) == 16
