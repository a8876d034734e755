"""Draw the frontier: gradient signal against the critical path, and against bytes.

python benchmarks/frontier_plot.py        reads results/frontier-*.json, writes results/frontier.png
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import RESULTS
from benchmarks.tables.distributed import SETS, grouped
from lipt_cords.base.files import read_json, write_atomic

SIGNALS = (
    ("pool_rank_correlation", "Rank correlation of losses\nwith long warm-ups"),
    ("pool_class_cosine", "Cosine of class gradients\nwith long warm-ups"),
    ("held_out_loss", "Held-out loss"),
)
COLOURS = {"full": "#555555", "lipt": "#0072B2", "ddp": "#D55E00", "one worker": "#009E73"}
NAMES = {
    "full": "full data, 10 epochs", "lipt": "16 workers, by rounds", "ddp": "data-parallel",
    "one worker": "one worker",
}  # fmt: skip


def draw(figure: Any, axes: Any, rows: list[dict[str, Any]], title: str) -> None:
    for axis, (signal, label) in zip(axes, SIGNALS, strict=True):
        for group in grouped(rows).values():
            kind = group[0]["kind"]
            ends = [(row["end"]["critical_path_passes"], row["end"][signal]) for row in group]
            style = {"color": COLOURS[kind], "alpha": 0.85}
            if kind == "full":
                for row in group:
                    points = [(p["critical_path_passes"], p[signal]) for p in row["points"]]
                    axis.plot(*zip(*points, strict=True), linewidth=0.9, **style)
            axis.plot(*zip(*ends, strict=True), "o", markersize=4.5, linestyle="", **style)
            if kind == "lipt":
                x, y = ends[0]
                short = str(group[0]["rounds"]) + ("a" if group[0]["outer"] == "average" else "")
                axis.annotate(
                    short, (x, y), textcoords="offset points", xytext=(5, -3), fontsize=6.5
                )
        axis.set_xscale("log")
        axis.set_title(f"{title}: {label}", fontsize=8.5, loc="left", color="#444444")
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7.5)
        axis.set_xlabel("Sample-passes on the critical path", fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    figure = Figure(figsize=(11, 3.4 * len(SETS)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(SETS), len(SIGNALS), squeeze=False)
    for axes, name in zip(grid, SETS, strict=True):
        draw(figure, axes, read_json(args.results / f"frontier-{name}.json")["rows"], name)
    for kind, colour in COLOURS.items():
        figure.axes[0].plot([], [], "o-", color=colour, label=NAMES[kind])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5,
        title="Numbers: rounds (a: plain average, else outer Nesterov)", title_fontsize=8,
    )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    print(write_atomic(args.results / "frontier.png", buffer.getvalue()))


if __name__ == "__main__":
    main()
