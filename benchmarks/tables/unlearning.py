"""Tables of benchmarks/unlearning.py."""

from __future__ import annotations

import statistics

from benchmarks.tables.parts import load, markdown, origin


def unlearning() -> str:
    """Exact forgetting, in a sentence."""
    exact = load("unlearning-exact")
    return (
        f"Exact: one sample of {exact['samples']:,} among {exact['workers']} workers takes "
        f"{100 * exact['share_of_passes']:.1f} % of the passes of a full redo, and "
        f"{100 * statistics.median(exact['share_of_seconds']):.0f} % of its seconds, evaluation "
        f"and refresh included (ResNet-8). In {exact['bit_equal']} of {exact['cases']} random "
        "deletions of 1 to 4 samples, from 320 images among 8 workers of a small net, the bits "
        "were those of a warm start that never had them.\n" + origin(exact)
    )


def deltagrad() -> str:
    """DeltaGrad against training anew."""
    results = load("unlearning-deltagrad")
    rows = [
        [
            row["head"],
            row["change"],
            f"{row['samples']:,}" + (f", {row['times']} times" if row["times"] > 1 else ""),
            f"{row['faster']:.1f}x",
            f"{100 * row['gradients']:.0f} %",
            f"{row['of_change'] / row['to_retraining']:.0f}x" if row["to_retraining"] else "exact",
        ]
        for row in results["rows"]
    ]
    head = (
        "Head", "Change", "Samples", "Faster than training anew", "Sample gradients computed",
        "Closer to it than the change is large",
    )  # fmt: skip
    settings = results["settings"]
    told = ", ".join(f"{key} {value:g}" for key, value in settings.items())
    return markdown(head, rows) + f"\n{told}.\n" + origin(results)


UNLEARNING = (unlearning, deltagrad)
