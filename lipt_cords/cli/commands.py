"""The commands: arguments in, the package's functions called, results shown. Nothing else."""

from __future__ import annotations

import logging
import shlex
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lipt_cords import __version__
from lipt_cords.base.ownership import is_main_process, owned, owns_output
from lipt_cords.base.printable import printable
from lipt_cords.base.process_memory import keep_freed_memory
from lipt_cords.cli.interruption import interruptible
from lipt_cords.cli.lines import say, say_error
from lipt_cords.cli.plan import plan
from lipt_cords.cli.support import (
    TUTORIAL,
    AsJson,
    ConfigFile,
    Data,
    Download,
    Imports,
    NoCode,
    Output,
    Overrides,
    Seed,
    SkipUnreadable,
    command_line,
    configure_logging,
    display_for,
    load_configuration,
    print_json,
    program,
)
from lipt_cords.cli.values import parse_equal, parse_fraction, parse_fractions, parse_seeds, words

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""Click's error of a wrong command line, wherever this version of typer keeps it."""

app = typer.Typer(
    name="lipt-cords",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def show_version(asked: bool) -> None:
    """Print the version and stop."""
    if asked:
        typer.echo(f"lipt-cords {__version__}")
        raise typer.Exit


@app.callback(help=TUTORIAL, no_args_is_help=True)
def overview(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=show_version, help="Show the version"),
    ] = False,
) -> None:
    """What stands before every command."""


@app.command()
@interruptible
@owns_output
def demo(
    output: Output = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method")] = 3,
    as_json: AsJson = False,
) -> None:
    """Compare warm-ups on bundled digits through CORDS's loaders."""
    from lipt_cords.cli.display import show_report
    from lipt_cords.cords.importing import INSTALL_CORDS, cords_version
    from lipt_cords.experiments.demo import METHODS, demo_config
    from lipt_cords.experiments.demo import demo as run_demo
    from lipt_cords.experiments.methods import parse_methods

    display = display_for(as_json)
    if not as_json:
        through = "CORDS's loader"
        if cords_version() is None:
            through = "this package's own loader"
            say(display.console, f"CORDS is not installed: {INSTALL_CORDS}\n")
        display.console.print(
            f"Bundled digits, a tenth of them to train on: GLISTER through {through} after "
            "three warm-ups (full data, LiPT, one worker), beside random and RS2. Two minutes.\n"
        )
    display.methods(parse_methods(METHODS), demo_config().dss_args.strategy)
    results, others = run_demo(
        output,
        seeds=seeds,
        command=command_line(),
        on_run=display.run,
        on_point=display.point,
        on_strategy=display.strategy,
    )
    if as_json:
        print_json({**results, "others": [record.to_dict() for record in others]})
    else:
        show_report(display.console, results, output)
        say(display.console, f"\nNext, your own data: {shlex.join([*program(), '--help'])}")


@app.command()
@interruptible
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    imports: Imports = None,
    seed: Seed = None,
    output: Output = None,
    data: Data = None,
    download: Download = False,
    skip_unreadable: SkipUnreadable = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run")] = False,
    no_code: NoCode = False,
    as_json: AsJson = False,
) -> None:
    """Run one configuration: warm start, selection, training.

    \b
    lipt-cords train mine.yaml --output runs/mine
    lipt-cords train mine.yaml --output runs/mine --resume     after an interruption
    """
    from lipt_cords.cli.display import show_run
    from lipt_cords.experiments.run import run

    display = display_for(as_json)
    settings = load_configuration(
        config, overrides, seed, data, download, imports, no_code, skip_unreadable
    )
    with display.curve(settings.train_args.num_epochs) as on_point:
        record = run(
            settings,
            output=output,
            resume=resume,
            command=command_line(),
            on_data=display.data,
            on_point=on_point,
        )
    if record is None:
        return
    if as_json:
        print_json(record.to_dict())
    else:
        show_run(display, record, output)


