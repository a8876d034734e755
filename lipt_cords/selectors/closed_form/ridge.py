"""Exact predictions of every sample by a ridge regression on all others, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from lipt_cords.base.devices import resolve_device, with_float64
from lipt_cords.base.errors import unknown_name
from lipt_cords.base.process_memory import free_bytes
from lipt_cords.base.sizes import show_bytes
from lipt_cords.models.features.extract import Features, check_rows
from lipt_cords.selectors.checks import check_labels, check_positive
from lipt_cords.selectors.closed_form.kernel import nystroem
from lipt_cords.selectors.closed_form.principal import principal

RIDGES = tuple(10.0 ** (power / 2) for power in range(-9, 3))
"""Strengths that ``ridge="auto"`` tries."""
LANDMARKS = 2_000
KERNEL_WIDTH = 400
"""Principal directions of the features in which a kernel measures distances."""
CHUNK = 8_192
JUDGED = 50_000
"""Of larger pools, strengths are compared on every second chunk, every third, and so on."""
KEPT = 2**26
"""Numbers of rotated rows that are kept between two passes; of larger pools they are made twice."""
TEMPERATURES = (1e-3, 1e2)
Kernel = Literal["rbf"]
Precision = Literal["float64", "float32"]
PRECISIONS: dict[str, torch.dtype] = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class OutOfSample:
    """What a model that has not seen a sample says of it, for every sample.

    Attributes:
        predictions: (N, C) float64, regressions onto one-hot labels; not probabilities.
        labels: (N,) int64, the given label of each.
        classes: (C,) int64, the label of each column, ascending.
        ridge: the strength, over the mean eigenvalue of the features' covariance.
        error: mean squared error of the predictions.
        given: probabilities of one's own, in place of those that are made of the predictions.
    """

    predictions: Tensor
    labels: Tensor
    classes: Tensor
    ridge: float
    error: float
    given: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def columns(self) -> Tensor:
        """(N,) int64, the column of each sample's label."""
        return torch.searchsorted(self.classes, self.labels)

    @cached_property
    def probabilities(self) -> Tensor:
        """(N, C) float64, a softmax of the predictions at the temperature at which the given labels
        are most likely."""
        if self.given is not None:
            return self.given
        return _probabilities(self.predictions, self.columns)

    @property
    def margin(self) -> Tensor:
        """(N,) float64: the largest prediction of another class minus that of the label.

        Larger for harder samples; above 0 where the prediction is another class.
        """
        own = self.columns[:, None]
        right = self.predictions.gather(1, own)[:, 0]
        others = self.predictions.scatter(1, own, -torch.inf).amax(dim=1)
        return others - right

    @property
    def loss(self) -> Tensor:
        """(N,) float64: minus the logarithm of the label's probability."""
        return -self.probabilities.gather(1, self.columns[:, None])[:, 0].log()

    @property
    def likely(self) -> Tensor:
        """(N,) int64: the class of the largest prediction."""
        return self.classes[self.predictions.argmax(dim=1)]

    @property
    def accuracy(self) -> float:
        """Share of samples whose likely class is their label."""
        return float((self.likely == self.labels).double().mean())

    @property
    def warning(self) -> str | None:
        """That the features do not tell the classes apart; None where they do.

        They do if, by two standard deviations, more labels are predicted than are of the most
        frequent class, or a class is predicted more strongly for its own samples than for all:
        where classes are of unequal sizes the most frequent one may be likely everywhere.
        """
        share = float(torch.bincount(self.columns).max()) / len(self)
        chance = share + 2 * (share * (1 - share) / len(self)) ** 0.5
        own = self.predictions.gather(1, self.columns[:, None])[:, 0]
        gain = own - self.predictions.mean(dim=0)[self.columns]
        told = float(gain.mean()) > 2 * float(gain.std()) / len(self) ** 0.5
        if told or self.accuracy > min(chance, 1 - 1 / len(self)):
            return None
        return (
            "the features do not tell the classes apart, so what is found by them is chance: they "
            f"predict {self.accuracy:.0%} of the labels, and {share:.0%} are of the most frequent "
            "class. Give other features, such as those of a trained net"
        )


