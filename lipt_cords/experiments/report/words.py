"""What the figures say, in sentences that are computed from them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lipt_cords.experiments.report.summary import (
    Row,
    accuracy_text,
    clear,
    count,
    gap,
    percent,
    seconds,
    surely,
    times,
)

FULL_WARMUP = re.compile(r"full(=\d+)?(\+selector)?")
"""Methods that do what LiPT does after a full-data warm-up."""
AS_CHEAP = 1.02
"""A rival may make this many times a method's passes, as subsets are whole samples and epochs."""
PERCENT = "\N{NO-BREAK SPACE}%"
Outcome = Literal["pays", "loses", "open"]


@dataclass(frozen=True)
class Verdict:
    """What a comparison says of LiPT, in a few sentences, and where.

    Attributes:
        text: the sentences.
        fraction: the fraction that they are about, where there are several.
        outcomes: whether it pays, by fraction; empty without LiPT.
    """

    text: str
    fraction: float | None
    outcomes: Mapping[float | None, Outcome]


def verdict(summary: Sequence[Row]) -> Verdict:
    """Does LiPT pay? Judged against whatever costs no more, at every fraction.

    A fraction pays if the best method with a LiPT warm start is above every other method that
    makes no more passes in all, beyond chance
    (:func:`lipt_cords.experiments.report.summary.surely`); it loses if
    one of those is above it so; otherwise, and with a single seed, it stays open.

    Args:
        summary: rows of :func:`summarise`.
    """
    rows = [row for row in summary if row["accuracy"] is not None]
    if not rows:
        return Verdict("No run has ended well, so there is nothing to say.", None, {})
    fractions = list(dict.fromkeys(row.get("fraction") for row in rows))
    by_fraction = {f: [row for row in rows if row.get("fraction") == f] for f in fractions}
    with_lipt = {
        f: some for f, some in by_fraction.items() if any(map(_is_lipt, some)) and len(some) > 1
    }
    if not with_lipt:
        best = max(rows, key=lambda row: row["accuracy"])
        where = f" at {percent(best['fraction'])} of the data" if len(fractions) > 1 else ""
        text = f"Highest mean accuracy: {best['label']}, {accuracy_text(best)} %{where}."
        if any(map(_is_lipt, rows)):
            text += " There is nothing to compare it with: add random and rs2 to the methods."
        return Verdict(text, best.get("fraction"), {})
    outcomes = {f: _outcome(some)[0] for f, some in with_lipt.items()}
    chosen = max(with_lipt, key=lambda f: _lead(with_lipt[f]))
    sentences = [_across(outcomes)] if len(outcomes) > 1 else []
    lost = [
        percent(f)
        for f in dict.fromkeys(row.get("fraction") for row in summary if _is_lipt(row))
        if f is not None and not any(map(_is_lipt, by_fraction.get(f, [])))
    ]
    if lost:
        sentences.append(f"At {_listed(lost)} every run with LiPT failed.")
    sentences.append(_best_sentence(with_lipt[chosen], chosen if len(fractions) > 1 else None))
    sentences.append(_outcome(with_lipt[chosen])[1])
    return Verdict(" ".join(filter(None, sentences)), chosen, outcomes)


def _is_lipt(row: Row) -> bool:
    return str(row["method"]).startswith("lipt")


def _best_lipt(rows: Sequence[Row]) -> Row:
    return max(filter(_is_lipt, rows), key=lambda row: row["accuracy"])


def _as_cheap(rows: Sequence[Row], best: Row) -> list[Row]:
    """Other methods that make no more passes, in all."""
    return [r for r in rows if not _is_lipt(r) and r["passes"] <= AS_CHEAP * best["passes"]]


def _lead(rows: Sequence[Row]) -> float:
    """How far the best with LiPT is ahead of what costs no more."""
    best = _best_lipt(rows)
    rivals = [row["accuracy"] for row in _as_cheap(rows, best)]
    return float(best["accuracy"] - max(rivals)) if rivals else -math.inf


def _outcome(rows: Sequence[Row]) -> tuple[Outcome, str]:
    best = _best_lipt(rows)
    rivals = _as_cheap(rows, best)
    if not rivals:
        return "open", "No method in it costs as little: add random and rs2 to the methods."
    if min(row["runs"] for row in (best, *rivals)) < 2:
        return "open", "With one seed a method there is no spread to judge a difference by."
    tries = sum(map(_is_lipt, rows))
    better = [row for row in rivals if surely(row, best) > 0]
    if better:
        rival = max(better, key=lambda row: row["accuracy"])
        return (
            "loses",
            f"It does not pay here: {rival['label']}, which makes no more passes in all, is "
            f"{_apart(rival, best)} points better.",
        )
    unclear = [row for row in rivals if surely(best, row, tries) <= 0]
    rival = max(unclear or rivals, key=lambda row: row["accuracy"])
    if unclear:
        return (
            "open",
            f"Whether it is better than {rival['label']}, which makes no more passes in all, "
            f"is open: they are {_apart(rival, best)} points apart.",
        )
    return (
        "pays",
        f"It pays here: the best that makes no more passes in all, {rival['label']}, is "
        f"{_apart(rival, best)} points worse.",
    )


def _apart(one: Row, other: Row) -> str:
    return f"{100 * abs(one['accuracy'] - other['accuracy']):.1f}"


