"""The report's section on cheaper workers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.data import TensorDataset

from lipt_cords import LiPTWarmStart
from lipt_cords.experiments.report.cheaper import stages_text, ticket_figures, ticket_text
from lipt_cords.experiments.report.page import write_report
from lipt_cords.experiments.report.schema import WarmStart
from lipt_cords.models.build import build_model


@pytest.fixture(scope="module")
def fitted():
    draws = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(80, 3, 8, 8, generator=draws), torch.arange(80) % 4)
    warm_start = LiPTWarmStart(
        num_workers=2, common_steps=20, local_steps=8, batch_size=8, sparsity="none",
        early_bird={"ratio": 0.5}, subnetwork={},
    )  # fmt: skip
    return warm_start.fit(build_model("resnet20", 4, image_size=8, seed=0), data)


def test_the_page_tells_of_stages_and_ticket(fitted, tmp_path) -> None:
    fitted.save(tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    told = fitted.report.ticket
    assert f"{100 * told['work']:.1f} % of the operations" in text
    assert f"after {told['steps']} steps of the common start" in text
    assert "paths of 4 blocks" in text and "planned" in text
    for name in ("steps", "matrix", "layers"):
        assert (tmp_path / "report-figures" / f"ticket-{name}.svg").exists()


def test_words_follow_the_numbers(fitted) -> None:
    report = fitted.report.to_dict()
    stages = [
        {"length": 2, "steps": 10, "passes": 10, "planned": 5.0, "counted": 6.0},
        {"length": 4, "steps": 10, "passes": 10, "planned": 10.0, "counted": 10.0},
    ]
    assert (
        "2 blocks, 10 steps: 50.0 % planned, 60.0 % counted" in stages_text({"stages": stages})[0]
    )
    assert "In all: 75.0 % planned, 80.0 % counted" in stages_text({"stages": stages})[0]
    assert stages_text({}) == ticket_text({}) == list(ticket_figures({})) == []
    ticket = copy.deepcopy(report["ticket"]) | {"rescued": ["stem.1"], "settled": True}
    words = ticket_text({"ticket": ticket})[0]
    assert "had settled" in words and "vanished: stem.1" in words


@pytest.mark.parametrize(
    ("field", "value"),
    [("distances", [[0.0]]), ("work", 0.0), ("share_kept", 1.5), ("layers", {"a": [1]})],
)
def test_a_broken_ticket_is_refused(fitted, field, value) -> None:
    report = {"ticket": {**fitted.report.ticket, field: value}}
    with pytest.raises(ValueError, match=field if field != "distances" else "masks to each other"):
        WarmStart.model_validate(report)
