"""What a step of Muon costs."""

from __future__ import annotations

from benchmarks.tables.parts import load, markdown, origin


def muon() -> str:
    """A worker against a bare loop, and a step against one of SGD."""
    found = load("muon")
    rows = [
        [f"worker's speed, of a bare loop's, batch {batch}", f"{one['ratio']:.2f}"]
        for batch, one in found["worker_against_bare_loop"].items()
    ]
    step = found["resnet18_step"]
    rows += [
        ["update of ResNet-18, of SGD's time", f"{step['muon_over_sgd']:.0f}"],
        ["Muon as usually written, of our time",
         f"{step['plain_muon_over_muon']:.1f}"],
    ]  # fmt: skip
    return markdown(("Muon on a CPU", "Ratio"), rows) + origin(found)


MUON = (muon,)