@app.command()
@interruptible
def compare(
    config: ConfigFile,
    seeds: Annotated[str, typer.Option(help="How many, or a list such as 0,1,5")] = "3",
    methods: Annotated[
        str | None, typer.Option(help="Such as random,rs2,full=5,lipt,lipt+craig/scratch/static")
    ] = None,
    fractions: Annotated[
        str | None, typer.Option(help="Such as 0.01,0.1,0.3; the configuration's without it")
    ] = None,
    warm_epochs: Annotated[
        int | None, typer.Option(min=1, help="Full-data epochs that LiPT replaces")
    ] = None,
    subset_passes: Annotated[
        int | None, typer.Option(min=1, help="Passes on subsets, in place of epochs")
    ] = None,
    equal: Annotated[
        str | None, typer.Option(help="critical-path or total: all methods spend the same")
    ] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Passes to spend with --equal")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that make runs side by side")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Make only what is missing")] = False,
    overrides: Overrides = None,
    imports: Imports = None,
    output: Output = Path("runs/compare"),
    data: Data = None,
    download: Download = False,
    skip_unreadable: SkipUnreadable = False,
    no_code: NoCode = False,
    as_json: AsJson = False,
) -> None:
    """Compare methods at several fractions, every cost counted.

    \b
    lipt-cords compare mine.yaml --methods random,rs2,lipt --fractions 1%,10% --dry-run
    lipt-cords compare mine.yaml --equal total       all methods spend the same

    A method is WARMUP+SELECTION/HOW@SPENDS: lipt, full=5+craig/scratch/static, rs2@total, ...
    Warm-ups: none, full[=K], full-annealed[=K], lipt, lipt-rounds, lipt-once,
    one-worker, one-worker-annealed, one-worker-total. Selections: selector (the
    configuration's), random, rs2, covering, glister, gradmatch, craig, stratified, curriculum,
    importance, grand, el2n, full, or another registered selector (--import).
    """
    from lipt_cords.cli.display import show_plan, show_report
    from lipt_cords.experiments.compare import compare as run_comparison
    from lipt_cords.experiments.compare import default_methods
    from lipt_cords.experiments.compare_files import blank_results, kept_records
    from lipt_cords.experiments.compare_plan import plan_comparison
    from lipt_cords.experiments.methods import parse_methods
    from lipt_cords.experiments.pace import training_pace
    from lipt_cords.experiments.run import load_splits

    display = display_for(as_json)
    settings = load_configuration(
        config, overrides, None, data, download, imports, no_code, skip_unreadable
    )
    names = list(default_methods(settings)) if methods is None else words(methods)
    terms: dict[str, Any] = {
        "fractions": None if fractions is None else parse_fractions(fractions),
        "warm_epochs": warm_epochs,
        "subset_passes": subset_passes,
        "equal": parse_equal(equal),
        "budget": budget,
    }
    chosen, contenders = parse_seeds(seeds), parse_methods(names)
    writes = is_main_process() and not dry_run
    with owned(output) if output is not None and writes else nullcontext():
        splits = load_splits(settings)
        plan = plan_comparison(settings, splits, contenders, chosen, **terms)
        if resume and output is not None:
            first = blank_results(settings, plan, contenders, terms, splits)
            plan = plan.without(kept_records(output, first, plan, resume))
        display.data(splits)
        display.methods(contenders, settings.dss_args.strategy)
        pace = training_pace(settings, splits)
        if dry_run and as_json:
            print_json(plan.to_dict() | {"passes_per_second": pace})
        else:
            show_plan(display.console, plan, pace, jobs, settings.dss_args.strategy)
        if dry_run:
            return
        results = run_comparison(
            settings, methods=names, seeds=chosen, **terms, jobs=jobs, output=output, resume=resume,
            splits=splits, command=command_line(), on_run=display.run, on_point=display.point,
            on_wait=display.wait,
        )  # fmt: skip
        if not is_main_process():
            return
        if as_json:
            print_json(results)
        else:
            show_report(display.console, results, output)
    if any(run["status"] == "failed" for run in results["runs"]):
        raise typer.Exit(1)


@app.command()
@interruptible
@owns_output
def warmstart(
    config: ConfigFile,
    overrides: Overrides = None,
    imports: Imports = None,
    seed: Seed = None,
    output: Output = Path("runs/warmstart"),
    data: Data = None,
    download: Download = False,
    skip_unreadable: SkipUnreadable = False,
    no_code: NoCode = False,
    as_json: AsJson = False,
) -> None:
    """Fit a warm start and save the merged weights with their report."""
    from lipt_cords.experiments.run import fit_warm_start

    display = display_for(as_json)
    result = fit_warm_start(
        load_configuration(
            config, overrides, seed, data, download, imports, no_code, skip_unreadable
        ),
        output=output,
        on_data=display.data,
    )
    if not is_main_process():
        return
    if as_json:
        print_json(result.report.to_dict())
    else:
        display.warm_start(result.report, output)