def leave_one_out(
    features: Features | Tensor | NDArray[Any],
    labels: Any,
    *,
    ridge: float | Literal["auto"] = "auto",
    kernel: Kernel | None = None,
    balanced: bool = False,
    landmarks: int = LANDMARKS,
    seed: int = 0,
    device: torch.device | str = "auto",
    precision: Precision = "float64",
) -> OutOfSample:
    """Predict every sample by a ridge regression on all others.

    One fit gives all N leave-one-out predictions: the residual of a sample, divided by one minus
    its leverage, is the residual of the regression without it (Allen, 1974). The intercept is not
    penalised, and is refitted too. Equal to N refits, up to rounding in float64.

    Args:
        features: (N, F); with a kernel, its features are fitted without labels on all rows.
        labels: (N,) integers.
        ridge: strength over the mean eigenvalue of the features' covariance, above 0; ``"auto"``
            takes, of 12 from 3e-5 to 10, the one with the smallest leave-one-out squared error,
            from 100,000 samples on that of a part of them.
        kernel: None: linear; ``"rbf"``: a radial kernel through ``landmarks`` rows (Nystroem) in
            the first 400 principal directions.
        balanced: every class has the same weight in the regression, whatever its size.
        landmarks: at most this many; the most memory is 8 landmarks^2 bytes, a few times.
        seed: of draws for the kernel.
        device: where products are made.
        precision: of products of rows; ``"float32"`` takes half the time, enough for an order by
            difficulty. The covariance is factorised in float64.

    Raises:
        ValueError: fewer than two samples or classes, other numbers of labels than rows, rows that
            are not finite or all equal, options out of range, or more features than memory.

    >>> rows = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2], [0.15]])
    >>> found = leave_one_out(rows, [0, 0, 0, 1, 1, 1, 1])  # the last one looks wrong
    >>> found.likely.tolist(), int(found.margin.argmax())
    ([0, 0, 0, 1, 1, 1, 0], 6)
    """
    given = check_labels(labels)
    rows = check_rows(features.values if isinstance(features, Features) else features, len(given))
    check_kernel(kernel)
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, tuple(PRECISIONS))
    classes, columns = classes_of(given)
    if ridge != "auto" and not 0 < ridge < float("inf"):
        raise ValueError(f"ridge must be 'auto' or a number above 0, received {ridge!r}")
    if kernel is not None:
        width = min(check_positive("landmarks", landmarks), len(rows))
        rows = nystroem(principal(rows, KERNEL_WIDTH, seed), width, seed)
    width = rows.shape[1]
    needed, free = 8 * 4 * width * width, free_bytes(torch.device("cpu"))
    if needed > free:
        raise ValueError(
            f"{width:,} features need {show_bytes(needed)} for their covariance, and "
            f"{show_bytes(free)} are free: bring fewer features, or set kernel='rbf', which takes "
            "as many as it has landmarks"
        )
    weights = None
    if balanced:
        counts = torch.bincount(columns).double()
        weights = (len(columns) / len(counts) / counts)[columns]
    strengths = RIDGES if ridge == "auto" else (float(ridge),)
    at = with_float64(resolve_device(device))
    predictions, strength, error = _fit(
        rows, columns, len(classes), strengths, weights, at, PRECISIONS[precision]
    )
    return OutOfSample(predictions, given, classes, strength, error)


