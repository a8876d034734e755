"""What a warm-up costs, written down in a run's ledger."""

from __future__ import annotations

from torch import nn

from lipt_cords.data import BatchSource, DataSplits
from lipt_cords.models import model_device
from lipt_cords.records import Ledger
from lipt_cords.run_config import RunConfig
from lipt_cords.warmstart import WarmStartReport
from lipt_cords.warmstart.cost import flops_per_sample


def full_data_flops(config: RunConfig, splits: DataSplits, model: nn.Module, epochs: int) -> float:
    """Floating-point operations of a full-data warm-up, counted on a small batch.

    Args:
        config: its loss.
        splits: its data.
        model: on its device.
        epochs: on full data.
    """
    if epochs == 0:
        return 0.0
    source = BatchSource(splits.train, range(min(8, len(splits.train))), device=model_device(model))  # type: ignore[arg-type]
    inputs, labels = next(source.batches(batch_size=8))
    loss = nn.CrossEntropyLoss(label_smoothing=config.loss.label_smoothing)
    step, _ = flops_per_sample(model, inputs, labels, loss)
    return float(step * epochs * len(splits.train))  # type: ignore[arg-type]


def charge(costs: Ledger, report: WarmStartReport) -> None:
    """Add a warm start's bill to a run's."""
    costs.warmup_passes += report.passes
    costs.warmup_critical_passes += report.critical_path_passes
    costs.warmup_seconds += report.seconds["total"]
    costs.warmup_critical_seconds += report.seconds["critical_path"]
    costs.warmup_bytes += report.bytes_communicated
    costs.warmup_flops += report.flops
    costs.warmup_critical_flops += report.critical_path_flops