def _across(outcomes: Mapping[float | None, Outcome]) -> str:
    """Where it pays, where not, and where it is open, in one sentence."""
    words = {
        "pays": "pays",
        "loses": "does not pay",
        "open": "cannot be distinguished from rivals that cost no more",
    }
    parts = []
    for outcome, said in words.items():
        where = [percent(f) for f, o in outcomes.items() if o == outcome and f is not None]
        if where:
            parts.append(f"{said} at {_listed(where)}")
    return f"LiPT {'; it '.join(parts)} of the data." if parts else ""


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _best_sentence(rows: Sequence[Row], fraction: float | None) -> str:
    best = _best_lipt(rows)
    where = "" if fraction is None else f"At {percent(fraction)}, "
    text = f"{where}{best['label']} reached {accuracy_text(best)}{PERCENT}"
    full = max(
        (row for row in rows if str(row["method"]).startswith("full")),
        key=lambda row: (FULL_WARMUP.fullmatch(row["method"]) is not None, row["accuracy"]),
        default=None,
    )
    if full is None:
        text += f" in {seconds(best['seconds'])} s and {count(best['passes'])} passes"
    else:
        text += (
            f" in {_share(best, full, 'seconds')} of the time, {_share(best, full, 'passes')} of "
            f"the passes and {_share(best, full, 'critical_passes')} of the critical path of "
            f"{full['label']}, which reached {accuracy_text(full)}{PERCENT}"
        )
    plain = [row for row in rows if row["method"] in ("random", "rs2")]
    if plain:
        names = {"random": "a random subset", "rs2": "RS2"}
        reached = [f"{names[row['method']]} {accuracy_text(row)}{PERCENT}" for row in plain]
        text += f"; {_listed(reached)} without a warm-up"
    return text + "."


def _share(one: Row, other: Row, cost: str) -> str:
    return f"{100 * one[cost] / max(other[cost], 1e-9):.0f}{PERCENT}"


def reading(summary: Sequence[Row]) -> str:
    """A paragraph a fraction that says what the table shows and what it does not.

    Args:
        summary: rows of :func:`summarise`.
    """
    fractions = list(dict.fromkeys(row.get("fraction") for row in summary))
    if len(fractions) < 2:
        return _paragraph(summary)
    parts = {f: [row for row in summary if row["fraction"] == f] for f in fractions}
    named = {f: "Without a fraction" if f is None else f"At {f:.4g} of the data" for f in fractions}
    return "\n\n".join(f"{named[f]}: {_paragraph(parts[f])}" for f in fractions)


def _paragraph(summary: Sequence[Row]) -> str:
    rows = {row["method"]: row for row in summary if row["accuracy"] is not None}
    sentences = []
    if rows:
        best = max(rows.values(), key=lambda row: row["accuracy"])
        sentences.append(f"Highest mean accuracy: {best['label']}, {accuracy_text(best)} %.")
    lipt = rows.get("lipt")
    if lipt is not None:
        sentences += _about_lipt(lipt, rows)
    failures = sum(row["failed"] for row in summary)
    if failures:
        sentences.append(f"{failures} run{'s' * (failures > 1)} failed and are in no mean.")
    runs = min((row["runs"] for row in rows.values()), default=0)
    if runs == 1:
        sentences.append("1 seed a method: without a spread no difference is a finding.")
    elif runs:
        sentences.append(
            f"{runs} seeds a method: what lies within one pooled deviation is no finding."
        )
    return " ".join(sentences)


def _about_lipt(lipt: Row, rows: Mapping[str, Row]) -> list[str]:
    sentences = []
    full = next((rows[name] for name in rows if FULL_WARMUP.fullmatch(name)), None)
    if full is not None:
        critical = full["warmup_passes"] / max(1.0, lipt["warmup_critical_passes"])
        total = full["warmup_passes"] / max(1.0, lipt["warmup_passes"])
        sentences.append(
            f"{lipt['label']} is {gap(lipt, full)}; its warm-up makes {times(critical)} "
            f"sample-passes on the critical path, {times(total)} over all workers."
        )
    if "one-worker" in rows:
        sentences.append(
            _control(
                lipt,
                rows["one-worker"],
                "one worker as long as that critical path",
                pays="merging workers pays here",
                otherwise="merging workers buys nothing that shows here",
            )
        )
    if "lipt+random" in rows:
        sentences.append(
            _control(
                lipt,
                rows["lipt+random"],
                "a random subset after the same warm start",
                pays="choosing the subset pays here",
                otherwise="the warm model, not the choice of the subset, earns the accuracy here",
            )
        )
    plain = [rows[name] for name in ("random", "rs2") if name in rows]
    if plain:
        rival = max(plain, key=lambda row: row["accuracy"])
        cheaper = lipt["passes"] / max(1.0, rival["passes"])
        sentences.append(
            f"It is {gap(lipt, rival, rival['label'] + ' without a warm-up')}, whose passes are "
            f"{times(cheaper)} in all."
        )
    equal = [row for name, row in rows.items() if "@" in name and not _is_lipt(row)]
    if equal:
        rival = max(equal, key=lambda row: row["accuracy"])
        sentences.append(f"At equal cost it is {gap(lipt, rival, rival['label'])}.")
    if sentences:
        sentences[0] = sentences[0].replace("It is", f"{lipt['label']} is", 1)
    return sentences


def _control(one: Row, other: Row, name: str, *, pays: str, otherwise: str) -> str:
    """A method beside its control, and what that shows."""
    return f"It is {gap(one, other, name)}: {pays if clear(one, other) > 0 else otherwise}."
