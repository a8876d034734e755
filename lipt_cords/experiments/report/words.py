"""What a comparison says, in sentences that are computed from its figures.

The terminal, the page, its Markdown and ``results.json`` show the same sentences. A difference
counts as proven where Welch's t-test over seeds finds it
(:func:`lipt_cords.experiments.report.summary.surely`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lipt_cords.experiments.report.summary import (
    SHOWN_DIGIT,
    Row,
    accuracy_text,
    is_soup,
    percent,
    surely,
)

FULL_WARMUP = re.compile(r"full(=\d+)?(\+selector)?")
"""Methods that do what LiPT does after a full-data warm-up."""
AT_RANDOM = ("random", "rs2", "adaptiverandom", "full")
"""Selections beside which a chosen subset must show that choosing helps."""
AS_CHEAP = 1.02
"""A rival may make this many times a method's passes, as subsets are whole samples and epochs."""
PERCENT = "\N{NO-BREAK SPACE}%"
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PARTS = {
    2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth", 7: "a seventh",
    8: "an eighth", 9: "a ninth", 10: "a tenth",
}  # fmt: skip
Outcome = Literal["pays", "loses", "open"]


@dataclass(frozen=True)
class Verdict:
    """What a comparison says, and where.

    Attributes:
        text: the answer: what to use, how much better it is, at which cost, and whether the seeds
            prove it.
        details: what else the figures say, a paragraph a fraction.
        fraction: the fraction that the answer is about, where there are several.
        outcomes: whether LiPT pays, by fraction; empty without LiPT.
    """

    text: str
    details: Sequence[str]
    fraction: float | None
    outcomes: Mapping[float | None, Outcome]


def verdict(summary: Sequence[Row]) -> Verdict:
    """Which method to use.

    At every fraction the best method with a LiPT warm start stands against all that make no more
    passes, its soup alone among them. LiPT pays where it is above each of them beyond chance
    (:func:`lipt_cords.experiments.report.summary.surely`), and loses where one of them is above it
    so; otherwise, and with a single seed, it stays open. The answer is about the fraction at which
    LiPT leads by most. Without LiPT the same is said of the best method that chooses its subset
    without a warm-up, such as ``none+covering``; with LiPT the details set it beside random. Where
    training on all data reached more than all of them, the answer says so, and its cost.

    Args:
        summary: rows of :func:`~lipt_cords.experiments.report.summary.summarise`.
    """
    rows = [row for row in summary if row["accuracy"] is not None]
    if not rows:
        return Verdict("No run has ended well, so there is nothing to say.", [], None, {})
    fractions = list(dict.fromkeys(row.get("fraction") for row in rows))
    at = {f: [row for row in rows if row.get("fraction") == f] for f in fractions}
    several = len(fractions) > 1
    asked = {
        f: some
        for f, some in at.items()
        if _subjects(some) and sum(not is_soup(row) for row in some) > 1
    }
    with_lipt = {f: some for f, some in asked.items() if any(map(_is_lipt, some))}
    asked = with_lipt or asked
    outcomes = {f: _answer(some)[0] for f, some in with_lipt.items()}
    if asked:
        chosen = max(asked, key=lambda f: _lead(asked[f]))
    else:
        chosen = max(rows, key=lambda row: row["accuracy"])["fraction"]
    sentences = [_sentence(_answer(at[chosen])[1], chosen if several else None)]
    sentences += _all_data_above(at[chosen])
    if len(outcomes) > 1:
        sentences.append(_across(outcomes))
    lost = [
        percent(f)
        for f in dict.fromkeys(row.get("fraction") for row in summary if _is_lipt(row))
        if f is not None and not any(map(_is_lipt, at.get(f, [])))
    ]
    if lost:
        sentences.append(f"At {_listed(lost)} every run with LiPT failed.")
    details = []
    for fraction, some in at.items():
        said = [] if fraction == chosen else [_sentence(_answer(some)[1], fraction)]
        said += [*_beside_others(some), *_chosen_beside_random(some)]
        if said and several and fraction == chosen and fraction is not None:
            said[0] = f"At {percent(fraction)}: {said[0]}"
        details += [" ".join(said)] if said else []
    return Verdict(" ".join(sentences), details, chosen, outcomes)


