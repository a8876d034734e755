"""The commands: results on stdout, one red line for a user's error, never a traceback."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from holder import Other
from programs import run_program
from report_material import comparison, runs_of
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lipt_cords.base import ownership
from lipt_cords.base.files import read_json, write_json
from lipt_cords.cli import commands as cli
from lipt_cords.cli.commands import main
from lipt_cords.cli.interruption import kept_in
from lipt_cords.cli.support import configure_logging, program
from lipt_cords.cords.config import RunConfig
from lipt_cords.experiments import compare_runs, run
from lipt_cords.experiments.record import RunRecord

CONFIG = """
dataset: {name: digits, limit: 150}
dataloader: {batch_size: 16}
dss_args:
  type: GLISTER
  fraction: 0.2
  select_every: 2
  selector: fast
  warm_start: {num_workers: 2, common_steps: 2, local_steps: 3, batch_size: 16}
train_args: {num_epochs: 2, device: cpu}
"""

LONG = "a-folder-whose-name-is-longer-than-a-line-of-eighty-columns-" * 2
"""Its path must be shown complete, to be copied."""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_train_resume_and_json(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / LONG)
    assert main(["train", config, "--output", output, "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "GLISTER:" in shown and f"results: {output}/results.json\n" in shown
    results = read_json(Path(output) / "results.json")
    assert results["seed"] == 3 and results["status"] == "ok"
    assert main(["train", config, "--output", output, "--seed", "3", "--resume", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["test_accuracy"] == results["test_accuracy"]
    assert again["costs"]["warmup_passes"] == 128


def test_compare_prints_table_verdict_and_files(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = ["compare", config, "--seeds", "4,5", "--methods", "rs2,lipt"]
    assert main([*command, "--output", str(output), "--set", "train_args.eval_every=2"]) == 0
    shown = capsys.readouterr().out
    assert (
        "seed 4  20\N{NO-BREAK SPACE}%  GLISTER after LiPT test" in shown
    )  # as the table calls it
    assert re.search(r"GLISTER after LiPT +lipt +2 ", shown)  # the plan, with the name to type
    assert "higher than RS2" in " ".join(shown.split())
    assert [run["seed"] for run in read_json(output / "results.json")["runs"]] == [4, 4, 5, 5]
    assert str(output / "report.html") in shown and (output / "report.md").is_file()
    more = [*command, "--output", str(output), "--set", "train_args.eval_every=2", "--dry-run"]
    more[3] = "4,5,6"
    assert main([*more, "--resume"]) == 0  # what is left, and nothing is written
    left = capsys.readouterr().out
    assert "4 of 6 runs are made already." in left and "\n2 runs," in left
    assert main([*more, "--resume", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["kept"] == 4 and {run["seed"] for run in plan["runs"]} == {6}
    assert main([*more[:3], "4,5", *more[4:], "--resume"]) == 0
    nothing = capsys.readouterr().out
    assert "4 of 4 runs are made already." in nothing and "passes" not in nothing
    assert main([*more, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 6
    assert main(["report", str(output), "--output", str(tmp_path / "again"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (tmp_path / "again" / "report.html").read_bytes() == (
        output / "report.html"
    ).read_bytes()
    assert said["verdict"] in " ".join(shown.split())  # one text, in the terminal and on the page
    assert "seeds do not prove it" in said["verdict"] and "One seed" not in str(said["notes"])
    assert main(["report", str(tmp_path)]) == 2
    assert "there are no results in" in capsys.readouterr().err


def test_compare_fails_where_a_run_fails_and_says_which(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlucky(given: RunConfig, **more: Any) -> RunRecord | None:
        if given.train_args.seed == 1:
            raise RuntimeError("out of luck")
        return run.run(given, **more)

    monkeypatch.setattr(compare_runs, "run", unlucky)
    command = ["compare", config, "--methods", "rs2", "--seeds", "0,1"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 1
    assert "failed: rs2, seed 1: RuntimeError: out of luck" in capsys.readouterr().out


def test_warmstart_saves_weights_and_report(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / LONG
    assert main(["warmstart", config, "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "sample-passes on the critical path  80" in shown
    assert f"saved in {output}\n" in shown
    assert (output / "merged.safetensors").is_file()
    assert main(["warmstart", config, "--output", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passes"] == 128


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "The core works." in shown and "digits" in shown
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["healthy"] is True


def test_what_is_logged_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    logging.getLogger("lipt_cords.anything").warning("cannot write /%s/[b]", LONG)
    assert capsys.readouterr().err == f"WARNING  cannot write /{LONG}/[b]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "gone.yaml"], "no configuration file at gone.yaml"),
        (["train", "{config}", "--set", "optimizer.lrr=1"], "Did you mean 'optimizer.lr'"),
        (["train", "{config}", "--set", "optimizer"], "expected section.key=value"),
        (["train", "{config}", "--set", "dss_args.type=GLISTR"], "Did you mean 'GLISTER'"),
        (["train", "{config}", "--set", "dss_args.warm_start.num_workers=0"], "num_workers"),
        (["train", "{config}", "--set", "dss_args.warm_start.density=1.5"], "density"),
        (["train", "{config}", "--set", "dss_args.warm_start.soup=gredy"], "'greedy'"),
        (["train", "{config}", "--output", "{config}"], "found a file"),
        (["select", "{config}", "--output", ""], "expected a directory, received ''"),
        (["train", "{config}", "--resume"], "resuming needs the --output"),
        (["train", "{config}", "--set", "dataset.name=cifar10", "--data", "/nowhere"], "cifar10"),
        (["compare", "{config}", "--seeds", "x"], "--seeds takes a number"),
        (["compare", "{config}", "--seeds", "0"], "--seeds takes a number"),
        (["compare", "{config}", "--methods", "lpt"], "unknown method 'lpt'"),
        (["compare", "{config}", "--seeds", "1,1"], "seeds that repeat"),
        (["compare", "{config}", "--fractions", ","], "--fractions takes a list"),
        (["compare", "{config}", "--fractions", "5%,a"], "--fractions: expected a share"),
        (["compare", "{config}", "--equal", "totl"], "Did you mean 'total'"),
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument"),
    ],
)
def test_user_errors_end_in_one_line(
    config: str,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([argument.format(config=config) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split())
    assert "Traceback" not in captured.err and captured.out == ""


@contextmanager
def step_does(work: Callable[..., None]) -> Iterator[None]:
    """Something happens before every step of torch's optimizers."""
    hook = register_optimizer_step_pre_hook(work)
    try:
        yield
    finally:
        hook.remove()


