"""What forgetting costs, in sentences."""

from __future__ import annotations

from benchmarks.tables.parts import load, origin


def unlearning() -> str:
    """Exact forgetting against a new warm start, and DeltaGrad against training anew."""
    exact, approximate = load("unlearning-exact"), load("unlearning-deltagrad")
    shares = [100 * row["gradients"] for row in approximate["rows"]]
    return (
        f"Forgetting one sample of {exact['samples']:,} among {exact['workers']} workers takes "
        f"{100 * exact['share_of_passes']:.1f} % of the passes of a new warm start. In "
        f"{exact['bit_equal']} of {exact['cases']} random deletions the bits were those of a warm "
        "start that never had the samples.\n\n"
        f"DeltaGrad on a logistic head computes {min(shares):.0f} to {max(shares):.0f} % of the "
        "gradients of training anew.\n" + origin(exact, approximate)
    )


UNLEARNING = (unlearning,)
