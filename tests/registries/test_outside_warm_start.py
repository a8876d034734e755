"""Extensions of a warm start from outside: one file each, used in every way."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from programs import run_program
from warmstart_material import make_images, make_net

from lipt_cords import LiPTWarmStart, average_weights, train_on_subset
from lipt_cords.base.registry import REGISTRIES, foreign_modules, import_modules
from lipt_cords.cli.commands import main
from lipt_cords.cords.config import RunConfig
from lipt_cords.data import DATASET_NAMES, register_dataset
from lipt_cords.data.datasets import DATASET_LINES
from lipt_cords.models import register_model
from lipt_cords.training import register_optimizer
from lipt_cords.warmstart import register_codec, register_outer, register_soup, register_sparsity
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.codecs import exact

SUPPORT = Path(__file__).parents[1] / "support"
KINDS = {
    "sparsity": ("outside_sparsity", "filters"),
    "soup": ("outside_soup", "lowest loss"),
    "optimizer": ("outside_optimizer", "sign-sgd"),
    "codec": ("outside_codec", "half"),
    "outer": ("outside_rest", "half way"),
    "augmentation": ("outside_rest", "mirror"),
}
WARM = {"num_workers": 4, "common_steps": 2, "local_steps": 4, "batch_size": 16}
QUIET = {"launch": "serial", "device": "cpu", "progress": False}


@pytest.fixture(autouse=True)
def not_registered():
    """Every test begins and ends with the package's own names."""
    before = {kind: set(registry.names()) for kind, registry in REGISTRIES.items()}
    yield
    for kind, registry in REGISTRIES.items():
        for name in set(registry.names()) - before[kind]:
            registry.unregister(name)
    for module in {module for module, _ in KINDS.values()}:
        sys.modules.pop(module, None)


def mapping(option, name, **more):
    return {
        "dataset": {"name": "digits", "limit": 150},
        "model": {"architecture": "cnn"},
        "dss_args": {"type": "Random", "fraction": 0.2, "warm_start": {**WARM, option: name}},
        "train_args": {"num_epochs": 2, "device": "cpu"},
        "dataloader": {"batch_size": 16},
        **more,
    }


def fit(train, val=None, **options):
    return LiPTWarmStart(**{**WARM, **QUIET, **options}).fit(make_net(), train, val)


@pytest.mark.parametrize("module", sorted({module for module, _ in KINDS.values()}))
def test_each_is_one_short_file(module):
    assert len((SUPPORT / f"{module}.py").read_text().splitlines()) <= 20


@pytest.mark.parametrize("option", KINDS)
def test_in_python(option, train, val):
    module, name = KINDS[option]
    with pytest.raises(ValueError, match=rf"{name}.*imports: \[MODULE\].*--import MODULE"):
        WarmStartConfig(**{option: name})
    import_modules([module])
    plain, mine = fit(train, val, rounds=2), fit(train, val, rounds=2, **{option: name})
    assert torch.isfinite(torch.cat([v.float().flatten() for v in mine.state_dict.values()])).all()
    assert any(not plain.state_dict[key].equal(mine.state_dict[key]) for key in plain.state_dict)
    again = fit(train, val, rounds=2, **{option: name})
    assert all(again.state_dict[key].equal(value) for key, value in mine.state_dict.items())


@pytest.mark.parametrize("option", KINDS)
def test_in_yaml_and_on_the_command_line(option, tmp_path, capsys):
    module, name = KINDS[option]
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(mapping(option, name)))
    command = ["warmstart", str(path), "--json"]
    assert main([*command, "--output", str(tmp_path / "no")]) == 2
    said = capsys.readouterr().err
    assert name in said and "imports: [MODULE]" in said and "--import MODULE" in said
    assert not (tmp_path / "no").exists()
    assert main([*command, "--import", module, "--output", str(tmp_path / "one")]) == 0
    by_option = json.loads(capsys.readouterr().out)
    path.write_text(json.dumps(mapping(option, name, imports=[module])))
    assert main([*command, "--output", str(tmp_path / "two")]) == 0
    by_key = json.loads(capsys.readouterr().out)
    assert by_option["passes"] == by_key["passes"] > 0
    assert by_option["merged_accuracy"] == by_key["merged_accuracy"]


