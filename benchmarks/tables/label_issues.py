"""The table of benchmarks/label_issues.py."""

from __future__ import annotations

from benchmarks.tables.parts import markdown, origin_of, results_of, spread


def label_issues() -> str:
    """How well wrong labels are found without training."""
    text = ""
    for name, results in results_of("label_issues"):
        rows = []
        for share, kind in dict.fromkeys((row["share"], row["kind"]) for row in results["rows"]):
            mine = [row for row in results["rows"] if (row["share"], row["kind"]) == (share, kind)]
            cells = [
                spread([row[part] for row in mine])
                for part in ("auroc", "precision", "recall", "likely_is_right")
            ]
            rows.append([f"{100 * share:.0f} %", kind, *cells])
        head = (
            "Wrong", "Kind", "AUROC, %", "Precision, %", "Recall, %",
            "Likely label right, %",
        )  # fmt: skip
        seeds = len({row["seed"] for row in results["rows"]})
        text += f"{name}, {seeds} seeds.\n\n" + markdown(head, rows) + "\n"
    return text + origin_of(results_of("label_issues"))


LABEL_ISSUES = (label_issues,)