@app.command()
@interruptible
def select(
    config: ConfigFile,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights that select: a warm start's directory, a .safetensors, a .pt"),
    ] = None,
    as_train: Annotated[
        bool, typer.Option("--as-train", help="The subset that `train` would choose first")
    ] = False,
    copy: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Copy the chosen image files, or rows, there"),
    ] = None,
    link: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Link the chosen image files there")
    ] = None,
    fraction: Annotated[
        str | None, typer.Option(help="Share of the training samples, such as 0.05 or 5%")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many training samples, in place of a share")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another selection in --output")
    ] = False,
    overrides: Overrides = None,
    imports: Imports = None,
    seed: Seed = None,
    output: Output = Path("runs/select"),
    data: Data = None,
    download: Download = False,
    skip_unreadable: SkipUnreadable = False,
    no_code: NoCode = False,
    as_json: AsJson = False,
) -> None:
    """Select one subset: indices and weights, in selection.json, .npz and selected.csv.

    \b
    lipt-cords select mine.yaml --fraction 5% --copy my-images-5-percent
    lipt-cords select table.yaml --samples 150 --copy 150-rows.csv
    lipt-cords select mine.yaml --checkpoint runs/warmstart --set dss_args.type=Stratified
    """
    from lipt_cords.cli.display import show_selection
    from lipt_cords.experiments.select_once import select_once

    display = display_for(as_json)
    if copy is not None and link is not None:
        raise ValueError("--copy and --link both make the folder of the subset: give one of them")
    if fraction is not None and samples is not None:
        raise ValueError("--fraction and --samples both say how many: give one of them")
    if fraction is not None:
        overrides = [*(overrides or []), f"dss_args.fraction={parse_fraction(fraction)}"]
    settings = load_configuration(
        config, overrides, seed, data, download, imports, no_code, skip_unreadable
    )
    made = select_once(
        settings,
        checkpoint=checkpoint,
        as_train=as_train,
        samples=samples,
        folder=copy or link,
        link=link is not None,
        output=output,
        overwrite=overwrite,
        on_data=display.data,
    )
    if made is None:
        return
    if as_json:
        print_json(made.to_dict())
    else:
        show_selection(display, made, output)
        if copy is not None or link is not None:
            what = "rows" if settings.dataset.is_table else "files"
            say(display.console, f"  {copy or link}: {len(made.selection):,} {what}")


@app.command()
@interruptible
@owns_output
def clean(
    config: ConfigFile,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights whose embeddings compare the samples; none without it"),
    ] = None,
    overrides: Overrides = None,
    imports: Imports = None,
    seed: Seed = None,
    output: Output = Path("runs/clean"),
    data: Data = None,
    download: Download = False,
    no_code: NoCode = False,
    skip_unreadable: SkipUnreadable = False,
    as_json: AsJson = False,
) -> None:
    """List the labels that are probably wrong, with a page of the pictures.

    \b
    lipt-cords clean mine.yaml --output runs/clean
    lipt-cords train mine.yaml --set dataset.without=runs/clean/suspects.csv
    """
    from lipt_cords.cli.display import show_suspects
    from lipt_cords.experiments.clean import check_labels, refuse_edited

    display = display_for(as_json)
    settings = load_configuration(
        config, overrides, seed, data, download, imports, no_code, skip_unreadable
    )
    if not is_main_process():
        return
    if output is not None:
        refuse_edited(output)
    found = check_labels(settings, checkpoint=checkpoint, on_data=display.data)
    written = [] if output is None else found.save(output)
    if as_json:
        print_json(found.to_dict())
    else:
        show_suspects(display, found, written)


@app.command()
@interruptible
def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="With the results of one comparison")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Directory for the report; beside the results without it")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the page of what was found, HTML and Markdown.

    \b
    lipt-cords report runs/compare
    lipt-cords report runs/seeds-a runs/seeds-b --output runs/both    one comparison in two parts
    """
    from lipt_cords.experiments.report.page import Report

    where = directories[0] if output is None else output
    with owned(where) if where.is_dir() else nullcontext():  # refused before the work
        made = Report.of(directories)
        written = made.write(where)
    if as_json:
        said = None if made.verdict is None else made.verdict.text
        notes = made.results.notes
        print_json({"written": list(map(str, written)), "verdict": said, "notes": notes})
        return
    console = display_for(False).console
    for line in ([made.verdict.text] if made.verdict else []) + made.results.notes:
        say(console, line)
    for path in written:
        say(console, f"  {path}")


app.command()(interruptible(plan))


@app.command()
@interruptible
def doctor(
    data: Data = None,
    list_names: Annotated[
        bool, typer.Option("--list", help="List all registered names instead")
    ] = False,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation, and show how to install what is missing.

    \b
    lipt-cords doctor --list                       selectors, difficulty scores, ...
    lipt-cords doctor --list --import my_module    with those of a module of yours
    """
    from lipt_cords.base.registry import import_modules
    from lipt_cords.cli.display import show_diagnosis, show_registered
    from lipt_cords.cli.doctor import diagnose, registered

    import_modules(imports or ())
    if list_names:
        names = registered()
        if as_json:
            print_json({"kind": "registered", "names": [asdict(name) for name in names]})
        else:
            show_registered(Console(), names)
        return
    diagnosis = diagnose(data)
    if as_json:
        print_json(diagnosis.to_dict())
    else:
        show_diagnosis(Console(), diagnosis)
    if not diagnosis.healthy:
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Wrong options, data or files end in one red line, never in a traceback.

    Args:
        arguments: the command line without the program's name; None takes the process's.

    Returns:
        0; 1 for a command that found something broken; 2 for a user's error; 130 after Ctrl-C, 143
        after SIGTERM.
    """
    configure_logging()
    keep_freed_memory()
    try:
        code = app(args=arguments, standalone_mode=False)
    except USAGE_ERROR as error:
        error.message = printable(error.message)
        error.show()
        return 2
    except (ValueError, ImportError, OSError) as error:
        logging.getLogger(__name__).debug("the command failed", exc_info=True)
        say_error(str(error))
        return 2
    return code if isinstance(code, int) else 0
