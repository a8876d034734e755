"""A subset chosen without training against a random one, on tables and on texts.

    python benchmarks/text_and_tables.py

Nothing is downloaded. The tables are the two that scikit-learn bundles with the most rows: digits
(8 by 8 pixels as 64 columns) and breast cancer. The texts are docstrings, read from source files
without importing them: of six packages, labelled by package, and of the standard library, labelled
by field. The names of packages and modules are taken out of the texts. Other versions of them hold
other texts; the versions are in the results.

In every seed the data are split anew, the pool and the held-out part are the same for both
subsets, and the same model is fitted to each subset alone: logistic regression on standardised
columns, or on TF-IDF of words. ``choose_subset`` has no option set.
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import RESULTS
from lipt_cords import choose_subset, select
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import generator

PACKAGES = ("torch", "sklearn", "scipy", "numpy", "matplotlib", "networkx")
FIELDS = {
    "network": ("email", "http", "urllib", "xmlrpc", "html", "xml", "smtplib.py", "ftplib.py",
                "imaplib.py", "socketserver.py", "ssl.py", "mailbox.py"),
    "processes": ("asyncio", "concurrent", "multiprocessing", "threading.py", "subprocess.py",
                  "sched.py", "queue.py", "selectors.py", "signal.py"),
    "screens": ("tkinter", "idlelib", "turtle.py", "curses"),
    "language": ("ast.py", "importlib", "inspect.py", "dis.py", "lib2to3", "typing.py",
                 "tokenize.py", "pickle.py", "pickletools.py", "dataclasses.py", "abc.py"),
    "numbers and time": ("decimal.py", "_pydecimal.py", "fractions.py", "statistics.py",
                         "datetime.py", "_strptime.py", "calendar.py", "random.py", "numbers.py",
                         "zoneinfo", "ipaddress.py", "collections"),
}  # fmt: skip
"""Of the standard library, by its folders and files."""
EACH, SHORTEST, LONGEST = 1_000, 60, 400
"""Docstrings of a class at most; characters of a docstring that are asked for and read."""
HELD_OUT = 1 / 3
FRACTIONS = (0.01, 0.05)

Examples = list[tuple[Any, int]]


def docstrings(path: Path) -> Iterator[str]:
    """Those of a source file, or of all below a folder, in order, without white space around."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
        if {"test", "tests", "idle_test"} & set(file.parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escapes in strings of others
            try:
                tree = ast.parse(file.read_bytes())
            except SyntaxError:  # templates and examples for other versions
                continue
        for node in ast.walk(tree):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield " ".join(text.split())


def texts(classes: dict[str, list[Path]], names: list[str]) -> Examples:
    """Different docstrings of every class, at most 1,000 drawn of each, without these names."""
    hidden = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b", re.IGNORECASE)
    seen: set[str] = set()
    found: Examples = []
    for label, (name, paths) in enumerate(classes.items()):
        mine = []
        for text in (text for path in paths for text in docstrings(path)):
            short = hidden.sub(" ", text)[:LONGEST]
            if len(short) >= SHORTEST and short not in seen:
                seen.add(short)
                mine.append((short, label))
        draws = generator(0, "docstrings", name)
        drawn = torch.randperm(len(mine), generator=draws)[:EACH].sort().values
        found += [mine[index] for index in drawn.tolist()]
    return found


def packages() -> Examples:
    """Docstrings by package."""
    places = {}
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ValueError(f"the benchmark reads docstrings of {name}: install it")
        places[name] = [Path(spec.origin).parent]
    return texts(places, [*PACKAGES, "np", "plt", "nx", "scikit", "pytorch"])


def library() -> Examples:
    """Docstrings of the standard library by field."""
    root = Path(sysconfig.get_path("stdlib"))
    names = [part.removesuffix(".py") for parts in FIELDS.values() for part in parts]
    return texts({name: [root / part for part in parts] for name, parts in FIELDS.items()}, names)


def table(bundled: Any) -> Examples:
    """Rows of a data set that scikit-learn bundles."""
    rows = torch.tensor(bundled.data, dtype=torch.float32)
    return list(zip(rows, bundled.target.tolist(), strict=True))


SETS = {
    "digits": lambda: table(load_digits()),
    "breast cancer": lambda: table(load_breast_cancer()),
    "docstrings by package": packages,
    "docstrings by field": library,
}


def model(of_texts: bool) -> Pipeline:
    """The classifier that learns from a subset alone."""
    first = TfidfVectorizer(sublinear_tf=True) if of_texts else StandardScaler()
    return make_pipeline(first, LogisticRegression(C=10.0 if of_texts else 1.0, max_iter=2_000))


def accuracy(subset: Examples, held_out: Examples) -> float:
    """Of the model fitted to a subset, on held-out samples."""
    (inputs, labels), (others, truth) = (zip(*part, strict=True) for part in (subset, held_out))
    of_texts = isinstance(inputs[0], str)
    given, asked = (
        (inputs, others) if of_texts else (torch.stack(inputs).numpy(), torch.stack(others).numpy())
    )
    return float(model(of_texts).fit(given, labels).score(asked, truth))


def compared(name: str, examples: Examples, seed: int, fraction: float) -> dict[str, Any]:
    """Both subsets of one split."""
    labels = [label for _, label in examples]
    pool, held_out = train_test_split(
        examples, test_size=HELD_OUT, stratify=labels, random_state=seed
    )
    given = torch.tensor([label for _, label in pool])
    budget = max(len(set(labels)), round(fraction * len(pool)))
    random = select("random", given, budget, seed=seed)
    began = time.process_time()
    chosen = choose_subset(pool, budget, seed=seed)
    seconds = time.process_time() - began
    found = {
        method: accuracy([pool[i] for i in subset.indices.tolist()], held_out)
        for method, subset in (("random", random), ("chosen", chosen))
    }
    return {
        "set": name, "fraction": fraction, "seed": seed, "pool": len(pool), "budget": budget,
        **found, "cut": chosen.info["cut"], "features": chosen.info["features"],
        "leave_one_out_accuracy": chosen.info["leave_one_out_accuracy"],
        "choosing_cpu_seconds": seconds,
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every set and fraction: the mean difference, and whether it is more than a deviation."""
    found = []
    for name, fraction in dict.fromkeys((row["set"], row["fraction"]) for row in rows):
        mine = [row for row in rows if (row["set"], row["fraction"]) == (name, fraction)]
        differences = [row["chosen"] - row["random"] for row in mine]
        mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
        found.append(
            {
                "set": name, "fraction": fraction, "difference": mean, "deviation": deviation,
                "ahead": mean > deviation, "behind": mean < -deviation,
            }
        )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", choices=SETS, nargs="+", default=list(SETS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("a deviation needs at least two seeds")
    torch.set_num_threads(1)
    rows, sizes = [], {}
    for name in args.sets:
        examples = SETS[name]()
        labels = [label for _, label in examples]
        sizes[name] = [labels.count(label) for label in sorted(set(labels))]
        for fraction in FRACTIONS:
            for seed in range(args.seeds):
                rows.append(compared(name, examples, seed, fraction))
                print(rows[-1], flush=True)
    payload = {
        "kind": "text and tables",
        "command": "python benchmarks/text_and_tables.py",
        "samples_of_each_class": sizes,
        "sources": {name: version("scikit-learn" if name == "sklearn" else name)
                    for name in PACKAGES} | {"python": sys.version.split()[0]},
        "rows": rows,
        "summary": summary(rows),
        "provenance": provenance(),
    }  # fmt: skip
    print(write_json(output_directory(args.output) / "text_and_tables.json", payload))


if __name__ == "__main__":
    main()