def _is_lipt(row: Row) -> bool:
    return str(row["method"]).startswith("lipt")


def _chooses(row: Row) -> bool:
    """Whether a method chooses its subset without a warm-up, and not at random."""
    warmup, plus, selection = re.split("[/@]", str(row["method"]))[0].partition("+")
    return warmup == "none" and bool(plus) and selection not in AT_RANDOM


def _subjects(rows: Sequence[Row]) -> list[Row]:
    """What the comparison is about: the methods with LiPT, or else those that choose."""
    return [*filter(_is_lipt, rows)] or [*filter(_chooses, rows)]


def _highest(rows: Sequence[Row]) -> Row:
    """The row of the highest accuracy; of equal ones the cheapest."""
    return max(rows, key=lambda row: (row["accuracy"], -row["passes"]))


def _as_cheap(rows: Sequence[Row], best: Row, cost: str = "passes") -> list[Row]:
    """Other methods that cost no more."""
    ours = _subjects(rows)
    return [r for r in rows if r not in ours and r[cost] <= AS_CHEAP * best[cost]]


def _lead(rows: Sequence[Row]) -> float:
    """How far the best subject is ahead of what costs no more."""
    best = _highest(_subjects(rows))
    rivals = [row["accuracy"] for row in _as_cheap(rows, best) if not is_soup(row)]
    return float(best["accuracy"] - max(rivals)) if rivals else -math.inf


def _answer(rows: Sequence[Row]) -> tuple[Outcome, str]:
    """Of one fraction: what became of the subjects, and what to use, without a capital."""
    trained = [row for row in rows if not is_soup(row)]
    if len(trained) == 1:
        (only,) = trained
        return "open", (
            f"{only['label']} reached {accuracy_text(only)}{PERCENT}. There is nothing to compare "
            "it with: run lipt-cords compare with random and rs2 among the methods."
        )
    subjects = _subjects(rows)
    if not subjects:
        best = _highest(rows)
        others = [row for row in rows if row is not best]
        return "open", _use(best, _highest(others), len(others))
    best = _highest(subjects)
    rivals = _as_cheap(rows, best)
    if not any(row in trained for row in rivals):
        return "open", (
            f"{best['label']} reached {accuracy_text(best)}{PERCENT}. No method here costs as "
            "little: add random and rs2 to the methods."
        )
    better = [row for row in rivals if surely(row, best, len(rivals)) > 0]
    rival = _highest(better or rivals)
    if better or rival["accuracy"] > best["accuracy"] - SHOWN_DIGIT:
        return "loses" if better else "open", _use(rival, best, len(rivals))
    tries = len(subjects)
    unclear = [row for row in rivals if surely(best, row, tries) <= 0]
    rival = _highest(unclear or rivals)
    if unclear and best["passes"] > AS_CHEAP * rival["passes"]:
        return "open", (
            f"run more seeds before you pay for {best['label']}: it is "
            f"{_apart(best, rival)} here, {_cost(best, rival)}; "
            f"{_proof(best, rival, tries)}."
        )
    return "open" if unclear else "pays", _use(best, rival, tries)


def _use(one: Row, other: Row, tries: int) -> str:
    """Advice to use a method, since it is no worse than another."""
    if abs(one["accuracy"] - other["accuracy"]) < SHOWN_DIGIT:
        return (
            f"use {one['label']}: it reaches what {other['label']} reaches here, "
            f"{_cost(one, other)}."
        )
    return (
        f"use {one['label']}: {_apart(one, other)} here, "
        f"{_cost(one, other)}; {_proof(one, other, tries)}."
    )


