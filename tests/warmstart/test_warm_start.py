"""The warm start end to end in one process: outcome, bill, repeatability, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from crashes import Trainings
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, get_worker_info
from torch.utils.flop_counter import FlopCounterMode
from warmstart_material import Dicts, Streamed, make_images, make_net

from lipt_cords.data.source import BatchSource
from lipt_cords.models.losses import mean_loss
from lipt_cords.warmstart.common_start import train_common_start
from lipt_cords.warmstart.merge.average import average_weights
from lipt_cords.warmstart.report import WarmStartReport
from lipt_cords.warmstart.warm_start import LiPTWarmStart

SMALL = {"num_workers": 3, "epochs": 2, "batch_size": 16, "common_steps": 6, "launch": "serial"}


def warm(**options):
    return LiPTWarmStart(**{**SMALL, **options})


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(net, train, val):
    one, two = (warm().fit(net, train, val) for _ in range(2))
    assert same(one.state_dict, two.state_dict)
    assert same(one.theta_star, two.theta_star)
    assert not same(one.state_dict, warm(seed=1).fit(net, train, val).state_dict)


def test_model_and_global_random_state_are_untouched(net, train, val):
    net.train()
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    warm(augmentation="randaugment").fit(net, train, val)
    assert torch.rand(4).equal(expected)
    assert same(net.state_dict(), before)
    assert net.training


def test_the_soup_beats_its_workers(train, val):
    for seed in range(3):
        options = {"num_workers": 5, "epochs": 3, "common_steps": 4, "seed": seed}
        report = warm(**options).fit(make_net(seed), train, val).report
        assert report.merged_accuracy > report.mean_worker_accuracy


def test_the_merged_model_is_the_average_of_the_workers(net, train):
    options = {"density": 0.8, "lr": 0.001, "batchnorm_refresh": "never"}
    result = warm(keep_workers=True, **options).fit(net, train)
    merged = average_weights(result.worker_states)
    for name, value in result.state_dict.items():
        # Changes are summed on a grid 2**-28 of the largest one (at most 0.2 here).
        torch.testing.assert_close(value, merged[name], rtol=2e-7, atol=1e-9)
        assert ((value == 0) == (merged[name] == 0)).all()
    assert int((result.worker_states[0]["0.weight"] == 0).sum()) == 36 - 29


def test_the_bill_adds_up(net, train, val):
    result = warm(refresh_samples=64).fit(net, train, val)
    report = result.report
    sizes = [len(shard) for shard in result.shards]
    assert sorted(sizes) == [53, 53, 54]
    assert [worker.samples for worker in report.workers] == sizes
    assert report.passes == 6 * 16 + sum(worker.passes for worker in report.workers)
    assert [worker.passes for worker in report.workers] == [2 * size for size in sizes]
    assert report.critical_path_passes == 6 * 16 + 2 * 54
    assert report.evaluation_passes == (3 + 2) * 80
    assert report.refresh_passes == 64
    assert report.bytes_communicated == 0
    assert report.ranks == 1
    with FlopCounterMode(display=False) as counter:
        net(train.tensors[0][:1]).sum().backward()
    assert report.flops == report.passes * counter.get_total_flops()
    assert report.critical_path_flops == report.critical_path_passes * counter.get_total_flops()
    assert report.forward_flops % (report.evaluation_passes + report.refresh_passes) == 0
    assert report.forward_flops > 0
    phases = {"prepare", "common", "workers", "evaluation", "soup", "refresh"}
    assert set(report.seconds) == phases | {"critical_path", "total"}
    assert sum(report.seconds[name] for name in phases) <= report.seconds["total"]
    assert report.seconds["critical_path"] < report.seconds["total"]
    assert report.accuracy_after_refresh is not None
    assert report.mean_worker_accuracy == pytest.approx(
        sum(worker.accuracy for worker in report.workers) / 3
    )
    assert WarmStartReport.from_dict(report.to_dict()) == report


def test_without_common_steps_workers_fork_from_the_given_model(net, train):
    result = warm(common_steps=0).fit(net, train)
    assert same(result.theta_star, net.state_dict())
    assert result.report.critical_path_passes == 2 * 54


def test_the_common_start_reads_only_what_it_needs_and_wraps_around(train):
    labels = train.tensors[1]
    dataset = Streamed(train)
    options = {"config": warm(common_steps=2, optimizer="sgd").config, "loss": mean_loss(None)}
    done = train_common_start(make_net(), dataset, labels, **options)
    assert done.passes == done.on_given_net == 32
    assert len(set(dataset.read)) <= 32
    options["config"] = warm(common_steps=25, optimizer="sgd").config
    assert train_common_start(make_net(), train, labels, **options).passes == 25 * 16


def test_greedy_drops_workers_that_hurt_and_says_so(train, val):
    options = {"type": "lipt-once", "num_workers": 6, "batchnorm_refresh": "never"}
    result = warm(soup="greedy", keep_workers=True, **options).fit(make_net(), train, val)
    report = result.report
    kept = [worker.worker for worker in report.workers if worker.kept]
    dropped = [worker for worker in report.workers if not worker.kept]
    assert kept
    assert same(
        result.state_dict, average_weights([result.worker_states[worker] for worker in kept])
    )
    assert report.merged_accuracy >= max(worker.accuracy for worker in report.workers)
    assert len(report.notes) == len(dropped)
    assert all("would fall" in worker.reason for worker in dropped)


def test_greedy_needs_held_out_data(net, train):
    with pytest.raises(ValueError, match="soup='greedy'.*needs val_dataset"):
        warm(soup="greedy").fit(net, train)


class Poisoned(nn.Module):
    """Breaks its own weights in training when it meets a marked image."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        out = self.inner(images)
        return out * torch.where(images.amax() > 1e3, torch.nan, 1.0) if self.training else out


