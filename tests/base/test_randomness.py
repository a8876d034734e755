import random

import numpy as np
import pytest
import torch

from lipt_cords.base.randomness import derive_seed, generator, isolated_rng, preserved_rng


def draw_everywhere():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()


def test_isolated_draws_repeat_and_leave_the_caller_untouched():
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = draw_everywhere()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with isolated_rng(0, "worker", 3):
        first = draw_everywhere()
    with isolated_rng(0, "worker", 3):
        second = draw_everywhere()
    with isolated_rng(0, "worker", 4):
        other = draw_everywhere()
    assert first == second != other
    assert draw_everywhere() == expected


def test_the_state_is_restored_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="of the work"), preserved_rng():
        torch.rand(1)
        raise RuntimeError("of the work")
    assert torch.equal(torch.get_rng_state(), state)


def test_named_seeds_do_not_collide_between_names_and_seeds():
    names = [("worker", k) for k in range(50)] + [("shard", k) for k in range(50)]
    seeds = {derive_seed(seed, *name) for seed in range(20) for name in names}
    assert len(seeds) == 2000


def test_generators_of_one_name_draw_the_same():
    first, second = (torch.rand(4, generator=generator(5, "order")) for _ in range(2))
    assert torch.equal(first, second)
