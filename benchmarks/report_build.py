"""How long a whole report takes to build, and how large it is.

    python benchmarks/report_build.py --output benchmarks/results

Five methods at six fractions with three seeds on bundled digits are run first, then the
report is built three times, in a process of its own each, as a user's command does it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import RESULTS
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.cords.config import RunConfig
from lipt_cords.experiments.compare import compare

METHODS = ("random", "rs2", "full=5", "lipt", "one-worker")
FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
CONFIG = {
    "dataset": {"name": "digits"},
    "model": {"architecture": "cnn"},
    "dataloader": {"batch_size": 16},
    "optimizer": {"lr": 0.02, "nesterov": True},
    "dss_args": {
        "type": "GradMatch", "selector": "fast", "fraction": 0.1, "select_every": 5,
        "warm_start": {
            "num_workers": 8, "common_steps": 40, "epochs": 4, "batch_size": 32, "lr": 0.02,
            "optimizer": "sgd", "schedule": "constant", "sparsity": "magnitude",
            "rounds": 4, "outer": "nesterov", "outer_lr": 0.7, "outer_momentum": 0.8,
        },
    },
    "train_args": {"num_epochs": 20, "device": "cpu"},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--builds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        compare(
            RunConfig.parse(CONFIG), methods=METHODS, fractions=FRACTIONS, seeds=range(3),
            output=place,
        )  # fmt: skip
        seconds = []
        for _ in range(args.builds):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "lipt_cords", "report", place], check=True)
            seconds.append(time.perf_counter() - began)
        page = (Path(place) / "report.html").read_text()
    payload = {
        "kind": "report_build",
        "command": "python benchmarks/report_build.py",
        "methods": METHODS,
        "fractions": FRACTIONS,
        "seeds": 3,
        "figures": page.count('class="figure"'),
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "bytes": len(page.encode()),
        "provenance": provenance(),
    }
    print(write_json(output_directory(args.output) / "report_build.json", payload))


if __name__ == "__main__":
    main()
