"""Data: samples by index, named sets, folders of images, splits."""

from lipt_cords.base.devices import resolve_device
from lipt_cords.data.batches import Inputs, split_batch, to_device
from lipt_cords.data.datasets import (
    DATASET_NAMES,
    DataSplits,
    canonical_dataset_name,
    data_directory,
    find_data,
    load_dataset,
    register_dataset,
)
from lipt_cords.data.images import ImageTensors
from lipt_cords.data.labels import labels_of
from lipt_cords.data.source import BatchSource

__all__ = [
    "DATASET_NAMES",
    "BatchSource",
    "DataSplits",
    "ImageTensors",
    "Inputs",
    "canonical_dataset_name",
    "data_directory",
    "find_data",
    "labels_of",
    "load_dataset",
    "register_dataset",
    "resolve_device",
    "split_batch",
    "to_device",
]