def classes_of(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The labels that occur, ascending, (C,), and the place of each sample's among them, (N,).

    Raises:
        ValueError: fewer than two of them.
    """
    classes, columns = torch.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"expected samples of at least two classes, received {len(labels)} of one class"
        )
    return classes, columns


def check_kernel(kernel: object) -> None:
    """Refuse an unknown kernel."""
    if kernel not in (None, "rbf"):
        raise unknown_name("kernel", kernel, ("rbf",))


def _fit(
    rows: Tensor,
    columns: Tensor,
    classes: int,
    strengths: tuple[float, ...],
    weights: Tensor | None,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, float, float]:
    """Leave-one-out predictions, the strength that made them, and their mean squared error."""
    count, width = rows.shape
    each = torch.ones(count, dtype=torch.float64) if weights is None else weights
    total = float(each.sum())
    mean, target = torch.zeros(width, dtype=torch.float64), torch.zeros(classes).double()
    for part in _parts(count):
        mean += each[part] @ rows[part].double()
    mean /= total
    target.index_add_(0, columns, each).div_(total)
    mean, target, each = (one.to(device, dtype) for one in (mean, target, each))

    def centred(part: slice) -> tuple[Tensor, Tensor]:
        """Rows and one-hot labels, less their means."""
        x = rows[part].to(device, dtype) - mean
        y = -target.expand(len(x), -1).clone()
        y[torch.arange(len(x), device=device), columns[part].to(device)] += 1.0
        return x, y

    gram = torch.zeros(width, width, dtype=torch.float64, device=device)
    moment = torch.zeros(width, classes, dtype=torch.float64, device=device)
    for part in _parts(count):
        x, y = centred(part)
        weighted = (x * each[part, None]).T
        gram += weighted @ x
        moment += weighted @ y
    values, vectors = torch.linalg.eigh(gram)
    del gram
    values = values.clamp(min=0.0)
    moment = vectors.T @ moment
    vectors = vectors.to(dtype)
    scale = float(values.mean())
    inverses = 1.0 / (values + scale * torch.tensor(strengths, device=device).double()[:, None])
    solutions = (inverses[:, :, None] * moment).to(dtype)  # (S, F, C)
    inverses = inverses.to(dtype)
    kept: dict[int, Tensor] = {}

    def rotated(part: slice, x: Tensor) -> Tensor:
        """Rows in the directions of the covariance."""
        found = kept.pop(part.start, None)
        return x @ vectors if found is None else found

    def residuals(part: slice, which: slice, keep: bool = False) -> tuple[Tensor, Tensor]:
        """Residuals of the regressions without each sample, (S, B, C), and the targets (B, C)."""
        x, y = centred(part)
        z = rotated(part, x)
        if keep:
            kept[part.start] = z
        predicted = (z @ solutions[which].transpose(0, 1).flatten(1)).unflatten(1, (-1, classes))
        leverage = (z * z) @ inverses[which].T + 1.0 / total
        left = (1.0 - each[part, None] * leverage).clamp_(min=torch.finfo(dtype).eps)
        found: Tensor = (y[:, None] - predicted) / left[:, :, None]
        return found.transpose(0, 1), y

    best = 0
    if len(strengths) > 1:
        errors = torch.zeros(len(strengths), dtype=torch.float64, device=device)
        for part in _parts(count)[:: max(1, count // JUDGED)]:
            found, _ = residuals(part, slice(None), keep=count * width <= KEPT)
            errors += found.square().sum(dim=2) @ each[part]
        best = int(errors.argmin())
    predictions = torch.empty(count, classes, dtype=torch.float64)
    error = 0.0
    for part in _parts(count):
        (found,), y = residuals(part, slice(best, best + 1))
        error += float(found.square().sum())
        predictions[part] = (y + target - found).cpu()
    return predictions, strengths[best], error / (count * classes)


def _parts(count: int) -> list[slice]:
    return [slice(start, min(count, start + CHUNK)) for start in range(0, count, CHUNK)]


def _probabilities(predictions: Tensor, columns: Tensor) -> Tensor:
    """A softmax at the temperature at which the labels are most likely."""
    from scipy.optimize import minimize_scalar  # slow to import, and only needed here

    def mean_loss(log_temperature: float) -> float:
        scaled = predictions / float(torch.tensor(log_temperature).exp())
        return float(torch.nn.functional.cross_entropy(scaled, columns))

    low, high = (float(torch.tensor(bound).log()) for bound in TEMPERATURES)
    found = minimize_scalar(
        mean_loss, bounds=(low, high), method="bounded", options={"xatol": 1e-3}
    )
    return (predictions / float(torch.tensor(found.x).exp())).softmax(dim=1)
