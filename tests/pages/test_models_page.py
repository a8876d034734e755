"""Every set-up of docs/models.md warms up, selects and trains, or is refused at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from setups import CLASSES, PAGE, SETUPS, Setup, filled

from lipt_cords import LiPTWarmStart, last_layer_gradients, select, train_on_subset


def test_the_table_is_the_present_one() -> None:
    page = PAGE.read_text()
    assert filled(page) == page, "run python tests/support/setups.py"
    assert page.count("\n| ") == len(SETUPS) + 2


@pytest.mark.parametrize(
    "setup", [one for one in SETUPS if not one.refused], ids=lambda one: one.name
)
def test_a_setup_works(setup: Setup) -> None:
    torch.manual_seed(0)
    model, data = setup.model(), setup.data()
    warm = LiPTWarmStart(
        num_workers=2, common_steps=2, local_steps=2, batch_size=6, launch="serial", device="cpu",
        progress=False, **setup.fit,
    ).fit(model, data, data, **setup.options)  # fmt: skip
    assert warm.report.merged_accuracy is not None
    chosen = select("craig", warm.gradients(data), 7)
    result = train_on_subset(
        warm.apply_to(model), data, chosen, val_dataset=data, epochs=2, batch_size=3, device="cpu",
        **setup.options, **setup.train,
    )  # fmt: skip
    assert result.curve[-1].train_loss is not None
    gradients = last_layer_gradients(model, data, **setup.options)
    assert gradients.num_classes == CLASSES and bool(gradients.embeddings.isfinite().all())


@pytest.mark.parametrize("setup", [one for one in SETUPS if one.refused], ids=lambda one: one.name)
def test_a_setup_is_refused_with_the_reason(setup: Setup) -> None:
    data = setup.data()

    def fit(model: Any) -> None:
        LiPTWarmStart(num_workers=2, launch="serial", device="cpu", progress=False).fit(
            model, data, data, **setup.options
        )

    def gradients(model: Any) -> None:
        last_layer_gradients(model, data, **setup.options)

    for read in (fit, gradients):
        with pytest.raises(ValueError, match=setup.refused):
            read(setup.model())
