"""README and docs say nothing that the committed results do not say."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks.tables import reliability as tables
from benchmarks.tables import write
from benchmarks.tables.parts import load, origin
from lipt_cords.experiments.methods import parse_methods

ROOT = Path(__file__).resolve().parents[2]


def test_every_table_on_every_page_agrees_with_its_json(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["write.py", "--check"])
    assert write.main() == 0, capsys.readouterr().out


def test_a_changed_figure_is_noticed():
    page = (ROOT / "README.md").read_text()
    figure = page.index(" ± ")
    forged = page[: figure - 1] + str((int(page[figure - 1]) + 1) % 10) + page[figure:]
    assert write.filled(forged) == page != forged


def test_an_unknown_table_is_named():
    with pytest.raises(ValueError, match="unknown table 'nothing'"):
        write.filled("<!-- table: nothing -->\n<!-- end of table -->")


def test_a_machine_is_named_once_for_several_commands():
    def result(command, revision, threads):
        machine = {"threads": threads, "processor": "a"}
        place = {"revision": revision, "versions": {"torch": "2"}, "machine": machine}
        return {"command": command, "provenance": place}

    said = origin(
        result("a", "1", 1), result("b", "1", 1), result("c", "2", 1), result("d", "2", 2)
    )
    first, second = said.strip().split("\n\n")
    assert first == "`a`, `b`, revision 1; `c`, revision 2, torch 2, 1 thread of a."
    assert second == "`d`, revision 2, torch 2, 2 threads of a."


@pytest.mark.parametrize("what", ["hung", "wrong_bits", "resumed"])
def test_a_fault_that_ended_wrong_is_counted(monkeypatch, what):
    def forged(name):
        found = load(name)
        if name == "faults":
            next(iter(found["scenarios"].values()))[what] += 2
        return found

    monkeypatch.setattr(tables, "load", forged)
    (line,) = [line for line in tables.reliability().splitlines() if "a fault" in line]
    assert line.endswith("| 2 |")


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]), ids=lambda p: p.name
)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_methods_of_the_page_on_comparisons_are_known():
    text = (ROOT / "docs/report.md").read_text()
    (names,) = re.findall(r"--methods (\S+)", text)
    assert len(parse_methods(names.split(","))) > 3
