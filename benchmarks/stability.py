"""Which run-time statistic of a warm start follows the signal that only a long warm-up can measure.

    python benchmarks/stability.py     reads results/frontier-*.json, writes stability.json there

The frontier's warm starts were measured at several rounds: by what the workers say together on
held-out samples (all that a run itself can know), and by the rank correlation of the merged model's
losses with those of long full-data warm-ups (what one wants to know). Here each statistic is
rank-correlated with that quality over all measured rounds of a data set, over those before the
learning rate falls, and over the ends of runs alone, where no common trend in time helps. The
predicted benefit is compared with what the next measured round really brought.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scipy.stats import spearmanr

from benchmarks import RESULTS
from lipt_cords.base.files import read_json, write_json
from lipt_cords.base.provenance import provenance

STATISTICS = {
    "merged_loss": -1, "rank_correlation": 1, "class_cosine": 1, "worker_loss": -1,
    "round_correlation": 1,
}  # fmt: skip
"""Statistics, and the sign with which each should go with quality."""
WANTED = "held_out_rank_correlation"


def measured_rounds(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry a measured merge: its statistics, its quality, and where in its run it stands."""
    found = []
    for row in results["rows"]:
        if row["kind"] != "lipt" or row["rounds"] == 1:
            continue
        points = [point for point in row["points"] if "stability" in point]
        last = points[-1]["critical_path_passes"]
        for point in points:
            done = point["critical_path_passes"] / last
            place = "end" if point is points[-1] else "steady" if done <= 0.85 else "falling"
            found.append(
                {
                    **point["stability"],
                    "quality": point[WANTED],
                    "loss": point["held_out_loss"],
                    "place": place,
                    "run": (row["rounds"], row["seed"], row["local_steps"]),
                }
            )
    return found


def next_fall(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlation of the predicted benefit with how far the true loss falls next."""
    pairs = [
        (one["benefit"], 1 - after["loss"] / one["loss"])
        for one, after in itertools.pairwise(rounds)
        if one["run"] == after["run"] and one["benefit"] is not None
    ]
    agreed = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    return {"rounds": len(pairs), "agreement": agreed}


def agreement(rounds: list[dict[str, Any]], name: str) -> float | None:
    """Rank correlation of a statistic with quality; None where fewer than four rounds have it."""
    pairs = [(one[name], one["quality"]) for one in rounds if one[name] is not None]
    if len(pairs) < 4:
        return None
    return STATISTICS[name] * float(spearmanr(*zip(*pairs, strict=True)).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    sets = {}
    for path in sorted(args.results.glob("frontier-*.json")):
        rounds = measured_rounds(read_json(path))
        parts = {
            "all": rounds,
            "steady": [one for one in rounds if one["place"] == "steady"],
            "end": [one for one in rounds if one["place"] == "end"],
        }
        sets[path.stem.removeprefix("frontier-")] = {
            "rounds": {name: len(part) for name, part in parts.items()},
            "next_fall": next_fall(rounds),
            "agreement": {
                name: {part: agreement(chosen, name) for part, chosen in parts.items()}
                for name in STATISTICS
            },
        }
    payload = {
        "kind": "stability",
        "command": "python benchmarks/stability.py",
        "quality": WANTED,
        "sets": sets,
        "provenance": provenance(),
    }
    for name in STATISTICS:
        shown = {key: found["agreement"][name] for key, found in sets.items()}
        print(
            f"{name:20s}",
            {k: {p: v and round(v, 2) for p, v in x.items()} for k, x in shown.items()},
        )
    print({key: found["next_fall"] for key, found in sets.items()})
    print(write_json(args.results / "stability.json", payload))


if __name__ == "__main__":
    main()
