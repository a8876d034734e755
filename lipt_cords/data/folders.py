"""Image files by class: decoded in threads, or read one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipt_cords.data.image_files import UnreadableImage, decoded
from lipt_cords.data.images import ImageTensors, channel_statistics

THREADED_PIXELS = 3 * 96 * 96
_CHUNK = 256


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

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.decode(index).to(torch.float32) / 255
        normalised = (pixels - self.mean[:, None, None]) / self.std[:, None, None]
        return normalised, int(self.labels[index])

    def decode(self, index: int) -> Tensor:
        """One image as uint8, shape (3, H, W).

        Raises:
            UnreadableImage: a file that is no whole image.
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

    def decode_all(self) -> tuple[ImageTensors, dict[int, str]]:
        """Decode every image into memory, on all cores if the images are large.

        Returns:
            The images; and why some cannot be read, by their index. Their pixels mean nothing.

        Raises:
            ValueError: images of several sizes and no ``image_size``.
        """
        broken: dict[int, str] = {}
        first = self._first()
        shape = torch.Size((3, 0, 0)) if first is None else self.decode(first).shape
        images = torch.empty((len(self), *shape), dtype=torch.uint8)

        def fill(index: int) -> None:
            try:
                image = self.decode(index)
            except UnreadableImage as error:
                broken[index] = error.reason
                return
            if image.shape != shape:
                raise ValueError(
                    f"images differ in size: {self.paths[first or 0]} has {tuple(shape[1:])} "
                    f"pixels, {self.paths[index]} has {tuple(image.shape[1:])}: set "
                    "image_size (--set dataset.image_size=N) to resize them"
                )
            images[index] = image

        # Decoding a thumbnail takes less time than handing the interpreter to another thread.
        self._each(fill, threads=os.cpu_count() if shape.numel() >= THREADED_PIXELS else 1)
        return ImageTensors(images, self.labels, self.mean, self.std), broken

    def unreadable(self) -> dict[int, str]:
        """Read every file, on all cores: why some are no whole images, by their index."""
        broken: dict[int, str] = {}

        def check(index: int) -> None:
            try:
                decoded(self.paths[index], small=True)
            except UnreadableImage as error:
                broken[index] = error.reason

        self._each(check, threads=os.cpu_count())
        return broken

    def _each(self, work: Callable[[int], None], threads: int | None) -> None:
        def some(start: int) -> None:
            for index in range(start, min(start + _CHUNK, len(self))):
                work(index)

        with ThreadPoolExecutor(max_workers=threads) as pool:
            list(pool.map(some, range(0, len(self), _CHUNK)))

    def _first(self) -> int | None:
        """The first image that can be read, or None."""
        for index in range(len(self)):
            try:
                self.decode(index)
            except UnreadableImage:  # named with all others when they are read
                continue
            return index
        return None
