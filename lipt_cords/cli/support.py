"""What every command needs: its configuration, a place to show things, and errors in one line.

Nothing that takes long is imported here, nor in the modules of the commands: torch takes seconds,
and ``lipt-cords --help`` needs none of it. A command imports what it calls.
"""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lipt_cords.base.ownership import is_main_process
from lipt_cords.cli.lines import say

if TYPE_CHECKING:
    from lipt_cords.cli.display import Display

ConfigFile = Annotated[Path, typer.Argument(help="A .yaml; or a CORDS .py, whose code is executed")]


NoCode = Annotated[
    bool,
    typer.Option("--no-code", help="Execute no code: refuse .py files, imports and --import"),
]


Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a key; repeatable")
]


Seed = Annotated[int | None, typer.Option(min=0, help="Seed of every draw")]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text")]


Imports = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="MODULE", help="A module that registers names; repeatable"),
]


def _directory(given: str | Path) -> Path:
    """A directory; an empty one, as of a shell's variable that is not set, would be this one."""
    if not str(given):
        raise typer.BadParameter("expected a directory, received ''")
    return Path(given)


Output = Annotated[
    Path | None,
    typer.Option(parser=_directory, metavar="DIR", help="Directory for everything that is written"),
]


Data = Annotated[Path | None, typer.Option(help="Directory that holds the data")]


Download = Annotated[bool, typer.Option("--download", help="Fetch the data if it is not there")]


TUTORIAL = """Pick the few per cent of your data worth training on, find wrong labels, wait less.

\b
See it work, in two minutes and on bundled data:
  lipt-cords demo
Is this machine ready, and what is missing?
  lipt-cords doctor
Your data: put each class's images into a folder, and write mine.yaml:
  dataset: {name: "imagefolder:my-images", image_size: 32}
  model: {architecture: resnet8}
  optimizer: {lr: 0.05}
  dss_args: {type: Covering, fraction: 0.05}
  train_args: {num_epochs: 60, eval_every: 10}
or a table, CSV or Parquet, and the column of its classes:
  dataset: {name: "table:customers.csv", label: churned}
  dss_args: {type: Covering, fraction: 0.05}
Which 5 % of it is worth training on?
  lipt-cords select mine.yaml --output runs/subset
Which labels are probably wrong?
  lipt-cords clean mine.yaml --output runs/clean
What would it cost to find out whether that beats a random subset?
  lipt-cords compare mine.yaml --dry-run
Find out, and look at the page that it writes:
  lipt-cords compare mine.yaml --output runs/compared
Choose and train:
  lipt-cords train mine.yaml --output runs/trained
Would a larger batch fit into a GPU's memory, and what would that cost (simulated on a CPU)?
  lipt-cords plan mine.yaml --budget 2GiB --largest

A .py configuration is a program, and imports name modules: both are executed. For files of others,
--no-code reads .yaml without imports alone.
Any key can be overridden, as in --set dss_args.fraction=0.1; --json prints for machines.
Exit codes: 0 done, 1 something that was checked is broken, 2 wrong options, data or files,
130 interrupted by Ctrl-C, 143 by SIGTERM; what is kept is said.
"""


SkipUnreadable = Annotated[
    bool,
    typer.Option(
        "--skip-unreadable", help="Leave out image files that cannot be read, rows without label"
    ),
]


def load_configuration(
    path: Path,
    overrides: list[str] | None,
    seed: int | None,
    data: Path | None,
    download: bool,
    imports: list[str] | None,
    no_code: bool,
    skip_unreadable: bool = False,
) -> Any:
    """A configuration with what the command line overrides, and imports."""
    from lipt_cords.cords.config import load_config

    extra = list(overrides or [])
    if seed is not None:
        extra.append(f"train_args.seed={seed}")
    if data is not None:
        extra.append(f"dataset.datadir={json.dumps(str(data))}")
    if download:
        extra.append("dataset.download=true")
    if skip_unreadable:
        extra.append("dataset.skip_unreadable=true")
    if path.suffix.lower() == ".py" and not no_code and path.is_file() and is_main_process():
        said = f"note: {path} is Python and is executed; --no-code reads .yaml alone"
        say(Console(stderr=True), said)
    return load_config(path, extra, imports=imports or (), code=not no_code)


def program() -> list[str]:
    """What is typed to run this program again: its name, or its path if it is not found by name."""
    typed = Path(sys.argv[0])
    if typed.name == "__main__.py":
        return [sys.executable, "-m", "lipt_cords"]
    found = shutil.which("lipt-cords")
    return ["lipt-cords"] if found and typed.exists() and typed.samefile(found) else [str(typed)]


def command_line() -> str:
    """This command line, to be written beside what it made."""
    return shlex.join(["lipt-cords", *sys.argv[1:]])


def display_for(as_json: bool) -> Display:
    """Where progress and results are shown: standard error, where JSON has the standard output."""
    from lipt_cords.cli.display import Display

    return Display(Console(stderr=as_json, quiet=not is_main_process()))


class _Lines(logging.Handler):
    """Shows what is logged on stderr, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        say(Console(stderr=True), f"{record.levelname:<8} {self.format(record)}", style="yellow")


def configure_logging() -> None:
    """Warnings of this package on stderr; CORDS's own lines only where something is wrong."""
    root = logging.getLogger("lipt_cords")
    if not root.handlers and is_main_process():
        root.addHandler(_Lines())
    root.setLevel(logging.WARNING)
    root.propagate = False


def print_json(payload: dict[str, Any]) -> None:
    """Results for machines, on standard output."""
    if is_main_process():
        sys.stdout.write(json.dumps(payload, indent=2, allow_nan=False) + "\n")
