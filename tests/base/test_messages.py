"""Messages: what is sent arrives, all else is refused, and no bytes ever execute anything."""

from __future__ import annotations

import builtins
import enum
import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from lipt_cords.base.messages import MARK, decode, encode, travels

SCALARS = (
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text()
)
TENSORS = some.sampled_from(
    [
        torch.tensor(2**60), torch.empty(0, 3), torch.arange(6.0).view(2, 3).t(),
        torch.tensor([True, False]), torch.randn(3).bfloat16(), torch.nn.Parameter(torch.ones(2)),
        torch.tensor([1j]), torch.tensor([float("nan"), float("inf")]),
    ]
)  # fmt: skip
VALUES = some.recursive(
    SCALARS | some.binary() | TENSORS | some.sampled_from([torch.float16, torch.int64]),
    lambda inner: (
        some.lists(inner)
        | some.lists(inner).map(tuple)
        | some.dictionaries(some.text() | some.integers(), inner)
    ),
    max_leaves=8,
)


@travels
@dataclass(frozen=True)
class Parcel:
    weight: float
    inside: object


class Attack:
    """A pickle that notes that it was executed."""

    executed: list[str] = []  # noqa: RUF012

    def __reduce__(self):
        return (note, ("a pickle",))


def note(what):
    Attack.executed.append(what)


def alike(one, two):
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(
            one.detach().contiguous().reshape(-1).view(torch.uint8),
            two.reshape(-1).contiguous().view(torch.uint8),
        )
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(alike, one, two))
    if isinstance(one, dict):
        return list(one) == list(two) and all(alike(one[key], two[key]) for key in one)
    return type(one) is type(two) and one == two


@settings(max_examples=40)
@given(VALUES)
def test_what_is_sent_arrives(value):
    assert alike(value, decode(encode(value)))


def test_records_numbers_of_numpy_and_infinities_arrive():
    again = decode(encode(Parcel(-math.inf, [np.float32(0.5), np.int64(3), np.bool_(True)])))
    assert again == Parcel(-math.inf, [0.5, 3, True])
    assert math.isnan(decode(encode(math.nan)))


def test_tensors_that_share_memory_arrive_as_their_own():
    weights = torch.arange(4.0)
    one, two = decode(encode([weights, weights[:2]]))
    one.zero_()
    assert two.tolist() == [0.0, 1.0]


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Stranger:
    inside: object = None


ROUND = []
ROUND.append(ROUND)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([{"here": object()}], r"cannot carry object \(found at it\[0\]\['here'\]\)"),
        ({1, 2}, "cannot carry set"),
        (Stranger(), "cannot carry Stranger"),
        (Colour.RED, "cannot carry Colour"),
        (print, "cannot carry builtin_function"),
        ({(1, 2): 3}, r"cannot carry tuple \(found at a key of it\)"),
        (1 << 5000, "number of 5001 bits"),
        (ROUND, "nested this deeply"),
        (torch.ones(2, 2).to_sparse(), "sparse_coo"),
        (torch.empty(2, device="meta"), "on meta"),
    ],
)
def test_what_cannot_be_carried_is_refused_with_the_place(value, reason):
    with pytest.raises(ValueError, match=reason):
        encode(value)


def test_only_dataclasses_of_different_names_travel():
    with pytest.raises(ValueError, match="only a dataclass can travel in messages, received dict"):
        travels(dict)
    other = type("Parcel", (Stranger,), {"__module__": "elsewhere"})
    with pytest.raises(ValueError, match="two dataclasses named Parcel would travel"):
        travels(other)


HEADS = [
    b'{"record":"Attack","fields":{}}', b'{"record":"Parcel","fields":{"weight":1}}',
    b'{"record":["Parcel"],"fields":{}}', b'{"tensor":3}', b'{"float":"exec"}', b'{"dtype":"exec"}',
    b'{"dict":[[[1],2]]}', b'{"dict":[1]}', b'{"exec":1}', b"{}", b"NaN", b"[" * 100_000,
    b"9" * 10_000, b"\xff\xfe", b"",
]  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_forged_messages_are_refused(head):
    body = encode(None)[len(MARK) + 8 + len("null") :]
    with pytest.raises(ValueError, match=r"was changed or cut"):
        decode(MARK + len(head).to_bytes(8, "big") + head + body)


def test_pickles_are_never_executed():
    for bad in (pickle.dumps(Attack()), MARK + pickle.dumps(Attack()), b"", MARK):
        with pytest.raises(ValueError, match="message"):
            decode(bad)
    assert Attack.executed == []


@settings(max_examples=60)
@given(some.data())
def test_changed_bytes_are_a_value_or_an_error_of_ours(data):
    message = bytearray(encode({"weights": torch.arange(4.0), "names": ["a", (1, 2.5)]}))
    for _ in range(data.draw(some.integers(1, 3))):
        message[data.draw(some.integers(0, len(message) - 1))] = data.draw(some.integers(0, 255))
    end = data.draw(some.integers(0, len(message)))
    try:
        decode(bytes(message[:end]))
    except ValueError as error:
        assert type(error) is builtins.ValueError
