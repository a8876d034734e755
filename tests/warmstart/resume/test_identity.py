"""A run's hash changes with all that its weights depend on, and with nothing else."""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import json
import linecache
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from warmstart_material import make_images, make_net

import lipt_cords
from lipt_cords.models.state import digest, tensor_state
from lipt_cords.training.optimizers import OPTIMIZERS, register_optimizer
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.codecs import CODECS, register_codec
from lipt_cords.warmstart.merge.soup import SOUPS
from lipt_cords.warmstart.resume import identity
from lipt_cords.warmstart.resume.identity import complete_description, describe_run, hash_of
from lipt_cords.warmstart.warm_start import LiPTWarmStart
from lipt_cords.warmstart.watch.stop_rule import StopRule

ROOT = Path(lipt_cords.__file__).parent
CPU = torch.device("cpu")
LABELS = torch.arange(60) % 4
SHARDS = [torch.arange(0, 30), torch.arange(30, 60)]
START = {
    "rounds": 2, "local_steps": 8, "outer": "average", "sparsity": "magnitude",
    "optimizer": "sgd", "lr": 0.2, "momentum": 0.6, "weight_decay": 1e-3,
}  # fmt: skip
RELATED = {
    "merge_schedule": "qsr", "rest": "adamw", "rest_lr": 0.2,
    "optimizer": "another optimizer", "codec": "another codec",
    "num_workers": 3, "epochs": 2.0, "local_steps": 9, "shard_fraction": 0.5, "common_steps": 7,
    "batch_size": 32, "lr": 0.1, "schedule": "cosine", "momentum": 0.5, "weight_decay": 0.0,
    "ema": 0.9, "rounds": 3, "outer": "nesterov", "outer_lr": 0.5, "outer_momentum": 0.5,
    "stop_when": {"benefit": 0.1}, "probe_samples": 99, "probe_every": 2, "sparsity": "snip",
    "densities": "erk", "density": 0.5, "prune_after": 0.5, "augmentation": "randaugment",
    "subnetwork": {"lengths": (2, 4)}, "early_bird": {"ratio": 0.2},
    "num_ops": 3,
    "magnitude": 3, "soup": "weighted", "batchnorm_refresh": "never", "refresh_samples": 9,
    "head": "6", "threads": 2, "precision": "bf16", "memory_format": "contiguous",
    "compile": True, "together": 2, "loader_workers": 1, "seed": 1,
    "log_samples": True,  # changes no weights, but what is stored
}  # fmt: skip
UNRELATED = {
    "device": "cpu", "progress": True, "work_dir": "elsewhere", "launch": "processes",
    "processes": 2, "max_restarts": 1, "min_workers": 2, "worker_timeout": 9.0,
    "join_timeout": 9.0, "keep_workers": True, "start_from": "initial",
    "memory_budget": 2**30, "memory_bandwidth": 1e9,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def other_names():
    """Kinds of which the package has one name get a second one."""
    register_codec("another codec")(lambda origin, members, wire: origin)
    register_optimizer("another optimizer")(lambda parameters, options: None)
    yield
    CODECS.unregister("another codec")
    OPTIMIZERS.unregister("another optimizer")


def imported_by(start):
    """Files of the package that one of them imports, and what those import, as it is written."""
    seen, left = set(), [start]
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lipt_cords."):
                path = node.module.removeprefix("lipt_cords.").replace(".", "/")
                places = [f"{path}.py", f"{path}/__init__.py"]
                places += [f"{path}/{alias.name}.py" for alias in node.names]
                left += [place for place in places if (ROOT / place).exists()]
    return seen


def described(model=None, samples=60, where=CPU, labels=LABELS, shards=SHARDS, **options):
    config = WarmStartConfig(**{**START, **options})
    model = model or make_net()
    weights = digest(tensor_state(model))[:16]
    return complete_description(
        describe_run(config, model, samples, where), weights, labels, shards
    )


def hashed(*arguments, **options):
    return hash_of(described(*arguments, **options))


def test_every_option_is_either_part_of_the_run_or_not():
    assert RELATED.keys() | UNRELATED.keys() | {"type"} == WarmStartConfig.model_fields.keys()
    assert UNRELATED.keys() == identity.UNRELATED


def test_the_same_run_has_the_same_hash_and_survives_json():
    assert hashed() == hashed()
    again = json.loads(json.dumps(described(stop_when=StopRule(class_cosine=0.9))))
    assert again == described(stop_when={"class_cosine": 0.9})
    assert hash_of(again) == hashed(stop_when={"class_cosine": 0.9})


@pytest.mark.parametrize("option", RELATED)
def test_options_that_change_the_weights_change_the_hash_and_are_named(option):
    base = {"outer": "nesterov"} if option.startswith("outer_") else {}
    base |= {"optimizer": "muon"} if option.startswith("rest") else {}
    one, other = described(**base), described(**base, **{option: RELATED[option]})
    assert [name for name in one if one[name] != other[name]] == [option]
    assert hash_of(one) != hash_of(other)


def test_options_of_how_and_where_do_not():
    assert hashed(**UNRELATED) == hashed()


def changed_net(name):
    model = make_net()
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] += 1
    return model


@pytest.mark.parametrize("name", ["0.weight", "1.running_var", "1.num_batches_tracked", "6.bias"])
def test_initial_weights_and_buffers_count(name):
    one, other = described(), described(changed_net(name))
    assert [key for key in one if one[key] != other[key]] == ["initial weights"]


def frozen():
    model = make_net()
    model[0].weight.requires_grad_(False)
    return model


def smooth():
    model = make_net()
    model[2] = nn.GELU()
    return model