def test_every_command_refuses_a_directory_that_another_run_owns(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "load_splits", lambda *_: pytest.fail("it has begun to work"))
    monkeypatch.setattr(ownership, "PATIENCE", 0.0)
    output, results = str(tmp_path / "out"), tmp_path / "results"
    results.mkdir()
    write_json(results / "results.json", comparison(runs_of("random", [0.5], 0, 0)))
    with Other(output) as other:
        for words in (
            ["train", config, "--resume"], ["compare", config], ["compare", config, "--jobs", "2"],
            ["warmstart", config], ["select", config], ["demo"], ["report", str(results)],
        ):  # fmt: skip
            assert main([*words, "--output", output]) == 2, words
            said = capsys.readouterr().err
            assert f"{output} is in use by another run (process {other.process.pid} on " in said
            assert said.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [ownership.LOCK]


def test_an_interrupted_command_says_what_is_kept(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(number: int) -> Callable[..., None]:
        return lambda *_: signal.raise_signal(number)

    def interrupted(words: list[str], code: int) -> str:
        handler = signal.getsignal(signal.SIGTERM)
        assert main(words) == code
        assert signal.getsignal(signal.SIGTERM) == handler
        left = [path.name for path in tmp_path.rglob(".lipt-cords*")]
        assert left == []
        shown = capsys.readouterr()
        (line,) = [one for one in shown.err.splitlines() if "lipt-cords: interrupted" in one]
        assert "Traceback" not in shown.err
        return line.removeprefix("lipt-cords: interrupted; ")

    again = ": the same command begins again"
    output = tmp_path / "out"
    train = ["train", config, "--output", str(output)]
    with step_does(stop(signal.SIGTERM)):
        assert interrupted(train, 143) == f"nothing new is kept in {output}{again}"
        warm = ["warmstart", config, "--output", str(tmp_path / "warm")]
        assert interrupted(warm, 143) == f"nothing new is kept in {tmp_path / 'warm'}{again}"
        select = ["select", config, "--output", str(tmp_path / "select")]
        assert interrupted(select, 143) == f"nothing is kept{again}"
    with step_does(stop(signal.SIGINT)):
        assert "give --output" in interrupted(train[:2], 130)
    finished: list[Any] = []

    def stop_in_the_second_worker(*_: Any) -> None:
        finished.extend((tmp_path / "warm").rglob("worker_*.json"))
        if finished:
            signal.raise_signal(signal.SIGINT)

    with step_does(stop_in_the_second_worker):
        one_by_one = ["--set", "dss_args.warm_start.together=1"]
        assert interrupted([*warm, *one_by_one], 130).startswith("finished workers are kept in")
    assert not output.exists()


def test_what_is_kept_is_said_with_the_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["lipt-cords", "train", "my file.yaml"])
    (tmp_path / "checkpoint.pt").touch()
    go_on = "; go on with: lipt-cords train 'my file.yaml'"
    kept = f"the last checkpoint is kept in {tmp_path}{go_on}"
    assert kept_in(tmp_path, "--resume") == f"{kept} --resume"
    assert kept_in(tmp_path, "") == kept
    (tmp_path / "checkpoint.pt").unlink()
    write_json(tmp_path / "results.json", comparison(runs_of("random", [0.5], 0, 0)))
    sys.argv.append("--resume")
    assert kept_in(tmp_path, "--resume") == (
        f"1 finished run is kept in {tmp_path}{go_on} --resume"
    )
    (tmp_path / "results.json").write_text("{")
    assert kept_in(tmp_path, "--resume").startswith(f"nothing new is kept in {tmp_path}: ")


