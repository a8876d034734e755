"""CORDS's configuration schema: its own spellings load, and every mistake is named."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from lipt_cords.cords.config import RunConfig, apply_override, load_config
from lipt_cords.cords.strategies import split_strategy

# The keys and values of CORDS's CIFAR-10 examples, per strategy; the other sections are shared.
COMMON = """
config = dict(setting="SL", is_reg=False,
    dataset=dict(name="cifar10", datadir="../data", feature="dss", type="image"),
    dataloader=dict(shuffle=True, batch_size=128, pin_memory=True),
    model=dict(architecture="ResNet18", type="pre-defined", numclasses=10),
    ckpt=dict(is_load=False, is_save=True, dir="results/", save_every=20),
    loss=dict(type="CrossEntropyLoss", use_sigmoid=False),
    optimizer=dict(type="sgd", momentum=0.9, lr=0.05, weight_decay=5e-4, nesterov=True),
    scheduler=dict(type="cosine_annealing", T_max=300, stepsize=20, gamma=0.1),
    dss_args=dict({dss}),
    train_args=dict(num_epochs=300, device="cuda", print_every=10, run=1, wandb=False,
        results_dir="results/", print_args=["trn_loss", "tst_acc", "time"], return_args=[]))
"""
GLISTER = "linear_layer=False, greedy='Stochastic'"
GRADMATCH = "lam=0.5, v1=True, valid=False, eps=1e-100, linear_layer=True"
CRAIG = "linear_layer=False, if_convex=False, optimizer='lazy'"
KEYS = {"GLISTER": GLISTER, "GradMatch": GRADMATCH, "CRAIG": CRAIG}
YAML = """
setting: "supervisedlearning"
dataset: {name: "cifar10", datadir: "../../data", feature: "dss", type: "pre-defined"}
dataloader: {shuffle: True, batch_size: 20, pin_memory: True}
model: {architecture: "ResNet18", numclasses: 10, type: "pre-defined"}
ckpt: {is_load: False, is_save: True, dir: 'results/', save_every: 20}
loss:
  name: "CrossEntropyLoss"
optimizer: {type: "sgd", momentum: 0.9, lr: 0.01, weight_decay: 5.e-04}
scheduler: {type: "cosine_annealing", T_max: 300}
dss_strategy:
  type: "GradMatchPB"
  fraction: 0.1
  select_every: 20