def test_doctor_lists_what_there_is(capsys):
    asked = [item for module, _ in KINDS.values() for item in ("--import", module)]
    assert main(["doctor", "--list", *asked]) == 0
    shown = capsys.readouterr().out
    for module, name in KINDS.values():
        assert name in shown and module in shown
    assert "Keeps the filters of the largest norm." in shown
    assert set(DATASET_LINES) == {*DATASET_NAMES, "imagefolder:DIR", "table:FILE"}
    assert all(name in shown for name in DATASET_LINES)


@pytest.mark.parametrize("processes", [2])
def test_processes_import_what_the_options_name(processes, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(SUPPORT)!r}]\n"
        "import outside_soup, outside_sparsity\n"
        "from test_material import fit\n"
        "if __name__ == '__main__':\n"
        "    one = fit(launch='serial')\n"
        f"    two = fit(launch='processes', processes={processes})\n"
        "    same = all(two.state_dict[k].equal(v) for k, v in one.state_dict.items())\n"
        "    print('same bits' if same else 'other bits', two.report.ranks)\n"
    )
    (tmp_path / "test_material.py").write_text(
        "from warmstart_material import make_images, make_net\n"
        "from lipt_cords import LiPTWarmStart\n"
        "def fit(**options):\n"
        "    return LiPTWarmStart(num_workers=4, common_steps=2, local_steps=4, batch_size=16,\n"
        "        device='cpu', threads=1, progress=False, soup='best pair', sparsity='filters',\n"
        "        **options).fit(make_net(), make_images(160), make_images(80, seed=1))\n"
    )
    root = Path(__file__).parents[2]
    done = run_program(script, PYTHONPATH=f"{root}:{SUPPORT}:{tmp_path}")
    assert "same bits 2" in done.stdout, done.stderr


def test_a_generator_tries_soups_and_the_rest_are_left_out(train, val):
    import_modules(["outside_soup"])
    result = fit(train, val, soup="best pair", keep_workers=True, batchnorm_refresh="never")
    kept = [one.worker for one in result.report.workers if one.kept]
    assert len(kept) == 2 and kept[0] == 0
    states = [result.worker_states[worker] for worker in kept]
    for name, value in average_weights(states).items():
        torch.testing.assert_close(result.state_dict[name], value)
    left = [one for one in result.report.workers if not one.kept]
    assert {one.reason for one in left} == {"left out by soup 'best pair'"}
    with pytest.raises(ValueError, match="soup='best pair' .*needs val_dataset"):
        fit(train, soup="best pair")


def test_weights_of_a_soup_need_not_be_whole_numbers(train):
    import_modules(["outside_soup"])
    result = fit(train, soup="lowest loss", keep_workers=True, batchnorm_refresh="never")
    kept = sorted((o for o in result.report.workers if o.kept), key=lambda one: one.loss)
    states = [result.worker_states[one.worker] for one in kept]
    expected = average_weights(states, [1.0, 0.5])
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(result.state_dict[name], value, rtol=1e-5, atol=1e-6)
    assert "its training loss is not among the lowest" in str(result.report.notes)


def test_an_optimizer_serves_trainings_too(train):
    import_modules(["outside_optimizer"])
    net = make_net()
    done = train_on_subset(
        net,
        train,
        torch.arange(60),
        val_dataset=train,
        epochs=2,
        optimizer="sign-sgd",
        device="cpu",
    )
    assert done.val_accuracy is not None
    config = RunConfig.parse(mapping("optimizer", "sign-sgd", optimizer={"type": "sign-sgd"}))
    assert config.optimizer.type == "sign-sgd"


