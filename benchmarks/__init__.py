"""Experiments, and the tables that are made from what they found.

Each runs as a script, ``python benchmarks/memory/run.py``, from any folder, or as a module,
``python -m benchmarks.memory.run``, from the repository's. A script takes its own folder off
``sys.path``, where ``tables`` or ``memory`` would hide packages of these names.
"""

from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
"""Where what was found is kept."""
EARLIER = {
    "optimizer": "sgd", "schedule": "constant", "sparsity": "magnitude", "rounds": 1,
    "outer": "average",
}  # fmt: skip
"""Options of a warm start in experiments that were made before `lipt` was a preset of many merges
with Muon: their commands make the same files again."""
