"""theta*, the one start of all workers: a short training on the whole set, if any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.data.batches import Inputs
from lipt_cords.data.splits import balanced_order
from lipt_cords.models.losses import LossFunction
from lipt_cords.models.state import State, all_finite, tensor_state
from lipt_cords.training.cheaper.channels import scaled_batchnorms
from lipt_cords.training.cheaper.tickets import Drawn, penalise_scales
from lipt_cords.training.schedules import steps_per_epoch
from lipt_cords.training.step import deterministic_convolutions
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.resume.folder import RunFolder
from lipt_cords.warmstart.round_inputs import Material
from lipt_cords.warmstart.ticket import SmallerNet
from lipt_cords.warmstart.workers.batches import Feed, Pool
from lipt_cords.warmstart.workers.local_training import Descent, descend


@dataclass(frozen=True)
class CommonStart:
    """What the common start did.

    Attributes:
        passes: samples trained on, repeats counted.
        searched: of these, those on the given net, before a ticket was drawn.
        drawn: the ticket, if there is one.
    """

    passes: int
    searched: int
    drawn: Drawn | None = None

    def work(self, net_work: float) -> float:
        """The passes, each as dear as the net that it trained.

        Args:
            net_work: operations of the ticket's net over those of the given one.
        """
        return self.searched + (self.passes - self.searched) * net_work


def find_or_train(
    config: WarmStartConfig,
    material: Material,
    folder: RunFolder | None,
    smaller: SmallerNet | None,
    tick: Callable[[], None],
) -> tuple[CommonStart, State]:
    """theta* on rank 0: read from its folder if it is there, else trained, and kept there.

    Returns:
        What it did, and its weights: the ticket's net's if one was drawn.
    """
    stored = None if folder is None else folder.find("theta_star")
    if stored is not None:
        passes, searched, drawn = (stored.details[key] for key in ("passes", "searched", "drawn"))
        found = None if drawn is None else Drawn(**drawn)
        return CommonStart(passes, searched, found), stored.groups["state"]
    searches = config.early_bird is not None and not config.early_bird.vote
    done, net = train_common_start(
        material.model,
        material.dataset,
        material.labels,
        config=config,
        loss=material.loss,
        pool=material.pool,
        smaller=smaller if searches else None,
        tick=tick,
    )
    state = tensor_state(net)
    if folder is not None:
        folder.keep("theta_star", {"state": state}, asdict(done))
    return done, state


def train_common_start(
    model: nn.Module,
    dataset: Dataset[Any],
    labels: Tensor,
    *,
    config: WarmStartConfig,
    loss: LossFunction,
    pool: Pool | None = None,
    smaller: SmallerNet | None = None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[CommonStart, nn.Module]:
    """Train the common start in place, at a constant rate and without augmentation or masks.

    Samples come in class-balanced order from the whole set, and only those needed are read. With
    an Early-Bird search it ends on the ticket's net: momentum starts afresh there.

    Args:
        model: on the device to train on.
        dataset: the training set.
        labels: its labels, shape (N,).
        config: ``common_steps``, ``batch_size`` and the options of SGD.
        loss: mean loss of (logits, labels).
        pool: samples in memory already.
        smaller: searches an Early-Bird ticket, or None.
        tick: called after every step.

    Returns:
        What it did, and the net that it ends with: the given one, or the ticket's.

    Raises:
        ValueError: inputs that are not finite, or training that diverges.
    """
    steps, batch_size, seed = config.common_steps, config.batch_size, config.seed
    if steps == 0:
        return CommonStart(0, 0), model
    indices = common_samples(config, labels)
    needed = len(indices)
    device = next(model.parameters()).device

    def batches(feed: Feed) -> Iterator[tuple[Inputs, Tensor]]:
        epoch = 0
        while True:
            order = _order_of(labels, seed, epoch)[:needed]
            positions = torch.searchsorted(indices, order)
            yield from feed.in_order(
                positions, batch_size, scan=epoch == 0 and not feed.source.resident
            )
            epoch += 1

    with isolated_rng(seed, "common"), deterministic_convolutions():
        feed = Feed(dataset, indices, device, pool, config.loader_workers)
        samples = batches(feed)

        def train(net: nn.Module, steps: int, **hooks: Any) -> Descent:
            return descend(
                net,
                samples,
                steps=steps,
                last_epoch=min(steps, steps_per_epoch(needed, batch_size)),
                schedule="constant",
                config=config,
                loss=loss,
                single_samples=min(needed, batch_size) == 1,
                after_step=tick,
                **hooks,
            )

        if smaller is None:
            passes = train(model, steps).passes
            done = CommonStart(passes, passes)
        else:
            done, model = _searching(smaller, model, steps, train)
    if not all_finite(tensor_state(model)):
        raise ValueError(
            f"the common start diverged within {steps} steps: lower lr (received {config.lr:g})"
        )
    return done, model


def common_samples(config: WarmStartConfig, labels: Tensor) -> Tensor:
    """The samples that the common start trains on, ascending; all of them, or as many as it needs.

    Args:
        config: ``common_steps``, ``batch_size`` and the seed.
        labels: of the training set, shape (N,).
    """
    needed = min(len(labels), config.common_steps * config.batch_size)
    return _order_of(labels, config.seed, 0)[:needed].sort().values


def _order_of(labels: Tensor, seed: int, epoch: int) -> Tensor:
    return balanced_order(labels, generator(seed, "common", epoch))


def _searching(
    smaller: SmallerNet, model: nn.Module, steps: int, train: Callable[..., Descent]
) -> tuple[CommonStart, nn.Module]:
    """Train until a ticket is drawn, then its net for the rest of the steps."""
    layers = scaled_batchnorms(model)

    def enough(taken: int) -> bool:
        last = taken >= smaller.latest_step
        if not last and taken % smaller.every:
            return False
        return smaller.search.look(model.state_dict()) or last

    search = train(
        model,
        steps,
        after_backward=lambda: penalise_scales(layers, smaller.options.l1),
        enough=enough,
    )
    if not all_finite(tensor_state(model)):
        return CommonStart(search.passes, search.passes), model
    drawn = smaller.draw({"steps": search.steps})
    net = smaller.adopt(drawn, model).model
    rest = train(net, steps - search.steps).passes if search.steps < steps else 0
    return CommonStart(search.passes + rest, search.passes, drawn), net