def _sentence(said: str, fraction: float | None) -> str:
    """A sentence with its capital, or with the fraction before it."""
    if fraction is None:
        return said if said.startswith("random") else said[0].upper() + said[1:]
    return f"At {percent(fraction)} of the data, {said}"


def _apart(one: Row, other: Row) -> str:
    """How far a method is from another.

    >>> _apart({"accuracy": 0.9}, {"accuracy": 0.85, "label": "RS2"})
    '5.0 points higher than RS2'
    """
    points = 100 * (one["accuracy"] - other["accuracy"])
    if abs(points) < 100 * SHOWN_DIGIT:
        return f"as accurate as {other['label']}"
    return f"{abs(points):.1f} points {'higher' if points > 0 else 'lower'} than {other['label']}"


def _proof(one: Row, other: Row, tries: int = 1) -> str:
    seeds = min(one["runs"], other["runs"])
    number = NUMBERS[seeds] if seeds < len(NUMBERS) else str(seeds)
    if seeds == 1:
        return "one seed proves nothing"
    return f"{number} seeds {'prove it' if surely(one, other, tries) else 'do not prove it'}"


def _cost(one: Row, other: Row) -> str:
    """The passes of a method beside those of another, and its wait where that is another matter."""
    computing = share(one["passes"], other["passes"])
    waiting = share(one["critical_passes"], other["critical_passes"])
    said = f"at {computing} passes"
    return said if waiting == computing else f"{said} and {waiting} waiting"


def share(value: float, of: float) -> str:
    """A cost beside another, before its name.

    >>> [share(value, 100) for value in (0, 14, 50, 100, 130, 1200)]
    ['none of the', 'a seventh of the', 'half of the', 'the same', '1.3 times the', '12 times the']
    >>> share(80, 100)
    '80\\xa0% of the'
    """
    ratio = value / max(of, 1.0)
    if ratio <= 0:
        return "none of the"
    if 1 / AS_CHEAP <= ratio <= AS_CHEAP:
        return "the same"
    if ratio > 1:
        return f"{ratio:.0f} times the" if ratio >= 9.95 else f"{ratio:.1f} times the"
    part = round(1 / ratio)
    if part in PARTS and abs(ratio * part - 1) < 0.06:
        return f"{PARTS[part]} of the"
    return f"{100 * ratio:.2g}{PERCENT} of the"


def _all_data_above(rows: Sequence[Row]) -> list[str]:
    """Training on all data, where it was run and reached more than all else that was trained."""
    full = [row for row in rows if row["method"] == "full-data"]
    others = [row for row in rows if row not in full and not is_soup(row)]
    if not full or not _subjects(rows) or not others:
        return []
    best = _highest(others)
    if full[0]["accuracy"] - best["accuracy"] < SHOWN_DIGIT:
        return []
    said = f"{full[0]['label']} is {_apart(full[0], best)}, {_cost(full[0], best)}."
    return [said[0].upper() + said[1:]]


def _across(outcomes: Mapping[float | None, Outcome]) -> str:
    """Where LiPT pays, where not, and where it is open, in one sentence."""
    words = {"pays": "pays", "loses": "does not pay", "open": "is not proven either way"}
    parts = []
    for outcome, said in words.items():
        where = [percent(f) for f, o in outcomes.items() if o == outcome and f is not None]
        if where:
            parts.append(f"{said} at {_listed(where)}")
    return f"LiPT {'; it '.join(parts)} of the data." if parts else ""


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _beside_others(rows: Sequence[Row]) -> list[str]:
    """The best subject beside what tells why: a full warm-up, one worker, a random subset, ..."""
    subjects = _subjects(rows)
    if not subjects:
        return []
    best = _highest(subjects)
    if len(rows) == 2 and not _is_lipt(best):
        return []  # the answer says it all
    said = [f"{best['label']} reached {accuracy_text(best)}{PERCENT}."]
    waits = [row for row in _as_cheap(rows, best, "critical_passes") if not is_soup(row)]
    dearer = [row for row in waits if row["passes"] > AS_CHEAP * best["passes"]]
    named = [row["method"] for row, _ in _controls(rows)]
    others = [(row, _nothing) for row in dearer if row["method"] not in named]
    for rival, why in (*_controls(rows), *others):
        alike = abs(best["accuracy"] - rival["accuracy"]) < SHOWN_DIGIT
        tries = len(subjects)
        proof = "" if alike else f"; {_proof(best, rival, tries)}{why(surely(best, rival, tries))}"
        said.append(f"It is {_apart(best, rival)}, {_cost(best, rival)}{proof}.")
    return said if len(said) > 1 else []


