"""Wrong labels: the rule against its definition, what is found, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from lipt_cords import choose_subset, find_label_issues, leave_one_out
from lipt_cords.selectors.confident_learning import prune_by_noise_rate


def noisy(count: int = 400, share: float = 0.2) -> tuple[TensorDataset, torch.Tensor, torch.Tensor]:
    """Four clumps, wrong labels, and the right ones."""
    draws = torch.Generator().manual_seed(0)
    right = torch.arange(count) % 4
    rows = 5 * torch.eye(4)[right] + torch.randn(count, 4, generator=draws)
    wrong = torch.rand(count, generator=draws) < share
    labels = torch.where(wrong, (right + 1) % 4, right)
    return TensorDataset(rows, labels), wrong, right


@settings(max_examples=80, deadline=None)
@given(count=st.integers(2, 60), classes=st.integers(2, 5), seed=st.integers(0, 999))
def test_the_rule_is_confident_learning(count: int, classes: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    chances = draws.dirichlet(np.ones(classes), size=count)
    columns = draws.integers(classes, size=count)
    found = prune_by_noise_rate(torch.from_numpy(chances), torch.from_numpy(columns))
    counts = np.bincount(columns, minlength=classes)
    thresholds = {k: chances[columns == k, k].mean() for k in range(classes) if counts[k] > 1}
    joint = np.zeros((classes, classes))
    for i in range(count):
        passing = [k for k, least in thresholds.items() if chances[i, k] >= least]
        if passing and counts[columns[i]] > 1:
            joint[columns[i], max(passing, key=lambda k: chances[i, k])] += 1
    expected = np.zeros(count, dtype=bool)
    for given_class in range(classes):
        joint[given_class, given_class] = max(joint[given_class, given_class], 1)
        share = joint[given_class] * counts[given_class] / joint[given_class].sum()
        members = np.flatnonzero(columns == given_class)
        for other in set(range(classes)) - {given_class}:
            by_margin = sorted(members, key=lambda i: chances[i, given_class] - chances[i, other])
            expected[by_margin[: round(share[other])]] = True
    assert (found.numpy() == (expected & (chances.argmax(axis=1) != columns))).all()


def test_wrong_labels_are_found_with_what_they_should_be() -> None:
    data, wrong, right = noisy()
    found = find_label_issues(data)
    suspects = torch.zeros(400, dtype=torch.bool)
    suspects[found.indices] = True
    assert float(wrong[suspects].double().mean()) > 0.9  # precision
    assert float(suspects[wrong].double().mean()) > 0.8  # recall
    assert float((found.likely[found.indices] == right[found.indices]).double().mean()) > 0.9
    scores = found.scores[found.indices]
    assert torch.equal(scores, scores.sort(descending=True).values)
    assert found.to_rows()[0] == {
        "index": int(found.indices[0]),
        "given": int(data.tensors[1][found.indices[0]]),
        "likely": int(found.likely[found.indices[0]]),
        "score": float(found.scores[found.indices[0]]),
    }
    again = find_label_issues(data)
    assert torch.equal(found.indices, again.indices)


def test_predictions_of_ones_own_are_taken() -> None:
    data, _, _ = noisy()
    known = leave_one_out(data.tensors[0], data.tensors[1], kernel="rbf")
    by_object = find_label_issues(data, out_of_sample=known)
    by_numbers = find_label_issues(data, out_of_sample=known.probabilities.numpy())
    assert torch.equal(by_object.indices.sort().values, by_numbers.indices.sort().values)


def test_a_class_of_one_sample_is_no_suspect() -> None:
    data, _, _ = noisy()
    labels = data.tensors[1].clone()
    labels[7] = 9
    found = find_label_issues(TensorDataset(data.tensors[0], labels))
    assert 7 not in found.indices.tolist()


def test_a_class_of_one_sample_makes_no_other_suspect() -> None:
    rows, labels = noisy(share=0.0)[0].tensors
    assert len(find_label_issues(TensorDataset(rows, labels))) == 0
    alone = torch.cat([rows, torch.full((1, 4), 30.0)]), torch.cat([labels, torch.tensor([9])])
    assert len(find_label_issues(TensorDataset(*alone))) == 0


def test_suspects_are_left_out_of_a_subset() -> None:
    data, wrong, _ = noisy(share=0.3)
    suspects = set(find_label_issues(data).indices.tolist())
    chosen = choose_subset(data, 0.5, leave_out_suspects=True, cut=0.0)
    assert len(chosen) == 200 and not suspects & set(chosen.indices.tolist())
    assert chosen.info["suspects_left_out"] > 80
    plain = choose_subset(data, 0.5, cut=0.0)
    left, all_of_them = (float(wrong[one.indices].double().mean()) for one in (chosen, plain))
    assert left < all_of_them / 2
    with pytest.raises(ValueError, match="are left after"):
        choose_subset(data, 0.9, leave_out_suspects=True)


@pytest.mark.parametrize(
    ("chances", "words"),
    [
        (torch.rand(400, 3), r"shape \(400, 4\)"),
        (torch.full((400, 4), 0.3), "add up to 1"),
        (torch.full((400, 4), torch.nan), "add up to 1"),
        (leave_one_out(torch.rand(4, 2), [0, 1, 0, 1]), "other samples or labels"),
    ],
)  # fmt: skip
def test_bad_predictions_are_named(chances, words) -> None:
    with pytest.raises(ValueError, match=words):
        find_label_issues(noisy()[0], out_of_sample=chances)


def test_equal_probabilities_are_as_high_as_their_mean() -> None:
    labels = torch.arange(200) // 100
    chances = torch.full((200, 2), 0.3, dtype=torch.float64)
    chances[torch.arange(200), labels] = 0.7
    chances[[100, 150]] = chances[[100, 150]].flip(1)
    found = find_label_issues(TensorDataset(torch.rand(200, 2), labels), out_of_sample=chances)
    assert sorted(found.indices.tolist()) == [100, 150]


def test_own_probabilities_that_tell_nothing_are_doubted() -> None:
    labels = torch.arange(200) % 2
    chances = torch.softmax(torch.randn(200, 2, generator=torch.Generator().manual_seed(0)), dim=1)
    data = TensorDataset(torch.rand(200, 2), labels)
    found = find_label_issues(data, out_of_sample=chances.double())
    assert found.warning is not None and "do not tell the classes apart" in found.warning


def test_one_class_cannot_be_judged() -> None:
    one = TensorDataset(torch.rand(9, 2), torch.zeros(9).long())
    with pytest.raises(ValueError, match="at least two classes"):
        find_label_issues(one)
    with pytest.raises(ValueError, match="at least two classes"):
        find_label_issues(one, out_of_sample=torch.ones(9, 1))
