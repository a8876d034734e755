"""Image files by class: decoded in threads, or read one at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipt_cords.data.folder_layout import class_folders, image_files
from lipt_cords.data.image_files import decoded
from lipt_cords.data.images import ImageTensors, channel_statistics

THREADED_PIXELS = 3 * 96 * 96
_CHUNK = 256
MOST_NAMED = 20
"""Unreadable files that an error names."""


class UnreadableImages(ValueError):
    """Files that are no whole images; the message names them."""


class FolderImages(Dataset[tuple[Tensor, int]]):
    """Image files decoded at every read: for sets that do not fit in memory.

    Args:
        paths: the files.
        labels: their classes, shape (N,).
        image_size: side in pixels to which images are resized (shorter side) and cropped
            (centre); None leaves them as they are.
        mean: mean of each channel in [0, 1], shape (3,), subtracted when an image is read.
        std: standard deviation of each channel, shape (3,).
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: Tensor,
        image_size: int | None = None,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        self.paths = list(paths)
        self.labels = labels
        self.image_size = image_size
        self.mean = torch.zeros(3) if mean is None else mean
        self.std = torch.ones(3) if std is None else std

    @classmethod
    def found_in(
        cls, folder: Path, classes: Sequence[str], image_size: int | None = None
    ) -> FolderImages:
        """The images in the class folders of ``folder``.

        Args:
            classes: names of the classes in the order of their labels.

        Raises:
            ValueError: a class folder that is not among ``classes``, or no image at all.
        """
        paths: list[str] = []
        labels: list[int] = []
        for name in class_folders(folder):
            if name not in classes:
                raise ValueError(
                    f"{folder} has a class {name!r} that the training images lack (they have "
                    f"{', '.join(classes)}): remove the folder or add training images"
                )
            files = image_files(folder / name)
            paths += files
            labels += [classes.index(name)] * len(files)
        if not paths:
            raise ValueError(f"no image in the class folders of {folder}: add some or remove it")
        return cls(paths, torch.tensor(labels, dtype=torch.int64), image_size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.decode(index).to(torch.float32) / 255
        normalised = (pixels - self.mean[:, None, None]) / self.std[:, None, None]
        return normalised, int(self.labels[index])

    def decode(self, index: int) -> Tensor:
        """One image as uint8, shape (3, H, W).

        Raises:
            ValueError: a file that is no whole image; it is named.
        """
        image = decoded(self.paths[index])
        if self.image_size is not None and image.shape[1:] != (self.image_size, self.image_size):
            # Imported here: torchvision takes longer to load than the rest of this package.
            from torchvision.transforms.v2 import functional as transforms

            image = transforms.resize(image, [self.image_size], antialias=True)
            image = transforms.center_crop(image, [self.image_size, self.image_size])
        return image

    def select(self, indices: Tensor) -> FolderImages:
        """The data set of some of the images, in the order given."""
        paths = [self.paths[i] for i in indices.tolist()]
        return FolderImages(paths, self.labels[indices], self.image_size, self.mean, self.std)

    def normalised_as(self, mean: Tensor, std: Tensor) -> FolderImages:
        """The same images with another normalisation."""
        return FolderImages(self.paths, self.labels, self.image_size, mean, std)

    def statistics(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over some of the images."""
        return channel_statistics(torch.stack([self.decode(int(i)) for i in indices]))

    def nbytes(self) -> int:
        """Bytes of all images decoded, if all have the size of the first one that can be read."""
        first = self._first()
        return 0 if first is None else self.decode(first).numel() * len(self)

    def decode_all(self) -> ImageTensors:
        """Decode every image into memory, on all cores if the images are large.

        Raises:
            ValueError: images of several sizes and no ``image_size``.
            UnreadableImages: files that are no whole images, all of which are named.
        """
        broken: dict[int, str] = {}
        first = self._first()
        shape = torch.Size((3, 0, 0)) if first is None else self.decode(first).shape
        images = torch.empty((len(self), *shape), dtype=torch.uint8)

        def fill(start: int) -> None:
            for index in range(start, min(start + _CHUNK, len(self))):
                try:
                    image = self.decode(index)
                except ValueError as error:
                    broken[index] = str(error)
                    continue
                if image.shape != shape:
                    raise ValueError(
                        f"images differ in size: {self.paths[first or 0]} has {tuple(shape[1:])} "
                        f"pixels, {self.paths[index]} has {tuple(image.shape[1:])}: set "
                        "image_size (--set dataset.image_size=N) to resize them"
                    )
                images[index] = image

        # Decoding a thumbnail takes less time than handing the interpreter to another thread.
        threads = os.cpu_count() if shape.numel() >= THREADED_PIXELS else 1
        with ThreadPoolExecutor(max_workers=threads) as pool:
            list(pool.map(fill, range(0, len(self), _CHUNK)))
        if broken:
            named = [broken[index] for index in sorted(broken)]
            more = f" (and {len(named) - MOST_NAMED} more)" if len(named) > MOST_NAMED else ""
            raise UnreadableImages("; ".join(named[:MOST_NAMED]) + more)
        return ImageTensors(images, self.labels, self.mean, self.std)

    def _first(self) -> int | None:
        """The first image that can be read, or None."""
        for index in range(len(self)):
            try:
                self.decode(index)
            except ValueError:  # named with all others when they are read
                continue
            return index
        return None