def _chosen_beside_random(rows: Sequence[Row]) -> list[str]:
    """With LiPT in the comparison, what else chose a subset beside a random one."""
    chosen = [*filter(_chooses, rows)]
    plain = [row for row in rows if row["method"] == "random"]
    if not (chosen and plain and any(map(_is_lipt, rows))):
        return []
    best, (rival,) = _highest(chosen), plain
    alike = abs(best["accuracy"] - rival["accuracy"]) < SHOWN_DIGIT
    proof = "" if alike else _proof(best, rival, len(chosen))
    return [
        f"{best['label']}, without a warm-up, is {_apart(best, rival)}, {_cost(best, rival)}"
        f"{'; ' * bool(proof)}{proof}."
    ]


def _nothing(_: int) -> str:
    return ""


def _controls(rows: Sequence[Row]) -> Iterator[tuple[Row, Callable[[int], str]]]:
    """Methods beside which the best subject shows something, and what it shows."""

    def found(name: str) -> Iterator[Row]:
        return (row for row in rows if row["method"] == name)

    full = [row for row in rows if str(row["method"]).startswith("full")]
    full = [row for row in full if not str(row["method"]).startswith("full-data")]
    if full:
        exact = [row for row in full if FULL_WARMUP.fullmatch(row["method"])]
        yield _highest(exact or full), _nothing
    best = _highest(_subjects(rows))
    for row in found("one-worker"):
        yield (
            row,
            lambda outcome: (
                ": merging workers pays here"
                if outcome > 0
                else ": that merging helps is not shown"
            ),
        )
    if best["method"] == "lipt":
        for row in found("lipt+random"):
            yield row, lambda outcome: (
                ": choosing the subset pays here" if outcome > 0
                else ": that choosing the subset helps is not shown"
            )  # fmt: skip
    plain = [row for name in ("random", "rs2") for row in found(name)]
    if plain and _is_lipt(best):
        plain = [_highest(plain)]
    for row in plain:
        yield row, _nothing
    for name in ("rs2@total", "full-data@total", *(() if _is_lipt(best) else ("full-data",))):
        for row in found(name):
            yield row, _nothing


def soup_notes(summary: Sequence[Row]) -> list[str]:
    """Where a soup is better than what was trained on a subset from it.

    Args:
        summary: rows of :func:`~lipt_cords.experiments.report.summary.summarise`.
    """
    notes = []
    for soup in filter(is_soup, summary):
        for row in summary:
            here = row["soup"] == soup["soup"] and row["fraction"] == soup["fraction"]
            if here and not is_soup(row):
                notes += soup_note(row["label"], soup["accuracy"], row["accuracy"])
    return list(dict.fromkeys(notes))


def soup_note(label: str, soup: float | None, trained: float | None) -> list[str]:
    """A note if a soup is better than what was trained on a subset from it, or none.

    >>> soup_note("GLISTER after LiPT", 0.95, 0.92)
    ['GLISTER after LiPT: the soup alone is 3.0 points better than after training on the subset; \
use the soup, or a larger subset']
    """
    if soup is None or trained is None or soup - trained < SHOWN_DIGIT:
        return []
    return [
        f"{label}: the soup alone is {100 * (soup - trained):.1f} points better than after "
        "training on the subset; use the soup, or a larger subset"
    ]