train_args: {num_epochs: 300, device: "cuda", print_every: 10, results_dir: 'results/'}
"""


@pytest.mark.parametrize("strategy", sorted(KEYS))
@pytest.mark.parametrize("ending", ["", "-Warm", "PB", "PB-Warm"])
def test_cords_python_examples_load(tmp_path: Path, strategy: str, ending: str) -> None:
    kappa = 0.5 if ending.endswith("-Warm") else 0
    dss = f"type='{strategy}{ending}', fraction=0.1, select_every=20, kappa={kappa}"
    path = tmp_path / "config.py"
    path.write_text(COMMON.format(dss=f"{dss}, {KEYS[strategy]}, collate_fn=None"))
    config = load_config(path)
    assert config.dss_args.strategy == strategy
    assert config.dss_args.kappa == kappa
    per_batch = config.dss_args.selection_type == "PerBatch"
    assert per_batch == ("PB" in ending)
    assert config.optimizer.nesterov and config.scheduler.T_max == 300


def test_cords_yaml_example_loads(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(YAML)
    config = load_config(path)
    assert config.dss_args.type == "GradMatchPB"
    assert config.dss_args.selection_type == "PerBatch"
    assert config.loss.type == "CrossEntropyLoss"
    assert config.optimizer.weight_decay == 5e-4


def test_a_short_file_is_enough_and_overrides_come_first(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("dss_args: {type: GLISTER, warm_start: lipt}\n")
    config = load_config(
        path,
        ["optimizer.lr=1e-2", "dss_args.warm_start.num_workers=4", "loss.name=CrossEntropyLoss"],
    )
    assert config.dataset.name == "digits"
    assert config.optimizer.lr == 0.01
    assert config.dss_args.warm_start is not None
    assert config.dss_args.warm_start.num_workers == 4


def test_an_empty_file_is_the_default_run(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("{}\n")
    assert load_config(path) == RunConfig()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"optimiser": {}}, r"section 'optimiser'.*Did you mean 'optimizer'"),
        ({"optimizer": {"momentm": 0.9}}, r"'optimizer\.momentm'.*'optimizer\.momentum'\?"),
        ({"dss_args": {"fracton": 0.1}}, r"'dss_args\.fracton'.*'dss_args\.fraction'\?"),
        ({"dss_args": {"type": "GLISTR"}}, r"dss_args\.type 'GLISTR'.*Did you mean 'GLISTER'"),
        ({"dss_args": {"type": "MILO"}}, r"unknown strategy in dss_args\.type 'MILO'"),
        ({"dss_args": {"fraction": 0}}, r"dss_args\.fraction: expected a share .* above 0"),
        (
            {"dss_args": {"fraction": 150}},
            r"fraction: .* received 150 \(150 of 3,000 .* are 0.05\)",
        ),
        ({"dataset": {"val_fraction": "half"}}, r"dataset\.val_fraction: expected a share"),
        ({"dss_args": {"fraction": "0,05"}}, r"a share such as 0.05 or 5%.* received '0,05'"),
        ({"dss_args": {"warm_start": "lpt"}}, r"dss_args\.warm_start: .*Did you mean 'lipt'"),
        (
            {"dss_args": {"warm_start": {"num_worker": 2}}},
            r"dss_args\.warm_start: .*'num_worker'.*'num_workers'",
        ),
        ({"optimizer": {"lr": "fast"}}, r"optimizer\.lr: .*valid number.*'fast'"),
        ({"train_args": {"device": "gpu"}}, r"unknown device 'gpu'"),
        ({"setting": "SSL"}, r"unknown setting 'SSL'"),
        ({"is_reg": True}, r"regression is not supported"),
        ({"dataset": "cifar10"}, r"expected a mapping at dataset"),
        ({"dss_args": {}, "dss_strategy": {}}, r"keep one"),
        ({"dataset": {"feature": "classimb"}}, r"dataset\.feature: .*'dss'"),
    ],
)
def test_mistakes_are_named(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.parse(mapping)


@pytest.mark.parametrize("override", ["optimizer.lr", "=3", "a..b=3"])
def test_malformed_overrides(override: str) -> None:
    with pytest.raises(ValueError, match=r"expected section\.key=value"):
        apply_override({}, override)


def test_an_override_into_a_plain_value() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.lr is the value 0\.1, not a mapping"):
        apply_override({"optimizer": {"lr": 0.1}}, "optimizer.lr.x=3")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.yaml", None, "no configuration file"),
        ("config.json", "{}", r"expected a \.yaml, \.yml or \.py"),
        ("broken.yaml", "a: [", "not a readable YAML"),
        ("list.yaml", "- a", "expected sections"),
        ("broken.py", "config = dict(", "stops with SyntaxError"),
        ("exits.py", "raise SystemExit(2)", "stops with SystemExit"),
        ("other.py", "settings = {}", "defines no `config`"),
        ("wrong.yaml", "optimizer: {lr: -1}", r"wrong\.yaml: optimizer\.lr"),
        ("empty.yaml", "", "expected sections .* found nothing"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(path)
    assert name in str(caught.value)


def test_updated_keeps_what_was_given() -> None:
    config = RunConfig.parse({"dss_args": {"warm_start": {"num_workers": 3}, "kappa": 0.1}})
    again = config.updated(train_args={"seed": 5})
    assert again.train_args.seed == 5
    assert again.dss_args == config.dss_args
    assert RunConfig.parse(again.given()) == again
    assert RunConfig.parse(again.to_dict()).to_dict() == again.to_dict()


def test_strategies_come_apart() -> None:
    assert split_strategy("craigpb-warm") == ("CRAIG", True, True)
    assert split_strategy("AdaptiveRandom") == ("AdaptiveRandom", False, False)
    warm = RunConfig.parse({"dss_args": {"type": "GLISTER-Warm"}})
    assert warm.dss_args.kappa == 0.5


def test_a_wrong_option_of_the_warm_start_is_said_once() -> None:
    with pytest.raises(ValueError, match="num_workers") as caught:
        RunConfig.parse({"dss_args": {"warm_start": {"num_workers": 0}}})
    assert str(caught.value).count("received") == 1


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 990 + "]" * 990, r"nested more than 40 levels deep \(line 1, column 43\)"),
        ("a: " + "[" * 200_000, "nested more than 40 levels deep"),
        ("a: " + "{b: " * 990, "nested more than 40 levels deep"),
        ("- " * 5000, "nested more than 40 levels deep"),
        (BOMB + "dss_args: {options: *i}", r"more than 20,000 values, aliases followed \(line 5"),
        (f"dss_args:\n  options: {{<<: [{', '.join(['*a'] * 3)}]}}", "undefined alias"),
        ("a: &a [1, *a]", r"the alias \*a stands inside of what it names \(line 1, column 11\)"),
        ("model: {a: 1}\nmodel: {a: 2}", r"the key 'model' is there twice \(line 2, column 1\)"),
        ("model: {a: 1, a: 1}", "the key 'a' is there twice"),
        ("a: 1" + "0" * 399, r"an integer of 400 characters \(line 1, column 4\)"),
        ("a: 1" + "0" * 9999, "an integer of 10000 characters"),
        ("a: 2020-99-99", r"no timestamp: month must be in 1..12"),
        ("a: !!int x", "no int: invalid literal"),
        ("a: !!float x", "no float: could not convert"),
        ("a: !!binary 'ä'", "failed to convert base64|no binary"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: [1", r"expected ',' or ']'.*line 1|while parsing"),
        ("? [a]\n: b", "unhashable key"),
        ("a: \x00", "unacceptable character"),
        ("a: x\n" * 300_000, "characters: expected at most 1,000,000"),
        ("\n".join(f"k{n}: x" for n in range(30_000)), "more than 20,000 values"),
    ],
)
def test_yaml_that_never_ends_or_says_two_things_is_refused_with_its_place(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        load_config(path)
    assert str(path) in str(refused.value) and len(str(refused.value)) < 1000
    if "\n" not in text:
        with pytest.raises(ValueError, match="the value of dss_args.options is not YAML"):
            load_config(_short(tmp_path), [f"dss_args.options={text}"])


def _short(folder: Path) -> Path:
    path = folder / "short.yaml"
    path.write_text("dataset: {name: digits}")
    return path


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("dataset: {name: 'größe'}".encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"latin\.yaml is not a readable YAML .*'utf-8' codec.*Save it as UTF-8"
    ):
        load_config(path)
    path.write_bytes("\ufeffdataset: {name: digits}".encode())
    assert load_config(path).dataset.name == "digits"
    path.write_bytes(b" " * 4_000_001)
    with pytest.raises(ValueError, match="4,000,001 bytes"):
        load_config(path)


def test_a_long_wrong_value_is_shortened() -> None:
    with pytest.raises(ValueError, match="optimizer.lr: ") as refused:
        RunConfig.parse({"optimizer": {"lr": list(range(10_000))}})
    assert len(str(refused.value)) < 500


def test_aliases_of_a_fair_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "fair.yaml"
    path.write_text(
        "dataset: &d {name: digits}\nmodel: {architecture: cnn}\ntrain_args: {<<: {}}\n"
    )
    assert load_config(path).dataset.name == "digits"


def test_without_code_only_plain_yaml_is_read(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    python = tmp_path / "mine.py"
    python.write_text(f"open({str(mark)!r}, 'w')\nconfig = dict()\n")
    with pytest.raises(ValueError, match=r"mine\.py is Python, which would be executed"):
        load_config(python, code=False)
    assert not mark.exists()
    load_config(python)
    assert mark.exists()
    path = _short(tmp_path)
    assert load_config(path, code=False) == load_config(path)
    with pytest.raises(ValueError, match="names 'mine', whose code would be executed: leave it"):
        load_config(path, code=False, imports=["mine"])
    with pytest.raises(ValueError, match="names 'mine', whose code would be executed"):
        load_config(path, ["imports=[mine]"], code=False)
    path.write_text("imports: [mine]")
    with pytest.raises(ValueError, match="names 'mine', whose code would be executed"):
        load_config(path, code=False)
    assert load_config(path, ["imports=[]"], code=False).imports == ()