def test_what_does_not_fit_its_kind_is_refused(train, val):
    with pytest.raises(ValueError, match="soup named 'uniform' exists already"):
        register_soup("uniform")(lambda workers: [0])
    with pytest.raises(ValueError, match=r"a sparsity is called as odd\(weights, moment\)"):
        register_sparsity("odd")(lambda weights: weights)
    with pytest.raises(ValueError, match=r"an? outer step is called as odd"):
        register_outer("odd")(lambda start, average: start)
    with pytest.raises(ValueError, match="codec is a function or class, and 'odd' is a int"):
        register_codec("odd")(3)
    for answer, message in (
        ([7], "soup 'odd' names worker 7: expected some of"),
        ([], "soup 'odd' names no worker"),
        ({0: -1.0}, "soup 'odd' gives worker 0 the weight -1.0: expected a positive"),
    ):
        register_soup("odd")(lambda workers, answer=answer: answer)
        with pytest.raises(ValueError, match=message):
            fit(train, soup="odd")
        REGISTRIES["soup"].unregister("odd")
    register_sparsity("odd")(lambda weights, moment: [torch.ones(1)])
    with pytest.raises(ValueError, match="sparsity 'odd' must return one tensor a weight"):
        fit(train, sparsity="odd")
    register_codec("odd")(lambda origin, members, wire: {})
    with pytest.raises(ValueError, match="codec 'odd' must return a state .* others: "):
        fit(train, codec="odd")
    register_outer("odd")(lambda start, average, memory, *, trained, config: {})
    with pytest.raises(ValueError, match="outer step 'odd' must return a state .* others: "):
        fit(train, outer="odd")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here", "cannot import 'no_such_module_here'.*ModuleNotFoundError"),
        ("my-module.py", "cannot import 'my-module.py': expected the name of a module"),
    ],
)
def test_an_import_that_fails_names_the_module(name, message):
    with pytest.raises(ValueError, match=message):
        import_modules([name])


@pytest.fixture
def train():
    return make_images(160)


@pytest.fixture
def val():
    return make_images(80, seed=1)


def test_an_optimizer_that_leaves_parameters_out_is_refused(train):
    """They would keep their values without a word."""

    def matrices_alone(parameters, options):
        return torch.optim.SGD([one for one in parameters if one.ndim >= 2], lr=options.lr)

    register_optimizer("matrices")(matrices_alone)
    with pytest.raises(ValueError, match="'matrices' leaves out 4 of 6 parameters, the first of"):
        fit(train, optimizer="matrices")


def test_what_a_soup_returns_is_looked_at(train):
    for answer in (None, "all", [0, 0], [True], [object()]):
        register_soup("odd")(lambda workers, answer=answer: answer)
        with pytest.raises(ValueError, match="soup 'odd' returned .* expected the numbers of work"):
            fit(train, soup="odd")
        REGISTRIES["soup"].unregister("odd")


def test_errors_of_a_module_that_was_found_say_where(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "module_with_an_error.py").write_text("one = 1\nraise RuntimeError('not now')\n")
    with pytest.raises(ValueError, match=r"not now \(.*module_with_an_error.py, line 2\)\.$"):
        import_modules(["module_with_an_error"])


def test_a_net_with_nothing_to_prune_is_noted():
    data = torch.utils.data.TensorDataset(torch.randn(60, 8), torch.arange(60) % 4)
    net = torch.nn.Linear(8, 4)
    result = LiPTWarmStart(**WARM, **QUIET, density=0.8).fit(net, data)
    assert "sparsity='magnitude' found nothing to prune: the head stays dense" in str(
        result.report.notes
    )
    plain = LiPTWarmStart(**WARM, **QUIET).fit(net, data)
    assert "nothing to prune" not in str(plain.report.notes)


def test_only_the_ratio_of_a_soups_weights_counts(train):
    """Weights far from 1 zeroed small entries of the merge once."""
    states = []
    for one in (1, 7, 10**9, 0.5, 5e-324):
        register_soup("alike")(lambda workers, one=one: {w.worker: one for w in workers})
        states.append(fit(train, soup="alike").state_dict)
        REGISTRIES["soup"].unregister("alike")
    plain = fit(train).state_dict
    for state in states:
        for name, value in plain.items():
            torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-7)
            assert (state[name] == 0).equal(value == 0)
    for state in states[:3]:
        assert all(state[name].equal(value) for name, value in plain.items())


