"""The documented import path of :mod:`lipt_cords.experiments.report`."""

from lipt_cords.experiments.report import (
    Report,
    Verdict,
    comparison_table,
    count,
    seconds,
    summarise,
    verdict,
    write_report,
)

__all__ = [
    "Report",
    "Verdict",
    "comparison_table",
    "count",
    "seconds",
    "summarise",
    "verdict",
    "write_report",
]
