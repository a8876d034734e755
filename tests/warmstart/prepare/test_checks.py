"""Arguments that are wrong at first sight are named before anything is trained."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from torch import nn

from lipt_cords import LiPTWarmStart, WarmStartConfig

DATA = torch.utils.data.TensorDataset(torch.randn(30, 4), torch.arange(30) % 3)


def fit(model: nn.Module | None = None, **arguments: Any) -> Any:
    warm_start = LiPTWarmStart(num_workers=3, local_steps=2, common_steps=1, launch="serial")
    return warm_start.fit(nn.Linear(4, 3) if model is None else model, DATA, **arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"loss": "ce"}, "loss must be None, a torch loss or a callable .* received 'ce'"),
        ({"loss": lambda logits, labels: "no"}, "must return a tensor.* received str"),
        ({"num_classes": "3"}, "num_classes must be a whole number or None, received '3'"),
        ({"num_classes": True}, "num_classes must be a whole number"),
        ({"shards": 5}, "shards must be a sequence of indices for every worker, received 5"),
        ({"shards": [None] * 3}, "shard of worker 0 must be whole numbers, received None"),
        ({"shards": ["a", "b", "c"]}, "shard of worker 0 must be whole numbers"),
        ({"shards": [[0], [[1, 2], [3]], [4]]}, "shard of worker 1 must be whole numbers"),
    ],
)
def test_what_fit_refuses(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit(**arguments)


def test_inference_mode() -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        fit()
    with torch.no_grad():
        assert fit().report.passes > 0


def test_a_model_that_cannot_be_copied() -> None:
    model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Linear(4, 3))
    for held in (threading.Lock(), (one for one in "ab"), sys):
        model[0].held = held  # type: ignore[assignment]
        with pytest.raises(ValueError, match=r"cannot be copied.*: 0\.held \("):
            fit(model)


def test_an_infinite_buffer_is_named() -> None:
    model = nn.Linear(4, 3)
    model.register_buffer("mask", torch.tensor([float("-inf"), 0.0]))
    with pytest.raises(ValueError, match="'mask'.*persistent=False"):
        fit(model)
    model = nn.Linear(4, 3)
    model.register_buffer("mask", torch.tensor([float("-inf"), 0.0]), persistent=False)
    assert fit(model).report.passes > 0


def test_options_in_every_form() -> None:
    assert LiPTWarmStart("lipt").config == WarmStartConfig()
    assert LiPTWarmStart({"num_workers": 2}).config.num_workers == 2
    assert LiPTWarmStart(device=torch.device("cpu")).config.device == "cpu"
    for wrong in (5, "lpt", "none", {"num_worker": 2}):
        with pytest.raises(ValueError, match=r"warm_start|warm start|type|num_workers"):
            LiPTWarmStart(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_workers": True}, "WarmStartConfig.num_workers: expected a number, received True"),
        ({"together": True}, "together: expected a number, received True"),
        ({"compile": "yes"}, "compile: expected True or False, received 'yes'"),
        ({"work_dir": ""}, "work_dir: expected a directory"),
        ({"epochs": 1e300}, "epochs"),
        ({"rounds": 9, "local_steps": 2}, "^WarmStartConfig: rounds"),
    ],
)
def test_options_in_disguise(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        WarmStartConfig(**options)


def test_more_rounds_than_steps() -> None:
    warm_start = LiPTWarmStart(num_workers=3, epochs=1, batch_size=4, rounds=9)
    with pytest.raises(ValueError, match=r"rounds \(9\) exceeds the 3 steps .* 10 samples"):
        warm_start.fit(nn.Linear(4, 3), DATA)


def test_an_option_that_would_do_nothing() -> None:
    with pytest.raises(ValueError, match="outer_lr does nothing with outer='average'"):
        WarmStartConfig(outer="average", outer_lr=0.7, rounds=2)
    assert repr(LiPTWarmStart(seed=3, num_workers=2)) == "LiPTWarmStart(num_workers=2, seed=3)"


SCRIPTS = {
    "without a guard": (
        "fit()", "put the call under `if __name__ == '__main__':`, or set launch='serial'",
    ),
    "from standard input": (
        "if __name__ == '__main__': fit()", "<stdin> is not a file: save the script",
    ),
}  # fmt: skip
SCRIPT = """
import torch
from lipt_cords import LiPTWarmStart
def fit():
    data = torch.utils.data.TensorDataset(torch.randn(30, 4), torch.arange(30) % 3)
    try:
        LiPTWarmStart(num_workers=2, processes=2).fit(torch.nn.Linear(4, 3), data)
    except ValueError as error:
        print(error)
"""


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_that_processes_cannot_import_is_told_before_they_start(kind, tmp_path) -> None:
    call, wanted = SCRIPTS[kind]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + call)
    by_name = kind == "without a guard"
    done = subprocess.run(
        [sys.executable, *([str(script)] if by_name else ["-"])],
        input=None if by_name else SCRIPT + call, capture_output=True, text=True,
    )  # fmt: skip
    assert wanted in done.stdout and len(done.stdout.splitlines()) == 1
