"""The page in a browser, on a phone and on a desk, by day and by night."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, looked_at
from report_material import comparison, large, runs_of, subsets
from torch.utils.data import ConcatDataset

from lipt_cords.base.files import write_json
from lipt_cords.data.images import ImageTensors
from lipt_cords.experiments.report.page import write_report
from lipt_cords.experiments.report.suspects import Suspect, suspects_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    write_json(directory / "results.json", large())
    return write_report(directory)[0]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_it_is_drawn_sorts_and_is_legible(
    page: Path, tmp_path: Path, width: int, theme: str
) -> None:
    found = looked_at(page, tmp_path, width=width, theme=theme)
    assert found["errors"] == []
    assert found["overflow"] <= 0 and found["beyond"] == []
    assert found["figures"] == 6 * 4 + 1 + 4 + 2 and found["undrawn"] == 0
    assert found["images"] == 0, "pictures that did not load"
    assert found["contrast"] == {}
    assert found["sorted"]
    assert found["answer"] < 640, "the answer needs no scrolling"


@pytest.mark.parametrize("width", [390, 1400])
def test_a_comparison_of_nine_methods_is_read_without_scrolling_sideways(
    width: int, tmp_path: Path
) -> None:
    runs = [
        run
        for number, method in enumerate(("random", "rs2", "full", "lipt", "one-worker", *"abcd"))
        for run in runs_of(method, [0.5, 0.6], 20_000, 40_000 + number, 0.1, subsets=subsets())
    ]
    write_json(tmp_path / "results.json", comparison(runs))
    page = write_report(tmp_path)[0]
    found = looked_at(page, tmp_path, width=width, theme="light")
    assert found["overflow"] <= 0 and found["beyond"] == [] and found["scrolls"] == []
    text = page.read_text()
    for name in ("overlap", "balance"):  # nine rows with their names, none hides another
        figure = text[text.index(f'id="{name}-') :].partition("</svg>")[0]
        assert figure.count("GLISTER after ") == 3


def test_long_names_fit_on_a_phone(tmp_path: Path) -> None:
    runs = runs_of("lipt+stratified/scratch/static@critical-path", [0.5, 0.6], 10, 20, 0.1)
    for run in runs:
        run["label"] = "Stratified, once, after LiPT in rounds, from scratch, LiPT's critical path"
    payload = comparison(runs, command="lipt-cords compare " + "x" * 300)
    payload["config"]["dataset"]["name"] = "y" * 120
    write_json(tmp_path / "results.json", payload)
    found = looked_at(write_report(tmp_path)[0], tmp_path, width=390, theme="light")
    assert found["overflow"] <= 0 and found["beyond"] == [] and found["errors"] == []


def test_the_looking_sees_what_is_wrong(page: Path, tmp_path: Path) -> None:
    bad = page.read_text().replace(
        "<main>", "<main><p style='width:2000px;color:#ddd'>pale</p><script>nothing()</script>"
    )
    (tmp_path / "bad.html").write_text(bad)
    found = looked_at(tmp_path / "bad.html", tmp_path, width=390, theme="light")
    assert found["errors"] and found["overflow"] > 0 and "P pale" in found["contrast"]


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1400, "light")])
def test_the_page_of_suspects_fits_and_is_legible(tmp_path: Path, width: int, theme: str) -> None:
    images = torch.arange(3 * 8 * 8, dtype=torch.uint8).reshape(1, 3, 8, 8).repeat(4, 1, 1, 1)
    data = ConcatDataset([ImageTensors(images, torch.tensor([0, 1, 0, 1]))])
    suspects = [
        Suspect(f"a folder/{'long' * 20}-{place}.png", "train", "<b>cat", "dog", 1.0, place)
        for place in range(4)
    ]
    page = tmp_path / "suspects.html"
    page.write_text(
        suspects_page(
            suspects,
            [("<b>cat", "dog", 4)],
            data,
            "features",
            0.9,
            ["unreadable: " + "long" * 30],
            "--set dataset.without=" + "long" * 30,
        )
    )
    found = looked_at(page, tmp_path, width=width, theme=theme)
    assert found["errors"] == [] and found["images"] == 0 and found["contrast"] == {}
    assert found["overflow"] <= 0 and found["beyond"] == []
    assert page.read_text().count("&lt;b&gt;cat") == 9
