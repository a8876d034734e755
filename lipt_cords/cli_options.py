"""Options that several commands share: one spelling, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(help="A .yaml, or a CORDS .py with config = dict(...)")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a key; repeatable")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of every draw")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text")]
Output = Annotated[Path | None, typer.Option(help="Directory for everything that is written")]
Data = Annotated[Path | None, typer.Option(help="Directory that holds the data")]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data if it is not there")]
