"""Pages from templates, with the colours of light and dark."""

from __future__ import annotations

from typing import Any

from lipt_cords.base.errors import missing_extra
from lipt_cords.experiments.report.svg import DARK_SERIES, NAMED


def rendered(template: str, **values: Any) -> str:
    """A page of the folder ``templates``; the theme's colours are added to its values.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise missing_extra("jinja2", "report", "to write the page") from None
    environment = Environment(
        loader=PackageLoader("lipt_cords.experiments.report"),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(
        colours={variable: colour for colour, variable in NAMED.items()},
        dark={f"s{number}": colour for number, colour in enumerate(DARK_SERIES)},
        **values,
    )
