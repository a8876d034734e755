"""Forgetting through CORDS's loaders: the subset, later subsets, and the soup."""

from __future__ import annotations

import copy

import pytest
import torch
from plugin_material import Problem, tiny_net

from lipt_cords.cords.contract import make_cords_compatible
from lipt_cords.cords.loader import without

WARM = {
    "type": "lipt", "num_workers": 3, "epochs": 2, "batch_size": 4, "common_steps": 0,
    "keep_workers": True, "launch": "serial", "threads": 1,
}  # fmt: skip
SELECTORS = [("GLISTER", "fast"), ("GradMatch", "fast"), ("GLISTER", None), ("CRAIG", None)]


def chosen(loader) -> set[int]:
    return {int(index) for index in loader.subset_indices}


@pytest.mark.parametrize(("strategy", "selector"), SELECTORS)
def test_forgotten_samples_never_come_back(build, strategy, selector) -> None:
    options = {} if selector is None else {"selector": selector}
    loader = build(strategy, warm_start=WARM, select_every=1, fraction=0.4, **options)
    for _ in loader:
        pass
    gone = sorted(chosen(loader))[:3]
    uncovered = loader.forget(gone)
    assert "was trained on subsets that may have held them (1 epochs so far)" in uncovered[0]
    assert len(uncovered) == (1 if selector == "fast" else 2)
    assert not chosen(loader) & set(gone)
    assert len(loader.subset_weights) == len(loader.subset_indices)
    assert sum(len(batch[0]) for batch in loader.subset_loader) == len(loader.subset_indices)
    for _ in range(4):
        for _ in loader:
            pass
        assert not chosen(loader) & set(gone)
    assert loader.warm_start_result.forgotten == gone


def test_before_the_first_epoch_the_model_gets_the_weights_of_never_having_had_them(
    build, problem
) -> None:
    loader = build("GLISTER", warm_start=WARM, selector="fast")
    loader.warm_start()
    result = loader.warm_start_result
    expected = result.forget([2, 5])
    assert loader.forget([2, 5]) == []
    state = problem.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.state_dict.items())
    assert loader.warm_start_result.unlearning.retrained == expected.unlearning.retrained
    assert not chosen(loader) & {2, 5}


def test_fast_selectors_do_not_even_read_what_is_forgotten(adaptive, plugged) -> None:
    chosen_by = []
    for noise in (0.0, 50.0):
        problem = Problem()
        images = problem.train_loader.dataset.tensors[0]
        images[[1, 8]] += noise
        loader = problem.build(
            adaptive.GradMatchDataLoader, selector="fast", fraction=0.4,
            warm_start=WARM | {"batchnorm_refresh": "never", "shard_fraction": 1.0},
        )  # fmt: skip
        loader.warm_start()
        loader.forget([1, 8])
        chosen_by.append(sorted(chosen(loader)))
    assert chosen_by[0] == chosen_by[1] and not {1, 8} & set(chosen_by[0])


def test_a_loader_without_a_warm_start_forgets_too(build, problem) -> None:
    problem.model = tiny_net()
    make_cords_compatible(problem.model, head="classifier")
    loader = build("GradMatch", select_every=2)
    for _ in loader:
        pass
    gone = sorted(chosen(loader))[:2]
    before = copy.deepcopy(problem.model.state_dict())
    loader.forget(gone)
    assert not chosen(loader) & set(gone)
    assert all(torch.equal(before[n], v) for n, v in problem.model.state_dict().items())


def test_what_cannot_be_forgotten_changes_nothing(build) -> None:
    loader = build("GLISTER", warm_start=WARM | {"keep_workers": False}, selector="fast")
    with pytest.raises(ValueError, match="has not run yet"):
        loader.forget([1])
    loader.warm_start()
    before = chosen(loader)
    with pytest.raises(ValueError, match="keep_workers=True"):
        loader.forget([1])
    assert chosen(loader) == before and loader.forgotten == frozenset()
    for indices, words in (([999], "must lie in"), ([1, 1], "named twice"), ([], "at least one")):
        with pytest.raises(ValueError, match=words):
            loader.forget(indices)
    kept = build("GLISTER", warm_start=WARM, selector="fast")
    kept.warm_start()
    kept.forget([4])
    with pytest.raises(ValueError, match="sample 4 was forgotten already"):
        kept.forget([4])


def test_a_selection_without_forgotten_samples() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    indices, left = without([5, 6, 7], weights, {6}, "X")
    assert indices == [5, 7] and left.tolist() == [1.0, 3.0]
    assert without([5, 6], [1.0, 2.0], {5}, "X") == ([6], [2.0])
    assert without([5, 6], weights[:2], {9}, "X")[1] is not None
    with pytest.raises(ValueError, match="selected forgotten samples alone"):
        without([5], [1.0], {5}, "X")