def test_a_command_to_type_next_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "lipt-cords"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(script)])
    monkeypatch.setenv("PATH", "")
    assert program() == [str(script)]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == ["lipt-cords"]
    monkeypatch.setattr("sys.argv", [str(tmp_path / "__main__.py")])
    assert program() == [sys.executable, "-m", "lipt_cords"]


def test_programming_errors_are_not_swallowed(config: str) -> None:
    def end(*_: object) -> None:
        raise ZeroDivisionError

    with step_does(end), pytest.raises(ZeroDivisionError):
        main(["train", config])


def test_ranks_other_than_the_first_are_silent(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    done = run_program("-m", "lipt_cords", "train", config, "--output", output, ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("GLISTER:") == 1
    results = read_json(output / "results.json")
    assert results["warm_start"]["ranks"] == 2
    assert results["costs"]["warmup_bytes"] > 0


def test_a_configuration_that_is_code_is_announced_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text("config = dict(modl=dict())")
    assert main(["train", str(path), "--no-code"]) == 2
    assert "is Python, which would be executed" in capsys.readouterr().err
    assert main(["train", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"note: {path} is Python and is executed; --no-code reads .yaml alone"
    plain = tmp_path / "plain.yaml"
    plain.write_text("dataset: {name: digits}")
    for command in ("train", "compare", "warmstart", "select", "plan"):
        executing = ["--import", "json.tool"], ["--set", "imports=[json.tool]"]
        for words in executing:
            budget = ["--budget", "1GiB"] if command == "plan" else []
            assert main([command, str(plain), "--no-code", *words, *budget]) == 2
            assert "names 'json.tool', whose code would be executed" in capsys.readouterr().err
        assert main([command, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "--no-code" in shown and "whose code is executed" in shown.replace(" │ │ ", " ")


@pytest.mark.parametrize("evil", ["\x1b[2Jx", "\x9b2J", "a\u202eb", "\udcff"])
def test_nothing_that_is_shown_steers_the_terminal(
    evil: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["report", str(tmp_path / evil)], ["train", evil], [evil], ["train", config, "--set", evil],
        ["select", config, "--checkpoint", evil], ["compare", config, "--methods", evil],
        ["doctor", "--list", "--import", evil], ["train", config, f"--{evil}"],
        ["train", config, "--output", config + "/" + evil],
    ):  # fmt: skip
        assert main(words) == 2, words
        shown = capsys.readouterr()
        assert not set(evil) & set("\x1b\x9b\u202e\udcff") & set(shown.err + shown.out), words


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("demo", "train", "compare", "warmstart", "doctor"):
        assert command in shown
    assert cli.app.info.name == "lipt-cords"
