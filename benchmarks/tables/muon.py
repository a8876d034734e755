"""What a step of Muon costs."""

from __future__ import annotations

from benchmarks.tables.parts import load, markdown, origin


def muon() -> str:
    """A worker against a bare loop, and a step against one of SGD."""
    found = load("muon")
    rows = [
        [f"a worker's speed, of a bare loop's, batches of {batch}", f"{one['ratio']:.2f}"]
        for batch, one in found["worker_against_bare_loop"].items()
    ]
    step = found["resnet18_step"]
    rows += [
        ["time of a step on ResNet-18's weights, of an SGD step's", f"{step['muon_over_sgd']:.0f}"],
        ["the same, matrix by matrix as Muon is usually written, of ours",
         f"{step['plain_muon_over_muon']:.1f}"],
    ]  # fmt: skip
    return markdown(("Muon on a CPU", "Ratio"), rows) + origin(found)


MUON = (muon,)