def test_a_diverged_worker_is_left_out_and_named(train, val):
    train.tensors[0][7, 0, 0, 0] = 1e4
    result = warm(common_steps=0, keep_workers=True).fit(Poisoned(make_net()), train, val)
    [bad] = [number for number, shard in enumerate(result.shards) if 7 in shard]
    summary = result.report.workers[bad]
    assert not summary.kept and summary.loss is None and summary.accuracy is None
    assert result.report.notes == [f"worker {bad} is not in the soup: weights are not finite"]
    assert result.worker_states[bad] is None
    assert sum(worker.kept for worker in result.report.workers) == 2
    assert all(torch.isfinite(value).all() for value in result.state_dict.values())


def test_no_worker_left_is_an_error(net, train):
    with pytest.raises(
        ValueError, match="all 3 workers ended with weights that are not finite.*lr"
    ):
        warm(common_steps=0, lr=1e30).fit(net, train)


def test_a_diverged_common_start_is_an_error(net, train):
    with pytest.raises(ValueError, match="common start diverged within 6 steps: lower lr"):
        warm(lr=1e30).fit(net, train)


def test_a_shard_without_a_class_is_reported(net):
    data = make_images(60)
    data.tensors[1][:] = torch.arange(60) % 3
    data.tensors[1][0] = 3
    report = warm().fit(net, data).report
    lacking = [worker for worker in report.workers if worker.classes_missing]
    assert len(lacking) == 2
    assert all(worker.classes_missing == [3] for worker in lacking)
    assert "shards without samples of some classes" in report.notes[0]


def test_dicts_and_keyword_models(train, val):
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_net()

        def forward(self, image):
            return {"logits": self.inner(image)}

    result = warm().fit(Keywords(), Dicts(train), Dicts(val))
    plain = warm().fit(make_net(), train, val)
    assert result.report.merged_accuracy == plain.report.merged_accuracy
    for name, value in plain.state_dict.items():
        assert result.state_dict[f"inner.{name}"].equal(value)


def test_datasets_with_random_transforms_repeat(net, train):
    torch.manual_seed(0)
    one = warm().fit(net, Streamed(train))
    torch.manual_seed(1)
    assert same(one.state_dict, warm().fit(net, Streamed(train)).state_dict)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "cosine", "shard_fraction": 0.5, "momentum": 0},
        {"sparsity": "random", "density": 0.3, "schedule": "linear"},
        {"augmentation": "randaugment", "num_ops": 1, "precision": "bf16"},
        {"num_workers": 1, "prune_after": 0, "local_steps": 3},
    ],
)
def test_options_run(net, train, val, options):
    report = warm(**options).fit(net, train, val).report
    assert report.merged_accuracy > 0.2
    assert len(report.workers) == options.get("num_workers", 3)


def test_models_without_batchnorm_need_no_refresh(train, val):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    report = warm().fit(model, train, val).report
    assert report.refresh_passes == 0
    assert report.accuracy_after_refresh is None
    assert not report.refresh_kept


def test_frozen_layers_stay(net, train):
    net[0].weight.requires_grad_(False)
    result = warm().fit(net, train)
    torch.testing.assert_close(result.state_dict["0.weight"], net[0].weight)


def test_apply_to_loads_in_place_and_gradients_are_of_the_merged_model(net, train, val):
    result = warm().fit(net, train, val)
    weight = net[0].weight
    assert result.apply_to(net) is net
    assert net[0].weight is weight
    assert result.device == torch.device("cpu")
    grads = result.gradients(val)
    with torch.no_grad():
        torch.testing.assert_close(grads.logits, net.eval()(val.tensors[0]))
    torch.testing.assert_close(result.gradients(val, model=make_net(9)).logits, grads.logits)
    with pytest.raises(ValueError, match="merged weights do not fit Linear"):
        result.apply_to(nn.Linear(2, 2))


