"""The report as Markdown: the same parts in the same order, figures as files beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lipt_cords.base.printable import printable
from lipt_cords.experiments.report.results import Results
from lipt_cords.experiments.report.sections import Section, Table
from lipt_cords.experiments.report.words import Verdict

_SPACE = re.compile(r"[ \t\r\n]+")
_SPECIAL = re.compile(
    r"([\\`*_{}\[\]<>#|$~&@!]|(?<=:)//|(?<=www)\.|^[-+=](?![0-9.]))", re.IGNORECASE
)
"""What begins markup, an address that becomes a link by itself, or a mention."""

_NUMBERED = re.compile(r"^([0-9]+)([.)])(?= |$)")


def markdown_of(results: Results, said: Verdict | None, sections: Sequence[Section]) -> str:
    """A report's text; its figures are expected in ``report-figures``."""
    return "\n".join(_lines(results, said, sections)) + "\n"


def plain(text: Any) -> str:
    """Text from results, which must not become markup.

    >>> plain("a_b <script>")
    'a\\\\_b \\\\<script\\\\>'
    """
    line = _SPECIAL.sub(r"\\\1", _SPACE.sub(" ", printable(str(text)).strip()))
    return _NUMBERED.sub(r"\1\\\2", line)


def _lines(results: Results, said: Verdict | None, sections: Sequence[Section]) -> Iterator[str]:
    yield f"# {plain(results.title)}"
    yield ""
    if said is not None:
        yield f"**{plain(said.text)}**"
        yield ""
    for note in results.notes:
        yield f"- {plain(note)}"
    if results.notes:
        yield ""
    for section in sections:
        yield from _section(section)
    yield "## How it was made"
    yield ""
    facts = results.facts
    if facts["command"]:
        yield from ("```sh", str(facts["command"]).replace("`", "'"), "```", "")
    versions = [
        f"{name} {version or 'not installed'}" for name, version in facts["versions"].items()
    ]
    made_with = [f"Python {facts['python']}", *versions] if facts["python"] else versions
    if made_with:
        yield f"{plain(', '.join(made_with))}."
    if facts["revisions"]:
        yield f"Source revision {plain(', '.join(facts['revisions']))}."
    machine = facts["machine"]
    if machine:
        yield plain(
            f"{machine.get('processor')}, {machine.get('cores')} cores, "
            f"{machine.get('threads')} threads, {', '.join(machine.get('gpus') or []) or 'no GPU'}."
        )
    yield from ("", "```json", json.dumps(results.config, indent=2).replace("`", "'"), "```")


def _section(section: Section) -> Iterator[str]:
    yield f"## {plain(section.title)}"
    yield ""
    if section.table is not None:
        yield from _table(section.table)
    for paragraph in (*section.text, *section.details):
        yield from (plain(paragraph), "")
    if section.more is not None:
        yield from _table(section.more)
    for heading, figures in section.figures:
        if heading and figures:
            yield from (f"### {plain(heading)}", "")
        for figure in figures:
            title = plain(figure.title or section.title)
            yield from (f"![{title}](report-figures/{figure.name}.svg)", "")
    for gallery in section.galleries:
        yield from (f"### {plain(gallery['label'])}, seed {gallery['seed']}", "")
        for title, shown in gallery["parts"]:
            yield f"{plain(title)}: " + ", ".join(
                f"{plain(one['label'])} (sample {one['index']}, weight {one['weight']:g})"
                for one in shown
            )
            yield ""


def _table(table: Table) -> Iterator[str]:
    yield _row(list(map(plain, table.headings)))
    yield _row(["---"] + ["---:"] * (len(table.headings) - 1))
    for cells in table.rows:
        yield _row([plain(shown) for shown, _ in cells])
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
