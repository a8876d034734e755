"""Draw README's picture: what a chosen subset gains, and accuracy against waiting.

python benchmarks/headline_plot.py        reads results/*.json, writes docs/images/pays.png
"""

from __future__ import annotations

import io
import statistics
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.tables.choose import above_random, fractions_of, measured
from benchmarks.tables.headline import NAMES
from benchmarks.tables.question import accuracies, asked, by_method, mean
from lipt_cords.base.files import write_atomic

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "pays.png"
COLOURS = {"cifar10-jpeg": "#0072B2", "fashion-mnist": "#D55E00"}
WAITS = (
    ("rs2", "RS2, no warm-up", "o", (8, -3)),
    ("one-worker-annealed+rs2", "RS2 after one worker", "s", (8, -3)),
    ("lipt+rs2", "RS2 after LiPT", "*", (8, 4)),
    ("full=10+rs2", "RS2 after 10 full epochs", "D", (-8, -12)),
    ("full=8+glister", "GLISTER after 8 full epochs", "v", (-8, -12)),
    ("lipt+glister", "GLISTER after LiPT", "^", (8, -10)),
)
"""Methods with their marks, and where their names stand."""


def gained(axis: Any) -> None:
    """Points above a random subset of equal size, over the fraction."""
    for name, results in measured():
        fractions = fractions_of(results)
        found = [[100 * one for one in above_random(results, fraction)] for fraction in fractions]
        axis.errorbar(
            [100 * fraction for fraction in fractions],
            [statistics.fmean(some) for some in found],
            [statistics.stdev(some) for some in found],
            marker="o", markersize=4, capsize=2.5, color=COLOURS[name], label=NAMES[name],
        )  # fmt: skip
    axis.axhline(0, color="#777777", linewidth=0.8, linestyle=":")
    axis.set_xscale("log")
    axis.set_xticks([1, 5, 10, 20, 30], ["1", "5", "10", "20", "30"])
    axis.minorticks_off()
    axis.set_xlabel("Subset, % of the data")
    axis.set_title("A subset chosen without training:\npoints above a random one", loc="left")
    axis.legend(frameon=False)


def waited(axis: Any) -> None:
    """Accuracy of what follows on a tenth, over all passes that must wait for one another."""
    runs = by_method(dict(asked("warm-up"))["cifar10-jpeg"])
    for method, label, mark, place in WAITS:
        x, y = mean(runs[method], "critical_passes"), 100 * mean(runs[method])
        ours = "lipt" in method
        axis.errorbar(
            x, y, 100 * statistics.stdev(accuracies(runs[method])), marker=mark, capsize=2.5,
            markersize=11 if mark == "*" else 6, color="#009E73" if ours else "#555555",
        )  # fmt: skip
        axis.annotate(
            label, (x, y), textcoords="offset points", xytext=place, fontsize=8,
            ha="left" if place[0] > 0 else "right",
        )  # fmt: skip
    axis.set_xlim(0, 260_000)
    axis.set_xticks([0, 50_000, 100_000, 150_000, 200_000, 250_000],
                    ["0", "50,000", "100,000", "150,000", "200,000", "250,000"])  # fmt: skip
    axis.set_xlabel("Waiting: passes that follow one another, warm-up and training")
    axis.set_title("A warm-up on 16 workers, then a tenth of CIFAR-10 (JPEG):\ntest accuracy, %",
                   loc="left")  # fmt: skip


def main() -> None:
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    gained(left)
    waited(right)
    for axis in (left, right):
        axis.title.set_fontsize(9.5)
        axis.xaxis.label.set_fontsize(8.5)
        axis.tick_params(labelsize=8)
        axis.grid(True, color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None})
    print(write_atomic(PICTURE, buffer.getvalue()))


if __name__ == "__main__":
    main()
