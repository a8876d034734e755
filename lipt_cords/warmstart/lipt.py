"""LiPT: sparse workers on disjoint shards, merged into one model whose gradients select.

Ro, Wang, Chidambaram, Akella, "Lowering the Pre-training Tax for Gradient-based Subset Training",
ICML 2023. One round is the method of the paper; several rounds are local SGD (Stich, ICLR 2019) or
DiLoCo (Douillard et al., 2023). Watchers do the rest around this loop, and may change the run
between its rounds.
"""

from __future__ import annotations

from lipt_cords.models.state import State
from lipt_cords.warmstart.common_start import common_start
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.merge.outer import next_start
from lipt_cords.warmstart.round_inputs import RoundInputs
from lipt_cords.warmstart.run import Run
from lipt_cords.warmstart.team import Team
from lipt_cords.warmstart.watch.watcher import Watchers


def lipt(
    inputs: RoundInputs, config: WarmStartConfig, team: Team, watchers: Watchers
) -> tuple[Run, State]:
    """Train one common start, then workers round by round, each round merged into one model.

    Args:
        inputs: model, data and loss, checked and read.
        config: the options.
        team: trains the workers and merges them, on all ranks.
        watchers: called around the rounds.

    Returns:
        The run after its last merge, and theta* in the shapes of the given net.
    """
    run = Run(inputs.model, config.rounds, block_shares=inputs.block_shares)
    run.start = common_start(run, inputs, config, team, watchers)
    theta_star = run.whole(run.start)
    watchers.resume(run)
    while run.round < run.rounds:
        watchers.before_round(run)
        run.net.load_state_dict(run.start)
        workers = team.train(run, inputs)  # each alone on its own shard
        watchers.after_training(run)
        chosen = team.choose(workers)  # the soup
        average, workers = team.merge(run.net, workers, chosen)  # by the codec
        start = next_start(
            run.start, average, run.outer_state,
            trained=inputs.trained, frozen=inputs.frozen, config=config,
        )  # fmt: skip
        run.start = team.agreed(start, run.outer_state)  # between the ranks
        run.round += 1
        watchers.after_merge(run, workers)
    return run, theta_star
