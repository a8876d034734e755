"""Comparisons without the raw runs: what tables read stays, and bill, seeds, spread and machine.

    python benchmarks/lean.py      rewrite every comparison in results/ that holds more

A run of a comparison also holds its configuration, its curve, and what its subsets held, with
pictures. A report shows these; no table here reads them, and they are most of the bytes. A lean
comparison says what it left out. Whoever resumes or reports an experiment needs the whole results,
which it keeps in the folder given as ``--work``; lean ones are refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import RESULTS
from lipt_cords.base.files import read_json, write_json

KEPT = (
    "method", "label", "fraction", "seed", "status", "error", "test_accuracy", "costs", "notes",
    "revision", "made_on",
)  # fmt: skip
"""Of a run."""
NUMBERED = {"workers": "worker", "rounds": "round"}
"""Of its warm start: which there were."""
LEAN = "lean comparison"


def lean(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results without what no table reads.

    Args:
        results: of ``compare``, or of an experiment whose ``parts`` are such; anything else
            comes back as it is.

    Returns:
        The same, its comparisons of the kind ``lean comparison``, with ``left_out``: what runs held
        beside what is here.
    """
    if "parts" in results:
        return {**results, "parts": [lean(part) for part in results["parts"]]}
    if results.get("kind") != "compare":
        return dict(results)
    runs, left_out = [], set[str]()
    for whole in results["runs"]:
        run = {name: whole[name] for name in KEPT if name in whole}
        left_out |= whole.keys() - {*KEPT, "warm_start"}
        report = whole["warm_start"]
        run["warm_start"] = report and {
            part: [{number: one[number]} for one in report[part]]
            for part, number in NUMBERED.items() if part in report
        }  # fmt: skip
        runs.append(run)
    told = [*sorted(left_out), f"of warm_start all but {' and '.join(NUMBERED)}"]
    return {**results, "kind": LEAN, "left_out": told, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    for path in sorted(parser.parse_args().results.glob("*.json")):
        before = read_json(path)
        after = lean(before)
        if after != before:
            size = path.stat().st_size
            print(f"{write_json(path, after).name}: {size:,} to {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
