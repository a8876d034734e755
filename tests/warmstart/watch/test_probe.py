"""Class-mean gradients against autograd, and a probe that reads its own samples alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset
from warmstart_material import Streamed, make_images, make_net

from lipt_cords.data.source import BatchSource
from lipt_cords.models.gradients import last_layer_gradients
from lipt_cords.warmstart.watch.probe import LARGEST, Probe, class_mean_gradients


def make_probe(dataset, samples=1000, seed=0):
    return Probe(BatchSource(dataset), samples, seed=seed, head="6")


@pytest.mark.parametrize("lacking", [None, 2, 0])
def test_class_means_are_what_autograd_gives_for_each_class(lacking):
    data = make_images(70)
    images, labels = data.tensors
    if lacking is not None:
        images, labels = images[labels != lacking], labels[labels != lacking]
    model = make_net().eval()
    found = last_layer_gradients(model, TensorDataset(images, labels))
    rows = class_mean_gradients(found.logit_grads, found.embeddings, found.labels)
    present = labels.unique().tolist()
    assert rows.shape == (len(present), 4 * 37)
    for row, label in zip(rows, present, strict=True):
        loss = F.cross_entropy(model(images[labels == label]), labels[labels == label])
        weight, bias = torch.autograd.grad(loss, (model[6].weight, model[6].bias))
        expected = torch.cat([bias[:, None], weight], dim=1)  # [1, e] for each logit
        torch.testing.assert_close(row, expected.flatten(), rtol=1e-4, atol=1e-6)


def test_beyond_the_largest_size_the_bias_part_stands_for_the_whole():
    draw = torch.Generator().manual_seed(0)
    grads = torch.randn(64, 64, generator=draw)  # of 64 classes, each present
    labels, embeddings = torch.arange(64), torch.randn(64, 1024, generator=draw)
    whole = class_mean_gradients(grads, embeddings[:, :-1], labels)
    assert whole.shape == (64, 64 * 1024) and whole.numel() == LARGEST
    bias = class_mean_gradients(grads, embeddings, labels)
    torch.testing.assert_close(bias, whole.unflatten(1, (64, 1024))[:, :, 0])


def test_a_reading_is_the_models_in_eval_mode_and_leaves_it_as_it_was(val):
    model = make_net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    said = make_probe(val).read(model)
    assert torch.rand(2).equal(drawn)
    assert model.training and model[1].training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    images, labels = val.tensors
    with torch.no_grad():
        logits = model.eval()(images)
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(said.losses, expected)
    assert said.loss == pytest.approx(float(expected.mean()))
    assert said.accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert said.class_gradients.shape == (4, 4 * 37)


class Labelled(Streamed):
    """Streamed items whose labels are known without reading them."""

    def __init__(self, base):
        super().__init__(base)
        self.targets = base.tensors[1]


def test_it_is_balanced_follows_its_seed_and_reads_nothing_else():
    data = Labelled(make_images(200))
    source = BatchSource(data)
    assert torch.equal(source.labels, data.targets)
    data.read.clear()  # the source looked at some: whether they change, and at their labels
    one = Probe(source, 40, seed=0, head="6")
    positions = set(data.read)
    data.read.clear()
    reading = one.read(make_net())
    assert set(data.read) == positions and len(data.read) == len(positions) == len(one) == 40
    assert len(reading.losses) == 40
    assert not one.is_everything
    counts = torch.bincount(data.targets[sorted(positions)], minlength=4)
    shares = torch.bincount(data.targets, minlength=4) * 40 / 200
    assert ((counts - shares).abs() <= 1 + shares * 4 / 40).all()
    for seed in (0, 1):
        data.read.clear()
        Probe(source, 40, seed=seed, head="6")
        assert (set(data.read) == positions) is (seed == 0)


@pytest.mark.parametrize(("samples", "everything"), [(79, False), (80, True), (5000, True)])
def test_it_knows_whether_it_is_everything(val, samples, everything):
    one = make_probe(val, samples)
    assert len(one) == min(samples, 80)
    assert one.is_everything is everything


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_held_out_inputs_that_are_not_finite_are_named(val, value):
    val.tensors[0][17, 0, 2, 2] = value
    with pytest.raises(ValueError, match="sample 17 of the held-out data holds NaN or infinity"):
        make_probe(val)


def test_samples_outside_of_the_probe_are_not_its_business():
    data = make_images(80)
    inside = Labelled(data)
    source = BatchSource(inside)
    inside.read.clear()
    Probe(source, 10, seed=0, head="6")
    outside = min(set(range(80)) - set(inside.read))
    data.tensors[0][outside] = float("nan")
    assert len(make_probe(data, 10)) == 10


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 3e38])
def test_a_model_without_finite_outputs_says_nothing(val, scale, caplog):
    model = make_net()
    with torch.no_grad():
        model[6].bias.copy_(torch.tensor([1.0, -1.0, 1.0, -1.0]) * scale)  # losses overflow too
    assert make_probe(val).read(model) is None
    assert "a model has no reading on the held-out samples" in caplog.text