@pytest.mark.parametrize(
    "other",
    [
        lambda: make_net(classes=5),
        lambda: make_net().double(),
        lambda: nn.Sequential(*list(make_net())[:-1], nn.Identity(), make_net()[-1]),
        lambda: make_net(dropout=0.3),
        smooth,
        frozen,
    ],
    ids=["classes", "dtype", "names", "dropout", "activation", "frozen"],
)
def test_the_architecture_counts(other):
    assert described()["architecture"] != described(other())["architecture"]


def test_data_and_shards_count():
    swapped = LABELS.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    moved = [torch.arange(0, 29), torch.arange(29, 60)]
    for options in (
        {"labels": swapped},
        {"shards": moved},
        {"shards": SHARDS[::-1]},
        {"samples": 61},
        {"where": torch.device("cuda")},
    ):
        assert hashed(**options) != hashed()
    assert hashed(where=torch.device("cpu", 0)) == hashed()


def test_another_version_of_torch_is_another_run(monkeypatch):
    before = hashed()
    monkeypatch.setattr(torch, "__version__", "0.1")
    assert hashed() != before


def test_of_this_package_what_decides_bits_is_the_run_and_nothing_else():
    """Everything that the loop imports is either hashed, or listed here with its reason."""
    passive = {
        # how things fail, are written, sized and asked for
        "base/__init__.py", "base/errors.py", "base/files.py", "base/tensor_files.py",
        "base/locks.py", "base/options.py", "base/sizes.py", "base/ownership.py",
        "base/printable.py", "base/seal.py", "base/registry.py", "base/differences.py",
            "base/listing.py",
        "training/__init__.py",
        # plans of memory, with the bits of plain training
        *(f"training/memory/{path.name}" for path in (ROOT / "training/memory").glob("*.py")),
        # options, which are compared one by one; what is said and shown
        "warmstart/__init__.py", "warmstart/config.py", "warmstart/report.py",
        "warmstart/progress.py", "warmstart/watch/__init__.py", "warmstart/watch/watcher.py",
        # messages between ranks, which are of one version
        "base/messages.py",
        *(
            f"warmstart/ranks/{path.name}"
            for path in (ROOT / "warmstart/ranks").glob("*.py")
            if path.name not in ("ranks.py", "exchange.py")  # which add up
        ),
    }  # fmt: skip
    hashed_files = {
        path.relative_to(ROOT).as_posix()
        for part in identity.DECIDES_BITS
        for path in ([ROOT / part] if part.endswith(".py") else (ROOT / part).rglob("*.py"))
    }
    assert all((ROOT / part).exists() for part in identity.DECIDES_BITS)
    assert imported_by("warmstart/lipt.py") - passive <= hashed_files
    assert not passive & hashed_files
    outside = ("cli", "experiments", "cords", "selectors", "warmstart/bill.py", "report.py")
    assert not [name for name in hashed_files if name.startswith(outside)]


def test_a_file_of_the_user_that_the_options_name_is_part_of_the_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "module_with_a_soup.py"
    words = "from lipt_cords.warmstart.merge.soup import register_soup\n" + (
        "@register_soup('soup of a file')\ndef all_of_them(workers):\n    return [0, {}]\n"
    )
    module.write_text(words.format(1))
    importlib.import_module("module_with_a_soup")
    try:
        one = described(soup="soup of a file")
        assert "code of module 'module_with_a_soup'" in one
        module.write_text(words.format(2))
        linecache.clearcache()
        other = described(soup="soup of a file")
        assert [name for name in one if one[name] != other[name]] == [
            "code of module 'module_with_a_soup'"
        ]
    finally:
        SOUPS.unregister("soup of a file")


@pytest.mark.parametrize(
    ("changed", "differing"),
    [
        ("models/nets.py", {"code of the warm start"}),
        ("warmstart/workers/worker.py", {"code of the warm start"}),
        ("cli/commands.py", set()),
        ("experiments/report/page.py", set()),
    ],
)
def test_code_that_decides_no_bits_is_not_part_of_the_run(changed, differing, tmp_path):
    """In a copy of the package, whose module of identities is loaded on its own."""
    root = Path(lipt_cords.__file__).parent
    shutil.copytree(root, tmp_path / root.name, ignore=shutil.ignore_patterns("__pycache__"))
    copied = tmp_path / root.name / Path(identity.__file__).relative_to(root)

    def described_there():
        spec = importlib.util.spec_from_file_location("copied_identity", copied)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.describe_run(WarmStartConfig(), make_net(), 60, torch.device("cpu"))

    here = describe_run(WarmStartConfig(), make_net(), 60, torch.device("cpu"))
    assert described_there() == here
    with (tmp_path / root.name / changed).open("a") as source:
        source.write("\n# another version\n")
    there = described_there()
    assert {name for name in here if here[name] != there[name]} == differing


def test_where_the_weights_lie_and_the_models_mode_do_not_count():
    model = copy.deepcopy(make_net()).eval().to(memory_format=torch.channels_last)
    assert hashed(model) == hashed()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, "loss is"),
        ({"val_dataset": make_images(60, seed=1)}, "size of the held-out data is 80 there and 60"),
    ],
)
def test_another_loss_or_held_out_set_is_another_run(tmp_path, other, named):
    warm = LiPTWarmStart(num_workers=2, local_steps=1, common_steps=1, work_dir=tmp_path)
    given = {"model": make_net(), "train_dataset": make_images(40), "val_dataset": make_images(80)}
    warm.fit(**given)
    with pytest.raises(ValueError, match=f"belongs to another run .*{named}"):
        warm.fit(**{**given, **other})
