"""Tables of benchmarks/choose_cost.py and closed_form_scale.py: choosing as the pool grows."""

from __future__ import annotations

from benchmarks.tables.parts import load, markdown, origin, results_of


def choosing_cost() -> str:
    """Processor time of choosing 5 % of a pool, beside that of one training on them."""
    found = [results for _, results in results_of("choose_cost")]
    rows = [
        [
            results["data"],
            f"{row['chosen']:,} of {row['pool']:,}",
            f"{row['choosing_cpu_seconds']:.1f}",
            f"{row['training_cpu_seconds']:.1f}",
            f"{100 * row['choosing_cpu_seconds'] / row['training_cpu_seconds']:.0f} %",
        ]
        for results in found
        for row in results["rows"]
    ]
    head = ("Set", "Chosen", "Choosing, s", "One training, s", "Choosing, of the training")
    return markdown(head, rows) + origin(*found)


def choosing_scale() -> str:
    """Processor time and memory of difficulty and coverage, up to a million rows."""
    results = load("closed_form_scale")
    rows = [
        [
            f"{row['rows']:,}",
            f"{row['difficulty_cpu_seconds']:.0f}",
            f"{row['coverage_cpu_seconds']:.0f}",
            f"{row['peak_bytes'] / 2**30:.1f}",
        ]
        for row in results["rows"]
    ]
    head = ("Rows of 512 features, 100 classes", "Difficulty, s", "Coverage, s", "Memory, GiB")
    return markdown(head, rows) + origin(results)


CHOOSING_COST = (choosing_cost, choosing_scale)
