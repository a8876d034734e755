"""The report: everything that a comparison found, as one page and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lipt_cords.base.files import output_directory, write_atomic
from lipt_cords.base.ownership import owned
from lipt_cords.experiments.report.bars import PHASES
from lipt_cords.experiments.report.markdown import markdown_of
from lipt_cords.experiments.report.results import Results, load_results
from lipt_cords.experiments.report.sections import Section, sections_of, warm_start_section
from lipt_cords.experiments.report.summary import percent
from lipt_cords.experiments.report.svg import DASHES, NAMED, as_file, colour_of
from lipt_cords.experiments.report.templating import rendered
from lipt_cords.experiments.report.words import Verdict, verdict

HTML, MARKDOWN, FIGURES = "report.html", "report.md", "report-figures"


@dataclass
class Report:
    """A report of one comparison, run or warm start, ready to be written.

    >>> Report.of([])
    Traceback (most recent call last):
    ValueError: expected at least one directory with results, received none
    """

    results: Results
    verdict: Verdict | None
    sections: list[Section] = field(default_factory=list)

    @classmethod
    def of(cls, directories: Sequence[str | Path]) -> Report:
        """Read results and draw everything.

        Args:
            directories: whose ``results.json`` is of one comparison or run, or one with the
                ``warm_start.json`` of a warm start.

        Raises:
            ValueError: results that are missing, broken, or of different comparisons.
            ImportError: matplotlib is not installed.
        """
        results = load_results(directories)
        if results.warm_start is not None:
            return cls(results, None, [warm_start_section(results)])
        if not results.runs:
            raise ValueError("there is no run in these results: run lipt-cords compare first")
        said = verdict(results.summary)
        return cls(results, said, list(sections_of(results, said)))

    def html(self) -> str:
        """The page as one file that loads nothing from a network."""
        shares = [fraction for fraction in self.results.fractions if fraction is not None]
        return rendered(
            "report.html", report=self, results=self.results, chips=self._chips(),
            shares=", ".join(map(percent, shares)) or "a part",
            phases=[(name, NAMED[colour]) for name, colour in PHASES.items()],
        )  # fmt: skip

    def markdown(self) -> str:
        """The same as Markdown; figures are files beside it, in ``report-figures``."""
        return markdown_of(self.results, self.verdict, self.sections)

    def write(self, directory: str | Path) -> list[Path]:
        """Write ``report.html``, ``report.md`` and its figures, each whole or not at all.

        Raises:
            ValueError: the directory cannot be written, or another run uses it.
        """
        page, text = self.html(), self.markdown()
        where = Path(directory).expanduser()
        with owned(where):
            figures = output_directory(where / FIGURES)
            for section in self.sections:
                for _, some in section.figures:
                    for one in some:
                        write_atomic(figures / f"{one.name}.svg", as_file(one.svg))
            return [write_atomic(where / HTML, page), write_atomic(where / MARKDOWN, text)]

    def _chips(self) -> list[tuple[str, str, str]]:
        """Label, colour and dashes of every method."""
        chips = []
        for place, label in enumerate(self.results.methods.values()):
            colour, dashes = colour_of(place)
            pattern = "" if dashes == DASHES[0] else " ".join(map(str, dashes[1]))
            chips.append((label, NAMED[colour], pattern))
        return chips


def write_report(*directories: str | Path, output: str | Path | None = None) -> list[Path]:
    """Write the report of a comparison, a run or a warm start.

    Args:
        directories: with results that belong together; usually one.
        output: where the report goes; None: beside the first results.

    Returns:
        The page and its Markdown.

    Raises:
        ValueError: results that are missing, broken, or of different comparisons.
        ImportError: matplotlib or jinja2 is not installed.
    """
    report = Report.of(directories)
    return report.write(directories[0] if output is None else output)
