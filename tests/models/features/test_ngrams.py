"""Features of texts and token ids, and choosing among them: what items may be, and bad input."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lipt_cords import choose_subset, features, leave_one_out
from lipt_cords.data.labels import labels_of
from lipt_cords.models.features import ngrams as file
from lipt_cords.models.features.kinds import Samples, kind_of

SEA = ["sea", "wave", "fish", "sail", "salt", "tide"]
LAND = ["tree", "field", "horse", "road", "barn", "hill"]
BOTH = ["the", "a", *SEA, *LAND]


class Items(Dataset):
    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.items[index]


def texts(count: int = 60) -> list[tuple[str, int]]:
    """Texts of two topics, in turn."""
    draws = torch.Generator().manual_seed(0)
    found = []
    for index in range(count):
        words = ["the", "a", *(LAND if index % 2 else SEA)]
        picked = torch.randint(len(words), (9,), generator=draws).tolist()
        found.append((" ".join(words[one] for one in picked), index % 2))
    return found


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor([BOTH.index(word) for word in text.split()])


FORMS = {
    "pairs": lambda text, label: (text, label),
    "text and label": lambda text, label: {"text": text, "label": label},
    "sentence and labels": lambda text, label: {
        "idx": 3, "sentence": text, "labels": torch.tensor(label),
    },
    "token ids": lambda text, label: (ids_of(text), label),
    "tokenised": lambda text, label: {
        "input_ids": ids_of(text), "attention_mask": torch.ones(9), "labels": label,
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_subset_is_chosen_of_every_form_of_text(form) -> None:
    data = Items([form(*item) for item in texts()])
    assert kind_of(data) == "ngrams"
    assert labels_of(data).tolist() == [index % 2 for index in range(60)]
    chosen = choose_subset(data, 0.1)
    assert len(chosen) == 6 and chosen.info["features"] == "ngrams"
    assert chosen.info["leave_one_out_accuracy"] == 1.0
    assert labels_of(Subset(data, chosen.indices.tolist())).float().mean() == 0.5
    assert len(choose_subset(ConcatDataset([data, data]), 4, val_dataset=data)) == 4


def test_texts_and_their_token_ids_have_the_same_geometry(monkeypatch) -> None:
    """Buckets differ by hash; words, pairs and weights do not."""
    monkeypatch.setattr(file, "BUCKETS", 2**18)  # no two share one here
    data = texts(16)
    said = features(Items(data)).values
    as_ids = features(Items([(ids_of(text), label) for text, label in data])).values
    torch.testing.assert_close(said @ said.T, as_ids @ as_ids.T, atol=1e-4, rtol=0)


def test_few_directions_keep_what_all_say(monkeypatch) -> None:
    every = features(Items(texts())).values
    monkeypatch.setattr(file, "WIDTH", 4)
    few = features(Items(texts()))
    assert few.width == 4 < every.shape[1]
    assert leave_one_out(few, [label for _, label in texts()]).accuracy == 1.0
    assert torch.equal(few.values, features(Items(texts())).values)
    assert not torch.equal(few.values, features(Items(texts()), seed=1).values)


def test_rows_are_those_of_the_map_whatever_the_chunk(monkeypatch) -> None:
    data = Items(texts())
    found = features(data)
    assert torch.equal(found.of(Subset(data, [7, 3])).values, found.values[[7, 3]])
    torch.testing.assert_close(found.values.norm(dim=1), torch.ones(60))
    monkeypatch.setattr(file, "FITTED", 10)
    part = features(data)
    assert len(part) == 60 and part.width <= 10


def test_inner_products_are_those_of_weighted_counts() -> None:
    """Two texts of the same words in another order share the words and no pair."""
    data = Items([("fish sail", 0), ("Sail fish", 1), ("fish, sail!", 1)])
    rows = features(data).values
    torch.testing.assert_close(rows[0], rows[2])
    rare = torch.log(torch.tensor(4 / 2)) + 1  # the pair of the second text, in one of three
    often = torch.log(torch.tensor(4 / 3)) + 1  # the pair of the others
    expected = 2 / ((2 + often**2) * (2 + rare**2)).sqrt()
    torch.testing.assert_close(rows[0] @ rows[1], expected, atol=1e-5, rtol=0)


def test_padding_is_left_out_where_the_mask_says_so() -> None:
    ids = torch.tensor([[5, 6, 0, 0], [5, 6, 7, 0]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    assert file.as_texts({"input_ids": ids, "attention_mask": mask}) == ["5 6", "5 6 7"]
    assert file.as_texts({"input_ids": ids}) == ["5 6 0 0", "5 6 7 0"]
    assert file.as_texts(ids[:, :2]) == ["5 6", "5 6"]


def test_one_word_and_empty_texts_have_rows() -> None:
    found = features(Items([("fish", 0), ("", 1), ("?", 0), ("tree", 1)])).values
    assert found.norm(dim=1).tolist() == pytest.approx([1, 0, 0, 1])
    assert abs(float(found[0] @ found[3])) < 1e-6
    assert features(Items([("fish", 0)])).values.shape == (1, 1)


def test_a_row_alone_in_a_dict_is_a_table() -> None:
    rows = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    data = Items([{"x": row, "label": index % 2} for index, row in enumerate(rows)])
    found = features(data)
    assert found.kind == "columns"
    assert torch.equal(found.values, features(TensorDataset(rows, torch.arange(12) % 2)).values)


def several(**inputs: torch.Tensor) -> Items:
    return Items([{**inputs, "label": index % 2} for index in range(3)])


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (Items([("", 0), ("?", 1)]), "auto", "none of 2 texts drawn has a word"),
        (Items([("fish", 0), ("fish", 1)]), "auto", "are equal"),
        (Items([("fish", 0), (None, 1)]), "auto", "sample 1 is no text but NoneType"),
        (Items([{"text": "fish", "label": 0}, {"text": 3, "label": 1}]), "auto",
         "sample 1 is no text but dict of {'text': 'int'}"),
        (several(x=torch.rand(3), y=torch.rand(3)), "auto", "no kind of features fits.*'x'"),
        (several(x=torch.arange(3)), "auto", "no kind of features fits.*'x'"),
        (several(x=torch.rand(3), y=torch.rand(3)), "columns", "in a dict one of floats"),
        (several(input_ids=torch.rand(3)), "ngrams", "need texts or token ids"),
        (several(input_ids=torch.arange(6).reshape(1, 6)), "auto", "no kind of features fits"),
        (several(input_ids=torch.arange(3), attention_mask=torch.ones(2)), "auto",
         r"attention_mask of the shape of the token ids, \(3,\), received \(2,\)"),
        (several(input_ids=torch.arange(3), attention_mask=torch.zeros(3)), "auto", "has a word"),
        (Items([(torch.arange(3), 0), (torch.arange(4), 1)]), "auto", "resize, pad"),
        (TensorDataset(torch.rand(4, 3), torch.arange(4)), "ngrams", r"float32 \(3,\)"),
        (TensorDataset(torch.rand(4, 3) > 0.5, torch.arange(4)), "ngrams", "need texts or token"),
        (Items(texts(4)), "columns", "received str"),
        (Items(texts(4)), torch.nn.Linear(3, 2), "tokenise them"),
    ],
)  # fmt: skip
def test_bad_input_is_named(data, kind, words) -> None:
    with pytest.raises(ValueError, match=words):
        features(data, kind)


def test_a_table_of_integers_is_columns_where_it_is_asked_for() -> None:
    data = TensorDataset(torch.arange(12).reshape(4, 3), torch.arange(4))
    assert kind_of(data) == "ngrams" and features(data, "columns").width == 3
    assert Samples(data, "cpu").draw(2).shape == (2, 3)
