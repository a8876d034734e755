"""LiPTWarmStart: the one class that users call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords.data.collated import CollateFunction, collated
from lipt_cords.models.losses import LossFunction
from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.fitted import Origins
from lipt_cords.warmstart.local_processes import fit_in_processes
from lipt_cords.warmstart.one_rank import fit_on_this_rank
from lipt_cords.warmstart.prepare.checks import Request, copy_of_given
from lipt_cords.warmstart.ranks.launch import local_processes
from lipt_cords.warmstart.report import OnRound
from lipt_cords.warmstart.result import WarmStartResult


class LiPTWarmStart:
    """A lightweight pre-training: K short, independent trainings merged into one model.

    One common start theta* is trained briefly; each worker continues it alone on its own
    class-balanced shard, pruned once and optionally augmented; the workers' weights are averaged
    and BatchNorm statistics recomputed. The merged model's last-layer gradients feed a selector.
    With ``rounds`` above 1 the workers continue from the merged weights.

    Under ``torchrun``, or in processes that it starts itself, the workers are divided among the
    ranks, which exchange theta* at the start and one sum in each round. Every rank returns the same
    result. Workers and merged weights are bit-equal whatever the launcher and the number of ranks
    (on a CPU: for an equal number of threads, which ``threads`` fixes).

    With ``work_dir`` every finished worker and every merge is written there, and after a crash the
    same call resumes from them, with the same bits; SIGTERM stops it cleanly. (With ``together``
    above 1 up to rounding: other workers are then trained at once.)

    Args:
        config: the options, or pass them by name.
        **options: fields of :class:`lipt_cords.warmstart.config.WarmStartConfig`.

    Source: Ro, Wang, Chidambaram, Akella, Lowering the Pre-training Tax for Gradient-based
    Subset Training, ICML 2023.

    >>> import torch
    >>> data = torch.utils.data.TensorDataset(torch.randn(40, 8), torch.arange(40) % 4)
    >>> warm_start = LiPTWarmStart(num_workers=2, epochs=1, common_steps=2, launch="serial")
    >>> result = warm_start.fit(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), data)
    >>> result.report.passes, result.report.critical_path_passes
    (72, 52)
    """

    def __init__(
        self, config: WarmStartConfig | Mapping[str, Any] | str | None = None, /, **options: Any
    ) -> None:
        if config is not None and options:
            raise ValueError("pass either a WarmStartConfig or options by name, not both")
        given = WarmStartConfig(**options) if config is None else WarmStartConfig.parse(config)
        if given is None:
            raise ValueError(f"{config!r} means no warm start: give options, or 'lipt'")
        self.config = given

    def __repr__(self) -> str:
        given = ", ".join(
            f"{name}={getattr(self.config, name)!r}"
            for name in sorted(self.config.model_fields_set)
        )
        return f"LiPTWarmStart({given})"

    def fit(
        self,
        model: nn.Module,
        train_dataset: Dataset[Any],
        val_dataset: Dataset[Any] | None = None,
        *,
        loss: LossFunction | None = None,
        collate_fn: CollateFunction | None = None,
        num_classes: int | None = None,
        shards: Sequence[Tensor] | None = None,
        on_round: OnRound | None = None,
    ) -> WarmStartResult:
        """Run the warm start. Neither the model nor the global random state is modified.

        Local processes (``processes``, or ``auto`` on several GPUs) share large tensors of the data
        (1 MiB and more) with the caller's: torch.multiprocessing moves them to shared memory, in
        place, and a NumPy array from which such a tensor was made no longer shares its memory.

        Modules that are in eval mode in a model in train mode stay in eval mode (a model in eval
        mode as a whole is trained as a whole), and so does a BatchNorm layer in a part without
        trainable weights: frozen weights and these statistics are the same bits afterwards.

        Args:
            model: any module that ends in a linear head; its weights are the start. Of one made by
                torch.compile, DataParallel or DistributedDataParallel the module inside is taken.
            train_dataset: a map-style data set of (x, y) pairs, or of dicts with labels.
            val_dataset: held-out data of the same form, to measure workers and soup; needed for
                the greedy soup.
            loss: None for cross-entropy, a torch loss, or a callable of (logits, labels) that
                returns one value a sample or their mean.
            collate_fn: makes a batch of a list of items, as DataLoader's does, such as one that
                pads texts, for both data sets; None stacks tensors. It is called for every batch,
                of one item too.
            num_classes: expected number of the head's outputs.
            shards: disjoint indices of every worker's samples; None deals class-balanced ones.
            on_round: called after every merge with its
                :class:`~lipt_cords.warmstart.report.RoundReport` and a copy of the merged state
                dict (CPU, BatchNorm averaged, not refreshed); its return value is ignored, and its
                exceptions end the run. Only rank 0 calls it: with local processes (``processes``,
                or ``auto`` on several GPUs) in a child process, whose variables the caller does not
                see. A merge that is stored in ``work_dir`` is not reported again when a run resumes
                from it, even if the call raised.

        Returns:
            The merged weights, with the report. With ``work_dir`` rank 0 also writes them there.

        Raises:
            ValueError: unusable data, model or options; too few workers with finite weights; a
                ``work_dir`` of another run, or a changed file in it.
            LostContact: another process or the network is lost, and ``min_workers`` does not allow
                the others to continue.
        """
        own = copy_of_given(model)
        train_dataset = collated(train_dataset, collate_fn)
        if val_dataset is not None:
            val_dataset = collated(val_dataset, collate_fn)
        request = Request(own, train_dataset, val_dataset, loss, num_classes, shards, on_round)
        processes = local_processes(self.config)
        if processes is not None:
            request.check()
            result = fit_in_processes(self.config, processes, request)
        else:
            result = fit_on_this_rank(self.config, request)
        result.origins = Origins(train_dataset, val_dataset, loss)
        return result