@pytest.mark.parametrize("samples", [1, 2])
def test_a_refresh_never_resets_statistics_that_it_cannot_measure(net, train, samples):
    options = {"refresh_samples": samples, "batchnorm_refresh": "always", "keep_workers": True}
    result = warm(**options).fit(net, train)
    averaged = average_weights(result.worker_states)["1.running_mean"]
    assert result.report.refresh_kept == (samples == 2)
    assert torch.equal(result.state_dict["1.running_mean"], averaged) == (samples == 1)
    assert result.report.refresh_passes == (samples if samples == 2 else 0)


def unlabelled(labels):
    return TensorDataset(torch.randn(len(labels), 1, 8, 8), torch.as_tensor(labels))


class SparseRows(nn.Module):
    """Looks its rows up by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.fc = nn.Parameter(torch.randn(4, 8)), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(nn.functional.embedding(x, self.rows, sparse=True))


def two_heads():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(64, 4), nn.Linear(64, 4)
            self.two.load_state_dict(self.one.state_dict())

        def forward(self, x):
            return self.one(x.flatten(1)) * 0.5 + self.two(x.flatten(1)) * 0.5

    return Twice()


class Endless(Dataset):
    def __getitem__(self, index):
        return torch.zeros(1, 8, 8), 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: (make_net(), unlabelled([])), "training data set is empty"),
        (
            lambda: (make_net(), make_images(9), Subset(make_images(9), [])),
            "validation data set is",
        ),
        (lambda: (make_net(), Endless()), "unusable training data: .* with a length"),
        (
            lambda: (make_net(), unlabelled([0, 1, 7, 2])),
            "sample 2 of the training data has label 7",
        ),
        (
            lambda: (make_net(), unlabelled([0, 1, -1])),
            "sample 2 of the training data has label -1",
        ),
        (lambda: (make_net(), make_images(9), unlabelled([9])), "sample 0 of the validation data"),
        (lambda: (nn.Conv2d(1, 4, 8), make_images(9)), "no linear head"),
        (lambda: (two_heads(), make_images(9)), "linear layers that may be its head.*pass head="),
        (lambda: (make_net(), make_images(2)), "3 workers need at least one sample each"),
        (lambda: (make_net().requires_grad_(False), make_images(9)), "no trainable parameter"),
        (lambda: (len, make_images(9)), "expected a torch.nn.Module, received builtin"),
        (lambda: (make_net(), DataLoader(make_images(9))), "unusable training data.*its .dataset"),
        (lambda: (make_net(), torch.zeros(9, 1, 8, 8)), r"a Tensor: pass TensorDataset\(x, y\)"),
        (
            lambda: (nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), make_images(9)),
            "lazy layers without weights yet: call it once",
        ),
        (
            lambda: (nn.Sequential(nn.Flatten(), nn.Linear(64, 4, device="meta")), make_images(9)),
            "meta device",
        ),
        (
            lambda: (
                nn.Sequential(*make_net(), nn.Linear(4, 4)).eval().append(nn.Linear(4, 4)),
                make_images(9),
            ),
            r"in eval mode, but '8' in it is in train mode.*model.train\(\)",
        ),
        (
            lambda: (
                nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), make_net()),
                make_images(9),
            ),
            "'0' keeps no running statistics.*track_running_stats=True",
        ),
        (
            lambda: (SparseRows(), TensorDataset(torch.arange(9) % 4, torch.arange(9) % 4)),
            "'rows' is sparse.*sparse=False",
        ),
        (
            lambda: (nn.Sequential(nn.Flatten(), nn.Linear(65, 4)), make_images(9)),
            r"cannot read the first training sample \(inputs \(1, 1, 8, 8\) torch.float32\)",
        ),
        (
            lambda: (
                make_net(),
                make_images(9),
                TensorDataset(torch.ones(2, 3), torch.ones(2).long()),
            ),
            r"cannot read the first validation sample \(inputs \(1, 3\)",
        ),
        (
            lambda: (nn.Sequential(nn.SyncBatchNorm(1), make_net()), make_images(9)),
            "SyncBatchNorm layers",
        ),
    ],
)
def test_bad_input_is_explained_before_any_work(make, message):
    with pytest.raises(ValueError, match=message):
        warm().fit(*make())


def test_nan_inputs_name_the_first_bad_sample(net, train):
    train.tensors[0][11] = float("nan")
    for steps in (0, 40):
        with pytest.raises(ValueError, match="sample 11 of the training data holds NaN"):
            warm(common_steps=steps).fit(net, train)


@pytest.mark.parametrize("held_out", [make_images(80, seed=1), Streamed(make_images(80, seed=1))])
def test_nan_in_held_out_data_is_no_accuracy(net, train, held_out):
    base = held_out.base if isinstance(held_out, Streamed) else held_out
    base.tensors[0][13] = float("inf")
    with pytest.raises(ValueError, match="sample 13 of the held-out data holds NaN or infinity"):
        warm().fit(net, train, held_out)


def test_loader_processes_read_and_change_no_bits_of_steady_data(net, train, val):
    class Watched(TensorDataset):
        def __getitem__(self, index):
            flags[index] |= get_worker_info() is not None
            return super().__getitem__(index)

    flags = torch.zeros(160, dtype=torch.bool).share_memory_()
    options = {"num_workers": 2, "epochs": 1, "common_steps": 1, "batch_size": 64}
    plain = warm(**options).fit(net, train, val)
    helped = warm(**options, loader_workers=1).fit(net, Watched(*train.tensors), val)
    assert flags.all()
    assert same(plain.state_dict, helped.state_dict)


def test_autograd_switched_off_by_the_caller_does_not_matter(net, train):
    with torch.no_grad():
        result = warm().fit(net, train)
        assert not torch.is_grad_enabled()
    assert same(result.state_dict, warm().fit(net, train).state_dict)


def test_nan_inputs_of_any_shard_are_found_before_anyone_trains(net, train):
    train.tensors[0][150] = float("nan")
    message = "sample 150 of the training data holds NaN"
    with Trainings() as trained, pytest.raises(ValueError, match=message):
        warm().fit(net, train)
    assert trained.begun == 0


def test_broken_weights_are_refused(net, train):
    with torch.no_grad():
        net[0].weight[0] = float("inf")
    with pytest.raises(ValueError, match="given model has NaN or infinite values in"):
        warm().fit(net, train)


def test_augmentation_needs_images(train):
    model = nn.Linear(8, 4)
    flat = TensorDataset(torch.randn(20, 8), torch.arange(20) % 4)
    with pytest.raises(ValueError, match="randaugment' needs float image batches"):
        warm(augmentation="randaugment").fit(model, flat)


def test_num_classes_must_match_and_a_head_can_be_named(net, train):
    with pytest.raises(ValueError, match="4 outputs, the data has 10 classes"):
        warm().fit(net, train, num_classes=10)
    assert warm(head="6").fit(net, train, num_classes=4).report.passes > 0
    with pytest.raises(ValueError, match="unknown linear layer 'fc'"):
        warm(head="fc").fit(net, train)
    hidden = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    with pytest.raises(ValueError, match=r"returns \(1, 4\), the head \(1, 16\)"):
        warm(head="1").fit(hidden, train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 0}, "num_workers"),
        ({"density": 0}, "density"),
        ({"density": 1.5}, "density"),
        ({"sparsity": "snipe"}, "Did you mean 'snip'"),
        ({"soup": "gredy"}, "Did you mean 'greedy'"),
        ({"launch": "mpi"}, "unknown launch"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LiPTWarmStart(**options)


def test_config_or_options_but_not_both():
    config = warm().config
    assert LiPTWarmStart(config).config is config
    with pytest.raises(ValueError, match="either a WarmStartConfig or options"):
        LiPTWarmStart(config, seed=1)


def test_progress_is_silent_off_a_terminal_and_shown_when_asked(net, train, capfd):
    warm().fit(net, train)
    said = "lipt: 3 workers, 1 merge; 204 passes one after another, 416 in all (2.6 epochs)\n"
    assert capfd.readouterr() == ("", said)
    warm(progress=False).fit(net, train)
    assert capfd.readouterr() == ("", "")
    warm(progress=True).fit(net, train)
    out, err = capfd.readouterr()
    assert out == ""
    assert "steps" in err


class Counted(Dataset):
    """Steady items that are read one at a time, and how often."""

    def __init__(self, base):
        self.base, self.targets, self.reads = base, base.tensors[1], 0

    def __len__(self):
        return len(self.base)

    def __getitem__(self, index):
        self.reads += 1
        return self.base[index]


@pytest.mark.parametrize("kept", [200, 60, 20])  # the pool, one shard, or none
def test_more_rounds_of_as_many_steps_decode_no_more_and_train_alike(net, monkeypatch, kept):
    data, reads, states = make_images(160), {}, []
    everything = warm(rounds=8, local_steps=16).fit(net, data)
    monkeypatch.setitem(BatchSource.__init__.__kwdefaults__, "cache_bytes", kept * 64 * 4)
    for rounds_ in (4, 8):
        counted = Counted(data)
        result = warm(rounds=rounds_, local_steps=16).fit(net, counted)
        reads[rounds_] = counted.reads
        states.append(result.state_dict)
    assert reads[8] <= reads[4]
    assert same(states[1], everything.state_dict)
