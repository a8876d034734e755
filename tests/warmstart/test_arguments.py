"""Arguments that are wrong at first sight are named before anything is trained."""

from __future__ import annotations

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


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_that_cannot_be_copied() -> None:
    model = nn.utils.weight_norm(nn.Linear(4, 3))
    model(torch.randn(1, 4))
    with pytest.raises(ValueError, match=r"cannot be copied.*parametrizations"):
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
