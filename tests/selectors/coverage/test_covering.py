"""Coverage methods against definitions, the selector's budgets and cuts, and one call for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from lipt_cords import choose_subset, leave_one_out, select
from lipt_cords.models.gradients import LastLayerGradients
from lipt_cords.selectors.closed_form.judge import SubsetJudge
from lipt_cords.selectors.coverage import COVERAGES
from lipt_cords.selectors.coverage import kmeans as kmeans_file


def clusters(
    count: int = 300, classes: int = 3, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in several clumps a class."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    clump = torch.randint(4, (count,), generator=draws)
    centres = 6 * torch.randn(classes, 4, 5, generator=draws)
    return centres[labels, clump] + torch.randn(count, 5, generator=draws), labels


@settings(max_examples=40, deadline=None)
@given(
    method=st.sampled_from(["kmeans", "herding", "facility-location", "k-centre"]),
    count=st.integers(6, 60), budget=st.integers(1, 60), cut=st.sampled_from([0.0, 0.3, 0.7]),
    per=st.sampled_from(["class", "all"]), seed=st.integers(0, 99), equal=st.booleans(),
)  # fmt: skip
def test_budgets_are_exact_and_draws_repeat(method, count, budget, cut, per, seed, equal) -> None:
    rows, labels = clusters(count, seed=seed)
    if equal:
        rows[: count // 2] = rows[0]
    scores = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    options = {"features": rows, "scores": scores, "cut": cut, "method": method, "per": per}
    budget = min(budget, count)
    one, again = (select("covering", labels, budget, seed=seed, **options) for _ in range(2))
    assert torch.equal(one.indices, again.indices) and len(set(one.indices.tolist())) == budget
    assert torch.equal(one.scores, scores[one.indices].double())


def test_the_hard_part_of_every_class_is_left_out() -> None:
    rows, labels = clusters()
    scores = torch.rand(300)
    chosen = select("covering", labels, 60, features=rows, scores=scores, cut=0.5)
    for label in range(3):
        mine = chosen.indices[labels[chosen.indices] == label]
        assert float(scores[mine].max()) <= float(scores[labels == label].median()) + 1e-6


def test_kmeans_takes_a_sample_of_each_clump() -> None:
    rows, _ = clusters(400, classes=1)
    parts = [rows + 40 * shift for shift in range(3)]
    rows = torch.cat(parts)
    picks = COVERAGES["kmeans"](rows, 3, torch.Generator().manual_seed(0))
    assert sorted((picks // 400).tolist()) == [0, 1, 2]


def test_large_groups_are_divided_and_keep_their_shares(monkeypatch) -> None:
    rows, _ = clusters(900, classes=1)
    monkeypatch.setattr(kmeans_file, "MOST", 20)
    picks = COVERAGES["kmeans"](rows, 90, torch.Generator().manual_seed(0))
    assert len(set(picks.tolist())) == 90
    far = torch.cdist(rows, rows[picks]).amin(1).mean()
    random = torch.cdist(rows, rows[torch.randperm(900)[:90]]).amin(1).mean()
    assert far < random


@pytest.mark.parametrize("equal", [0.0, 0.8])
def test_the_cost_of_kmeans_is_linear(equal, monkeypatch) -> None:
    """Distances that are computed, at a tenth of twice as many rows; some may equal each other."""
    counted = 0
    centres = kmeans_file._centres

    def counting(rows, count, draws):
        nonlocal counted
        counted += len(rows) * count
        return centres(rows, count, draws)

    monkeypatch.setattr(kmeans_file, "_centres", counting)
    monkeypatch.setattr(kmeans_file, "MOST", 5)
    monkeypatch.setattr(kmeans_file, "FITTED", 100)
    costs = []
    for count in (1_000, 2_000, 4_000):
        rows = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
        rows[: int(equal * count)] = 1.0
        counted = 0
        picks = kmeans_file.kmeans(rows, count // 10, torch.Generator().manual_seed(0))
        assert len(set(picks.tolist())) == count // 10
        assert len(rows[picks].unique(dim=0)) >= 0.9 * count // 10
        costs.append(counted)
    assert costs[2] < 2.4 * costs[1] and counted < 4_000 * 3 * kmeans_file.MOST


def test_herding_is_the_greedy_nearest_mean() -> None:
    rows, _ = clusters(30, classes=1)
    picks = COVERAGES["herding"](rows, 6, torch.Generator()).tolist()
    target, taken = rows.double().mean(0), []
    for _ in range(6):
        rest = [i for i in range(30) if i not in taken]
        off = [float((rows[[*taken, i]].double().mean(0) - target).norm()) for i in rest]
        taken.append(rest[int(np.argmin(off))])
    assert picks == taken


def test_k_centre_takes_the_farthest() -> None:
    rows, _ = clusters(40, classes=1)
    picks = COVERAGES["k-centre"](rows, 5, torch.Generator()).tolist()
    for step in range(1, 5):
        nearest = torch.cdist(rows.double(), rows[picks[:step]].double()).amin(1)
        assert float(nearest[picks[step]]) == pytest.approx(float(nearest.max()), rel=1e-5)


def test_weights_count_what_each_sample_stands_for() -> None:
    rows, labels = clusters()
    chosen = select(
        "covering", labels, 30, features=rows, scores=torch.zeros(300), cut=0.0, weighted=True
    )
    assert float(chosen.weights.sum()) == pytest.approx(30, abs=1e-4)
    mean = (chosen.weights[:, None] * rows[chosen.indices]).mean(0)
    plain = rows[chosen.indices].mean(0)
    assert (mean - rows.mean(0)).norm() <= (plain - rows.mean(0)).norm() + 0.3


def test_one_rule_finds_the_cut_for_regressions_and_for_trainings() -> None:
    """The same answers: of equals, regressions speak for the largest cut, trainings do not."""
    rows, labels = clusters()
    options = {"features": rows, "scores": torch.rand(300, generator=torch.Generator())}
    judge = SubsetJudge.of_pool(rows, labels)
    found = select("covering", labels, 60, pilot=judge, **options)
    trained = select("covering", labels, 60, pilot=lambda one: tuple(judge(one)), **options)
    worths = {float(cut): worth for cut, worth in found.info["pilot"].items()}
    best = max(worths.values())
    half = 0.5 * (best * (1 - best) / 300) ** 0.5
    assert found.info["pilot_error"] == pytest.approx(half, rel=0.05)  # of five draws the mean
    equal = [cut for cut, worth in worths.items() if worth >= best - found.info["pilot_error"]]
    assert found.info["cut"] == max(equal) and found.info["evidence"] == "ridge regression"
    assert trained.info["draws"] == 1 and trained.info["evidence"] == "pilot"
    worths = {float(cut): worth for cut, worth in trained.info["pilot"].items()}
    error, best = trained.info["pilot_error"], max(worths.values())
    assert trained.info["cut"] == min(c for c, worth in worths.items() if worth >= best - error)


@settings(max_examples=15, deadline=None)
@given(chosen=st.integers(3, 25), width=st.sampled_from([2, 30]), seed=st.integers(0, 99))
def test_the_judge_is_a_refit_without_each_judged_sample(chosen, width, seed) -> None:
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randn(40, width, generator=draws)
    labels = torch.arange(40) % 3
    indices = torch.randperm(40, generator=draws)[:chosen]
    found = SubsetJudge(rows, labels, torch.arange(40))(indices).worth
    best = 0.0
    centred = rows[indices].double() - rows[indices].double().mean(0)
    scale = float(centred.square().sum(1).mean())
    classes = labels[indices].unique()
    for strength in (1e-3, 1e-2, 1e-1):
        right = 0
        for judged in range(40):
            keep = indices[indices != judged]
            x, y = rows[keep].double(), (labels[keep][:, None] == classes).double()
            mean, target = x.mean(0), y.mean(0)
            gram = (x - mean).T @ (x - mean) + strength * scale * torch.eye(width)
            answer = (rows[judged].double() - mean) @ torch.linalg.solve(
                gram, (x - mean).T @ (y - target)
            ) + target
            right += int(classes[answer.argmax()] == labels[judged])
        best = max(best, right / 40)
    assert found == pytest.approx(best, abs=0.03)  # near ties may fall either way


def test_embeddings_and_margins_of_gradients_are_enough() -> None:
    rows, labels = clusters()
    logits = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    grads = logits.softmax(1) - torch.nn.functional.one_hot(labels, 3)
    chosen = select("covering", LastLayerGradients(grads, rows, labels, logits), 30)
    assert len(chosen) == 30 and chosen.info["evidence"] == "ridge regression"
    assert set(chosen.info["pilot"]) == {"0.0", "0.1", "0.2", "0.3", "0.5", "0.7"}


def noisy(count: int = 600) -> tuple[TensorDataset, torch.Tensor]:
    """Clumps, of which a third have another label."""
    rows, labels = clusters(count)
    wrong = torch.rand(count, generator=torch.Generator().manual_seed(5)) < 0.33
    return TensorDataset(rows, torch.where(wrong, (labels + 1) % 3, labels)), wrong


def test_one_call_leaves_wrong_labels_out() -> None:
    data, wrong = noisy()
    chosen = choose_subset(data, 0.05, seed=1)
    assert len(chosen) == 30 and chosen.info["cut"] > 0
    assert float(wrong[chosen.indices].double().mean()) < 0.1
    assert torch.equal(chosen.indices, choose_subset(data, 30, seed=1).indices)


def test_held_out_samples_may_judge() -> None:
    data, _ = noisy()
    rows, labels = clusters(200, seed=0)
    chosen = choose_subset(data, 0.1, val_dataset=TensorDataset(rows, labels))
    assert len(chosen) == 60


def test_the_margin_finds_wrong_labels() -> None:
    data, wrong = noisy()
    found = leave_one_out(data.tensors[0], data.tensors[1], kernel="rbf")
    assert float(found.margin[wrong].median()) > float(found.margin[~wrong].quantile(0.9))


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 90), width=st.sampled_from([1, 7, 37, 401]), kinds=st.integers(1, 9),
    seed=st.integers(0, 99), at_once=st.sampled_from([5, 1000]),
)  # fmt: skip
def test_equal_rows_are_equal_wherever_they_stand(count, width, kinds, seed, at_once) -> None:
    draws = torch.Generator().manual_seed(seed)
    which = torch.randint(kinds, (count,), generator=draws)
    rows = torch.randn(kinds, width, generator=draws)[which]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kmeans_file, "COMPARED", at_once)
        found = kmeans_file.first_of_equals(rows)
    expected = sorted(
        {int(kind): place for place, kind in reversed(list(enumerate(which)))}.values()
    )
    assert found.tolist() == expected


def test_fewer_distinct_samples_than_the_budget_are_said() -> None:
    rows = torch.eye(4).repeat(10, 1)
    chosen = select(
        "covering", torch.arange(40) % 2, 12, features=rows, scores=torch.zeros(40), cut=0.0
    )
    assert len(chosen) == 12 and "only 4 samples have different features" in chosen.info["warning"]


def test_two_warnings_are_both_said() -> None:
    rows, labels = torch.zeros(40, 2), torch.arange(40) // 20
    chosen = select(
        "covering", labels, 12, features=rows, scores=torch.arange(40), cut=0.7, per="all"
    )
    assert chosen.info["missing_classes"] == [1]
    assert "1 of 2 classes are not in the subset" in chosen.info["warning"]
    assert "only 1 samples have different features" in chosen.info["warning"]


def test_a_class_of_suspects_alone_is_not_left_out_silently() -> None:
    draws = torch.Generator().manual_seed(0)
    centres, labels = 6 * torch.randn(3, 4, generator=draws), torch.arange(300) % 3
    among_others = torch.cat([labels, torch.arange(4) % 2])
    spread = torch.tensor([1.0] * 300 + [0.1] * 4)[:, None]
    rows = centres[among_others] + spread * torch.randn(304, 4, generator=draws)
    data = TensorDataset(rows, torch.cat([labels, torch.full((4,), 7)]))
    chosen = choose_subset(data, 0.2, leave_out_suspects=True)
    assert chosen.info["missing_classes"] == [7]
    assert "(7): all their labels are probably wrong" in chosen.info["warning"]


@pytest.mark.parametrize("size", [2.0**100, 2.0**-100])
@pytest.mark.parametrize("method", ["kmeans", "herding", "facility-location", "k-centre"])
def test_huge_and_tiny_features_are_covered_as_others_are(method, size) -> None:
    rows, labels = clusters()
    options = {"scores": torch.arange(300.0), "cut": 0.3, "method": method}
    chosen = select("covering", labels, 30, features=rows, **options)
    scaled = select("covering", labels, 30, features=rows * size, **options)
    assert torch.equal(chosen.indices, scaled.indices)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_huge_and_tiny_features_are_chosen_from_as_others_are(size) -> None:
    rows, labels = clusters()
    data = TensorDataset(torch.zeros(300, 1), labels)
    found = [choose_subset(data, 0.1, features=one).info for one in (rows, rows * size)]
    accuracies = [info["leave_one_out_accuracy"] for info in found]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.01)


@pytest.mark.parametrize("given", ["reversed", "foreign"])
def test_rows_may_be_any_array(given) -> None:
    rows, labels = clusters()
    data = TensorDataset(torch.zeros(300, 1), labels)
    array = rows.numpy().astype(">f8") if given == "foreign" else rows.flip(0).numpy()[::-1]
    expected = choose_subset(data, 0.1, features=rows)
    assert torch.equal(choose_subset(data, 0.1, features=array).indices, expected.indices)


@pytest.mark.parametrize(
    ("budget", "options", "words"),
    [
        (10, {"features": torch.rand(300, 2)}, "needs scores="),
        (10, {"scores": torch.rand(300)}, "needs features="),
        (10, {"features": torch.rand(300, 2), "scores": torch.rand(300), "cut": 1.0}, "cut"),
        (10, {"features": torch.rand(300, 2), "scores": torch.rand(300), "cut": "half"}, "auto"),
        (10, {"features": torch.rand(9, 2), "scores": torch.rand(300)}, "one row of features"),
        (10, {"features": torch.rand(300, 2), "scores": torch.rand(9)}, "scores"),
        (10, {"features": torch.rand(300, 2), "scores": torch.rand(300), "method": "k"}, "kmeans"),
    ],
)  # fmt: skip
def test_bad_options_are_named(budget, options, words) -> None:
    with pytest.raises(ValueError, match=words):
        select("covering", torch.arange(300) % 3, budget, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scores": torch.rand(300)}, "decided by choose_subset"),
        ({"metod": "kmeans"}, "Did you mean 'method'"),
        ({"val_dataset": TensorDataset(torch.rand(9, 5), torch.full((9,), 7))}, "no class of val"),
        ({"features": torch.rand(300, 2), "val_dataset": TensorDataset(*clusters(9))}, "no map"),
    ],
)  # fmt: skip
def test_bad_arguments_of_the_one_call_are_named(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        choose_subset(TensorDataset(*clusters()), 0.1, **options)


@pytest.mark.parametrize("budget", [0, -1, 0.0, 1.5, float("nan"), 301, True])
def test_bad_budgets_are_named(budget) -> None:
    rows, labels = clusters()
    with pytest.raises(ValueError, match="expected"):
        choose_subset(TensorDataset(rows, labels), budget)
