"""When workers prune and by what, what SNIP may not disturb, and the average of the weights."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from warmstart_material import make_images, make_net

from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.workers.ema import WeightAverage
from lipt_cords.warmstart.workers.pruning import Pruning
from lipt_cords.warmstart.workers.sparsity import (
    Masks,
    keep_largest,
    magnitude_scores,
    prunable_weights,
)


def pruning_of(model, head="6", steps=8, loss=F.cross_entropy, names=("worker", 0), **options):
    config = WarmStartConfig(**{"density": 0.5, "prune_after": 0.0, **options})
    return Pruning(model, head, config=config, loss=loss, steps=steps, names=names)


def batch(count=16):
    return make_images(count).tensors


@settings(max_examples=60)
@given(steps=st.integers(1, 40), after=st.floats(0, 1, exclude_max=True))
def test_it_prunes_once_before_the_step_at_the_given_share(steps, after):
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    pruning, sparse = pruning_of(model, "1", steps=steps, prune_after=after), []
    for step in range(steps):
        pruning.before(step, torch.empty(0), torch.empty(0))
        sparse.append(pruning.density == 0.5)
    assert sparse == [step >= int(after * steps) for step in range(steps)]


@pytest.mark.parametrize("options", [{"sparsity": "none"}, {"density": 1.0}])
@pytest.mark.parametrize("after", [0.0, 0.5])
def test_it_never_prunes_when_not_asked_for(options, after):
    model = make_net()
    expected = copy.deepcopy(model.state_dict())
    pruning = pruning_of(model, prune_after=after, **options)
    assert [pruning.before(step, *batch()) for step in range(8)] == [0] * 8
    pruning.keep()
    assert pruning.masks is None and pruning.density == 1
    assert all(value.equal(expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("sparsity", "taken"), [("magnitude", 0), ("random", 0), ("snip", 16)])
def test_the_density_is_kept_the_head_stays_and_snip_counts_its_batch(sparsity, taken):
    model = make_net()
    pruning = pruning_of(model, sparsity=sparsity, prune_after=0.3, density=0.25)
    assert [pruning.before(step, *batch()) for step in range(4)] == [0, 0, taken, 0]
    assert pruning.density == 0.25
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    pruning.keep()
    assert int((model[0].weight != 0).sum()) == 9
    assert int((model[6].weight == 0).sum()) == 0


def test_random_masks_follow_the_seed_and_the_names():
    def mask(names=("worker", 0), seed=0):
        model = make_net()
        pruning_of(model, sparsity="random", names=names, seed=seed).before(0, *batch())
        return model[0].weight != 0

    assert mask().equal(mask())
    for other in ({"names": ("worker", 1)}, {"names": ("worker", 0, "round", 1)}, {"seed": 1}):
        assert not mask().equal(mask(**other))


def test_snip_keeps_what_the_loss_would_miss_most():
    model, (images, labels) = make_net(dropout=0), batch()
    twin = copy.deepcopy(model)
    weight = twin[0].weight
    (gradient,) = torch.autograd.grad(F.cross_entropy(twin(images), labels), weight)
    expected = keep_largest((weight * gradient).abs().detach().flatten(), 18).view_as(weight)
    pruning_of(model, sparsity="snip").before(0, images, labels)
    assert model[0].weight.equal(torch.where(expected, weight, 0))


def nets():
    """Nets whose layers write buffers while they train."""
    tail = [nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 4)]
    first = nn.Conv2d(1, 4, 3, padding=1)
    return {
        "BatchNorm": nn.Sequential(first, nn.BatchNorm2d(4), *tail),
        "cumulative": nn.Sequential(first, nn.BatchNorm2d(4, momentum=None), *tail),
        "no statistics": nn.Sequential(first, nn.BatchNorm2d(4, track_running_stats=False), *tail),
        "InstanceNorm": nn.Sequential(first, nn.InstanceNorm2d(4, track_running_stats=True), *tail),
        "spectral norm": nn.Sequential(first, *tail[:1], spectral_norm(nn.Linear(256, 256)), *tail),
    }


@pytest.mark.parametrize("name", nets())
@pytest.mark.parametrize("fails", [False, True])
def test_snip_leaves_statistics_modes_and_random_state_as_they_were(name, fails):
    model = nets()[name].train()
    model(batch()[0])  # statistics that are not those of the start
    head = str(len(model) - 1)
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    momenta = [getattr(layer, "momentum", None) for layer in model]

    def loss(logits, labels):
        if fails:
            raise RuntimeError("out of memory")
        return F.cross_entropy(logits, labels)

    pruning = pruning_of(model, head, sparsity="snip", loss=loss)
    torch.manual_seed(7)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            pruning.before(0, *batch())
    else:
        assert pruning.before(0, *batch()) == 16
    assert torch.rand(3).equal(drawn)
    after = dict(model.named_buffers())
    assert after.keys() == buffers.keys()
    assert all(after[key].equal(value) for key, value in buffers.items())
    assert momenta == [getattr(layer, "momentum", None) for layer in model]
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_snip_reads_nothing_where_there_is_nothing_to_prune():
    pruning = pruning_of(nn.Linear(64, 4), head="", sparsity="snip")
    images, labels = batch()
    assert pruning.before(0, images.flatten(1), labels) == 0
    assert pruning.density == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("decay", [0.05, 0.5, 0.999])
def test_the_average_is_that_of_a_plain_loop(layout, decay):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 2)).to(memory_format=layout)
    places = [parameter.data_ptr() for parameter in model.parameters()]
    average, generator = WeightAverage(model, decay), torch.Generator().manual_seed(0)
    expected = [parameter.detach().double().clone() for parameter in model.parameters()]
    for step in range(1, 30):
        share = min(decay, (1 + step) / (10 + step))
        for place, parameter in enumerate(model.parameters()):
            with torch.no_grad():
                parameter += torch.randn(parameter.shape, generator=generator)
            expected[place] = share * expected[place] + (1 - share) * parameter.detach().double()
        average.step()
    average.write(None)
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-5, atol=1e-5)
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert model[0].weight.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_averaged_in_float32(dtype):
    models = [nn.Linear(1, 1, bias=False).to(kind) for kind in (dtype, torch.float32)]
    for model in models:
        model.weight.data.fill_(1.0)
        average = WeightAverage(model, 0.999)
        for step in range(6000):
            if step == 5000:
                model.weight.data.fill_(1.25)
            average.step()
        average.write(None)
    half, full = (model.weight.detach() for model in models)
    assert 1.1 < float(full) < 1.24
    assert half.equal(full.to(dtype))


def test_a_short_run_forgets_its_start():
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.999)
    for _ in range(20):
        model.weight.data.fill_(1.0)
        average.step()
    model.weight.data.fill_(5.0)
    average.write(None)
    assert model.weight.item() == pytest.approx(1, abs=1e-5)


def test_pruned_weights_stay_zero_in_the_average():
    model = make_net()
    average = WeightAverage(model, 0.9)
    average.step()
    weights = prunable_weights(model, model[6])
    masks = Masks(weights, magnitude_scores(weights), 0.25)
    masks.apply()
    average.step()
    average.write(masks)
    assert int((model[0].weight != 0).sum()) == 9
    assert int((model[6].weight == 0).sum()) == 0


def test_parameters_that_are_not_trained_are_averaged_too():
    model = nn.Linear(2, 2)
    model.places = nn.Parameter(torch.tensor([3, 4]), requires_grad=False)
    average = WeightAverage(model, 0.9)
    average.step()
    average.write(None)
    assert model.places.tolist() == [3, 4]
