"""Averages of state dicts, against plain sums, and their refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipt_cords.models.state import all_finite, tensor_state
from lipt_cords.warmstart.merge.average import average_weights


def states(count=5):
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "weight": torch.randn(3, 4, generator=generator),
            "half": torch.randn(7, generator=generator).to(torch.bfloat16),
            "wide": torch.randn(2, generator=generator, dtype=torch.float64),
            "steps": torch.tensor(10 + number),
        }
        for number in range(count)
    ]


def test_uniform_average_equals_the_mean_and_keeps_dtypes():
    parts = states()
    merged = average_weights(parts)
    for name in ("weight", "half", "wide"):
        expected = torch.stack([part[name].double() for part in parts]).mean(0)
        assert merged[name].dtype == parts[0][name].dtype
        torch.testing.assert_close(merged[name], expected.to(merged[name].dtype), rtol=1e-7, atol=0)
    assert merged["steps"].dtype == torch.int64
    assert int(merged["steps"]) == 12


def test_sums_run_in_double_precision():
    parts = [{"w": torch.tensor([value])} for value in (1e8, 1.0, -1e8, 1.0)]
    assert average_weights(parts)["w"].item() == 0.5


def test_weights_are_scaled_to_one_and_zero_ignores_a_state():
    parts = [
        {"w": torch.tensor([1.0])},
        {"w": torch.tensor([3.0])},
        {"w": torch.tensor([torch.nan])},
    ]
    assert average_weights(parts, [2, 6, 0])["w"].item() == 2.5


def test_large_equal_integers_come_back_exactly():
    values = [2**62 + 1, -(2**53) - 1, 0]
    parts = [{"index": torch.tensor(values)} for _ in range(3)]
    assert average_weights(parts)["index"].tolist() == values


def test_average_is_of_one_model_with_itself():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    model(torch.randn(4, 1, 5, 5))
    state = tensor_state(model)
    merged = average_weights([state, state, state])
    assert all(torch.equal(merged[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one state dict"),
        (([{"w": torch.ones(1)}], [1, 2]), "one weight for each of 1 state dicts, received 2"),
        (([{"w": torch.ones(1)}], [-1]), "non-negative with a positive sum"),
        (([{"w": torch.ones(1)}], [float("nan")]), "non-negative with a positive sum"),
        (([{"w": torch.ones(1)}, {"v": torch.ones(1)}],), "'v' is in only one of them"),
        (([{"w": torch.ones(1)}, {"w": torch.ones(2)}],), r"'w' has shape \(2,\), expected \(1,\)"),
    ],
)
def test_what_cannot_be_averaged_is_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        average_weights(*arguments)


def test_what_is_not_finite_stays_so():
    mask = torch.tensor([0.0, float("-inf")])
    average = average_weights([{"mask": mask}, {"mask": mask.clone()}])
    assert average["mask"].tolist() == [0.0, float("-inf")]
    one, two = {"w": torch.tensor([1.0])}, {"w": torch.tensor([float("nan")])}
    assert average_weights([one, two])["w"].isnan().all()


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1.0, 1e12, 1e300])
def test_only_the_ratio_of_weights_counts(scale):
    one, two = {"w": torch.tensor([1.0, 1e-7, 0.001])}, {"w": torch.tensor([3.0, 3e-7, 0.003])}
    average = average_weights([one, two], [scale, 3 * scale])["w"]
    torch.testing.assert_close(average, torch.tensor([2.5, 2.5e-7, 0.0025]))


def test_small_weights_keep_their_precision_next_to_a_large_change():
    one = {"w": torch.tensor([1e6, 1e-6])}
    two = {"w": torch.tensor([-1e6, 3e-6])}
    assert average_weights([one, two])["w"].tolist() == torch.tensor([0.0, 2e-6]).tolist()


def test_state_that_is_no_real_tensor_is_refused():
    model = nn.Linear(2, 2)
    model.register_buffer("phase", torch.zeros(1, dtype=torch.complex64))
    with pytest.raises(ValueError, match="'phase' is a torch.complex64 tensor"):
        tensor_state(model)


def test_all_finite_looks_at_every_float():
    assert all_finite({"w": torch.ones(2), "n": torch.tensor(1)})
    assert not all_finite({"w": torch.tensor([1.0, torch.inf])})
