"""Results read back to people: a table for the terminal, sentences, and one page with figures."""

from lipt_cords.experiments.report.page import Report, write_report
from lipt_cords.experiments.report.summary import count, seconds, summarise
from lipt_cords.experiments.report.terminal import comparison_table
from lipt_cords.experiments.report.words import Verdict, verdict

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
