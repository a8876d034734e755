"""The page and its Markdown: whole, repeatable, self-contained, and nothing in it is markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_material import comparison, large, rounds, runs_of, subsets

import lipt_cords
from lipt_cords.base.files import write_json
from lipt_cords.base.printable import printable
from lipt_cords.experiments.report.markdown import plain
from lipt_cords.experiments.report.page import Report, write_report
from lipt_cords.experiments.report.svg import SERIES

TEMPLATES = Path(lipt_cords.__file__).parent / "experiments/report/templates"
EVIL = '</script><script>alert("x")</script>'


class Tags(HTMLParser):
    """Every tag and every address of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
                self.addresses.append(value or "")


def saved(directory: Path, payload: Any) -> Path:
    write_json(directory / "results.json", payload)
    return directory


def test_a_whole_report_is_one_file_that_asks_nothing_of_a_network(tmp_path: Path) -> None:
    paths = write_report(saved(tmp_path, large()))
    assert [path.name for path in paths] == ["report.html", "report.md"]
    page = paths[0].read_text()
    assert len(page) < 5e6
    found = Tags(page)
    assert all(a.startswith(("data:image/png", "#")) for a in found.addresses)
    assert "http-equiv" in page and "default-src 'none'" in page
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(found.ids) == len(set(found.ids)), "names on the page must differ"
    sections = re.findall(r'<section id="(\w+)">', page)
    assert sections == [
        "accuracy", "fractions", "costs", "time", "signal", "subsets", "samples", "made",
    ]  # fmt: skip
    # 6 fractions by 3 costs and by time, one over fractions, four signals, two of subsets.
    assert page.count('class="figure"') == 6 * 4 + 1 + 4 + 2
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_report(tmp_path)] == before


def test_markdown_says_the_same_and_its_figures_are_there(tmp_path: Path) -> None:
    page, text = (path.read_text() for path in write_report(saved(tmp_path, large())))
    figures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(figures) == page.count('class="figure"') == len(set(figures))
    for figure in figures:
        drawn = (tmp_path / figure).read_text()
        ElementTree.fromstring(drawn)
        assert "var(--" not in drawn
    rows = [line for line in text.splitlines() if line.startswith("| GLISTER after LiPT")]
    assert len(rows) == 2 * 6  # costs, and their parts
    for title in re.findall(r"<h2>(.*?)</h2>", page):
        assert f"## {title}" in text


def test_strings_from_elsewhere_stay_strings(tmp_path: Path) -> None:
    told = subsets()
    told["shown"][0]["label"] = told["class_names"][0] = EVIL
    runs = runs_of("lipt", [0.5, 0.6], 10, 20, 0.1, subsets=told, notes=[EVIL])
    runs += runs_of("random", [0.4, 0.5], 0, 0, 0.1)
    for run in runs:
        run["label"] = f"{run['method']} {EVIL} $x^$ `"
    failed = {"method": EVIL, "seed": 0, "status": "failed", "error": EVIL, "fraction": 0.1}
    payload = comparison([*runs, failed], command=EVIL, config={"dataset": {"name": EVIL}})
    payload["machine"]["processor"] = payload["versions"][EVIL] = EVIL
    page, text = (path.read_text() for path in write_report(saved(tmp_path, payload)))
    assert Tags(page).tags.count("script") == 1 and EVIL not in page
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "<script" not in outside.replace(r"\<script", "")
    for figure in (tmp_path / "report-figures").iterdir():
        assert "<script" not in figure.read_text()


@given(st.text(st.sampled_from("ab1 .-+=#|`*_[]()<>!&;:/@~\\\\\"'{}$\n\t\x1b\u202ew")))
def test_text_stays_text_in_markdown(text: str) -> None:
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    shown = " ".join(printable(text).split())
    for before, after in (("", ""), ("- ", ""), ("# ", ""), ("| a |\n| --- |\n| ", " |")):
        tokens = reader.parse(f"{before}{plain(text)}{after}")
        inlines = [one for one in tokens if one.type == "inline"]
        said = inlines[-1].children if shown else []
        assert {one.type for one in said or []} <= {"text", "text_special"}
        assert " ".join("".join(one.content for one in said or []).split()) == shown