def test_soups_that_try_need_held_out_data_and_numbers(train, val):
    def silent(workers):
        yield [workers[0].worker]
        return [workers[0].worker]

    def odd(workers):
        yield 0
        return [0]

    register_soup("silent")(silent)
    with pytest.raises(ValueError, match="there is no held-out data: register it with needs_val"):
        fit(train, soup="silent")
    register_soup("odd")(odd)
    register_soup("expression")(lambda workers: (one.worker for one in workers))
    for soup in ("odd", "expression"):
        with pytest.raises(ValueError, match="expected the numbers of workers"):
            fit(train, val, soup=soup)


def test_what_is_registered_belongs_to_the_module_that_registers_it(tmp_path, monkeypatch):
    """Children import that one, and a stored run depends on its source."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "module_with_a_partial.py").write_text(
        "import functools\nfrom lipt_cords.warmstart import register_soup\n"
        "def first(workers, count):\n    return [one.worker for one in workers[:count]]\n"
        "register_soup('first two')(functools.partial(first, count=2))\n"
    )
    import_modules(["module_with_a_partial"])
    assert REGISTRIES["soup"].entry("first two").module == "module_with_a_partial"
    assert "module_with_a_partial" in foreign_modules()
    assert REGISTRIES["selector"].entry("glister").module == "lipt_cords.selectors.glister.select"


def test_a_module_that_fails_half_way_leaves_no_names_and_can_be_mended(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "module_to_mend.py"
    words = (
        "from lipt_cords.warmstart import register_soup\n"
        "@register_soup('mended')\ndef mended(workers):\n    return [0]\n"
    )
    module.write_text(words + "raise RuntimeError('half way')\n")
    with pytest.raises(ValueError, match="half way"):
        import_modules(["module_to_mend"])
    assert "mended" not in REGISTRIES["soup"]
    module.write_text(words)
    importlib.invalidate_caches()
    import_modules("module_to_mend")
    assert "mended" in REGISTRIES["soup"]
    importlib.reload(sys.modules["module_to_mend"])
    assert REGISTRIES["soup"].entry("mended").module == "module_to_mend"


def test_names_that_mean_something_else_are_taken():
    for name in ("resnet-8", "WRN2810", "mnistnet"):
        with pytest.raises(ValueError, match=r"exists already|hyphens and underscores do not"):
            register_model(name)(lambda num_classes, in_channels, image_size: None)
    for name in ("digits", "CIFAR-10", "fmnist", "imagefolder:x"):
        with pytest.raises(ValueError, match="a data set cannot be named"):
            register_dataset(name)


def test_what_a_function_writes_into_is_its_own_copy(train):
    def careless(origin, members, wire):
        average = exact(origin, members, wire)
        for value in origin.values():
            value.zero_()
        return average

    def careless_outer(start, average, memory, *, trained, config):
        for value in start.values():
            value.zero_()
        return average

    plain = fit(train)
    register_codec("careless")(careless)
    register_outer("careless")(careless_outer)
    for option in ("codec", "outer"):
        result = fit(train, **{option: "careless"})
        for name, value in plain.theta_star.items():
            assert result.theta_star[name].equal(value)
            assert result.state_dict[name].equal(plain.state_dict[name])


def test_what_functions_return_is_looked_at(train):
    def spoiled(origin, members, wire):
        average = exact(origin, members, wire)
        return {k: v * float("nan") if v.is_floating_point() else v for k, v in average.items()}

    def wide(start, average, memory, *, trained, config):
        return {name: value.double() for name, value in average.items()}

    register_sparsity("nan")(lambda weights, moment: [w * float("nan") for w in weights])
    with pytest.raises(ValueError, match="'nan' returned NaN or infinite scores"):
        fit(train, sparsity="nan")
    register_codec("nan")(spoiled)
    with pytest.raises(ValueError, match="codec 'nan' gives NaN or infinite weights"):
        fit(train, codec="nan")
    register_outer("wide")(wide)
    with pytest.raises(ValueError, match=r"outer step 'wide' gives torch.float64 .* expected"):
        fit(train, outer="wide")
    register_optimizer("lbfgs")(lambda parameters, options: torch.optim.LBFGS(parameters))
    with pytest.raises(ValueError, match="is LBFGS, whose steps need a closure"):
        fit(train, optimizer="lbfgs")
