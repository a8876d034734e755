"""``lipt-cords plan``: what a training step takes, and how it fits into less."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from lipt_cords.base.files import output_directory, write_atomic
from lipt_cords.base.ownership import is_main_process
from lipt_cords.base.sizes import parse_bytes
from lipt_cords.cli.lines import say
from lipt_cords.cli.support import (
    AsJson,
    ConfigFile,
    Data,
    Download,
    Imports,
    NoCode,
    Overrides,
    Seed,
    SkipUnreadable,
    display_for,
    load_configuration,
)
from lipt_cords.cli.values import parse_bandwidth, parse_policy


def plan(
    config: ConfigFile,
    budget: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory of a step, such as 2GiB or 500MB")
    ],
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples; the configuration's without it")
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="To the host, a second; a GPU is asked, a CPU has 12GB"),
    ] = None,
    policy: Annotated[str, typer.Option(help="both, swap or recompute")] = "both",
    speed: Annotated[
        float, typer.Option(help="Plan for a device so many times faster than this one")
    ] = 1.0,
    largest: Annotated[
        bool, typer.Option("--largest", help="Search for the largest batch that fits")
    ] = False,
    at_most: Annotated[
        int | None, typer.Option(min=1, help="Samples at which --largest ends; 4096 without it")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the step's memory, an .svg")
    ] = None,
    no_code: NoCode = False,
    as_json: AsJson = False,
    overrides: Overrides = None,
    imports: Imports = None,
    seed: Seed = None,
    data: Data = None,
    download: Download = False,
    skip_unreadable: SkipUnreadable = False,
) -> None:
    """Plan a training step within a memory budget, and take it once.

    \b
    lipt-cords plan mine.yaml --budget 2GiB --plot step.svg
    lipt-cords plan mine.yaml --budget 2GiB --largest       how large can a batch be?
    """
    from lipt_cords.cli.display_memory import show_measured, show_memory_plan
    from lipt_cords.experiments.memory_plan import AT_MOST, plan_memory
    from lipt_cords.experiments.report.memory import memory_timeline
    from lipt_cords.experiments.report.svg import as_file

    if at_most is not None and not largest:
        raise ValueError("--at-most ends the search of --largest: add that, or leave it out")
    if not is_main_process():  # a step is planned by one process
        return
    if plot is not None:  # now, not after all the work
        _check_file(plot)
    display = display_for(as_json)
    console = display.console
    limit = parse_bytes(budget, "--budget")
    made = plan_memory(
        load_configuration(
            config, overrides, seed, data, download, imports, no_code, skip_unreadable
        ),
        limit,
        batch_size=batch_size,
        bandwidth=parse_bandwidth(bandwidth),
        policy=parse_policy(policy),
        speed=speed,
        largest=largest,
        at_most=AT_MOST if at_most is None else at_most,
        on_data=display.data,
        on_measured=lambda samples, trace: show_measured(console, samples, trace, limit),
    )
    if not as_json:
        show_memory_plan(console, made)
    else:
        sys.stdout.write(json.dumps(made.to_dict(), indent=2, allow_nan=False) + "\n")
    if plot is not None:
        write_atomic(plot, as_file(memory_timeline(made.plan)))
        say(console, f"  {plot}")


def _check_file(path: Path) -> None:
    """Make a drawing's directory, and see that it can be written there."""
    if path.is_dir():
        raise ValueError(f"expected a file at {path}, found a directory: name a file in it")
    if path.suffix.lower() != ".svg":
        raise ValueError(
            f"the drawing is an SVG, received {path.name}: name a file that ends in .svg"
        )
    output_directory(path.parent)