def test_addresses_do_not_become_links() -> None:
    for address in ("http://a.example", "HTTPS://a.example", "www.a.example", "me@a.example"):
        assert not re.search(r"://|www\.|(?<!\\)@", plain(address), re.IGNORECASE)


def test_a_picture_from_elsewhere_cannot_leave_its_attribute(tmp_path: Path) -> None:
    told = subsets()
    told["shown"][0]["png"] = 'x" onerror="alert(1)'
    runs = runs_of("lipt", [0.5], 10, 20, 0.1, subsets=told)
    with pytest.raises(ValueError, match=r"subsets\.shown\.0\.png"):
        write_report(saved(tmp_path, comparison(runs)))


def test_text_in_figures_is_what_was_drawn(tmp_path: Path) -> None:
    runs = [*runs_of("lipt", [0.5, 0.6], 10, 20, 0.1), *runs_of("rs2", [0.4, 0.5], 0, 0, 0.1)]
    for run in runs:
        run["label"] = f"{run['method']} 1.23456 #0b62a4"
    page = write_report(saved(tmp_path, comparison(runs)))[0].read_text()
    assert page.count(">lipt 1.23456 #0b62a4</text>") == 1


def test_one_seed_has_no_bands_and_says_so(tmp_path: Path) -> None:
    runs = [*runs_of("lipt", [0.5], 10, 20), *runs_of("random", [0.4], 0, 0)]
    page = write_report(saved(tmp_path, comparison(runs)))[0].read_text()
    assert "One seed: there are no bands" in page and "FillBetween" not in page
    several = [*runs_of("lipt", [0.5, 0.6], 10, 20)]
    assert "FillBetween" in write_report(saved(tmp_path, comparison(several)))[0].read_text()


def test_a_single_run_and_a_warm_start_alone_have_a_report(tmp_path: Path) -> None:
    run = {**comparison([]), **runs_of("GLISTER", [0.5], 10, 20)[0], "kind": "run"}
    run.pop("runs")
    page = write_report(saved(tmp_path, run))[0].read_text()
    assert "GLISTER reached 50.0" in page
    (tmp_path / "warm").mkdir()
    report = {
        **rounds(), "workers": [{"kept": True}, {"kept": False}], "critical_path_passes": 5,
        "passes": 9, "seconds": {"total": 1.5}, "bytes_communicated": 1234, "notes": ["a note"],
        "merged_accuracy": 0.5, "mean_worker_accuracy": None,
    }  # fmt: skip
    write_json(tmp_path / "warm" / "warm_start.json", {"report": report, "config": {"lr": 1}})
    page = write_report(tmp_path / "warm")[0].read_text()
    assert "1 of 2" in page and "a note" in page and page.count('class="figure"') == 4


def test_all_failed_is_told_and_not_drawn(tmp_path: Path) -> None:
    failed = {"method": "rs2", "seed": 1, "status": "failed", "error": "ValueError: no"}
    report = Report.of([saved(tmp_path, comparison([failed]))])
    assert "No run has ended well" in report.html() and report.sections == []
    assert "1 of 1 runs failed" in report.markdown()


def test_a_report_is_written_elsewhere_if_asked(tmp_path: Path) -> None:
    results = saved(tmp_path, comparison(runs_of("lipt", [0.5], 10, 20)))
    page, _ = write_report(results, output=tmp_path / "elsewhere")
    assert page.parent == tmp_path / "elsewhere" and not (tmp_path / "report.html").exists()


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_colour_of_text_and_lines_is_legible_by_day_and_by_night(tmp_path: Path) -> None:
    page = write_report(saved(tmp_path, comparison(runs_of("lipt", [0.5], 10, 20))))[0].read_text()
    style = page[page.index("<style>") : page.index("</style>")]
    palettes = [
        dict(re.findall(r"--(\w+):(#[0-9a-f]{6});", block))
        for block in re.findall(r":root[^{]*\{([^{}]*)\}", style)
    ]
    light, night, dark = palettes
    assert night == dark and light.keys() == dark.keys()
    for palette in (light, dark):
        assert {"ink", "muted", *(f"s{number}" for number in range(len(SERIES)))} < palette.keys()
        for name, colour in palette.items():
            if name not in ("paper", "grid"):  # the ground, and lines that say nothing
                assert contrast(colour, palette["paper"]) >= 4.5, name
    rules = (TEMPLATES / "report.css").read_text()
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgba?\(", rules), "colours are named"
