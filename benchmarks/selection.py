"""Selectors against CORDS 0.0.4 on one thread: time, growth, memory, and the shape of ImageNet.

    python benchmarks/selection.py --output benchmarks/results            # the table and curves
    python benchmarks/selection.py --cases small --output DIR             # seconds, to try it out
    python benchmarks/selection.py --cases imagenet --output DIR          # 12 GB of disk

Both sides start from the same network and data and end with indices and weights, so gradients are
included. Rounds alternate between the two; figures are ratios of medians of processor time on one
thread. CORDS's CRAIG recompiles numba kernels at every call; that time is taken off its side.
A script named selectors.py would shadow Python's own module of that name.
Writes selection.json, and selection.png when matplotlib is installed.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import RESULTS
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance
from lipt_cords.base.randomness import generator, preserved_rng
from lipt_cords.cords.importing import import_cords
from lipt_cords.models.gradients import LastLayerGradients, last_layer_gradients
from lipt_cords.selectors import select, selector_names

CLASSES = 10
INPUTS = 64
FRACTION = 0.1

Case = tuple[str, str, int, int]
"""Selector, grouping, embedding width E, pool size N."""

TABLE: dict[Case, float] = {
    ("glister", "class", 512, 4000): 30,
    ("glister", "class", 512, 8000): 30,
    ("glister", "all", 64, 8000): 20,
    ("gradmatch", "class", 64, 8000): 50,
    ("gradmatch", "class", 512, 4000): 20,
    ("craig", "class", 512, 2000): 200,
    ("glister", "class", 512, 500): 1,
    ("glister", "all", 64, 500): 1,
    ("gradmatch", "class", 64, 500): 1,
    ("gradmatch", "class", 512, 500): 1,
    ("craig", "class", 512, 500): 1,
    ("random", "all", 64, 500): 1,
}
"""The least ratio, CORDS's seconds over ours."""

SMALL: dict[Case, float] = {case: least for case, least in TABLE.items() if case[3] <= 500}


class Net(nn.Module):
    """A small network with CORDS's contract: an embedding of width E under a linear head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Linear(INPUTS, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor, last: bool = False, freeze: bool = False) -> Any:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze):
            embeddings = self.body(x).relu()
        logits = self.head(embeddings)
        return (logits, embeddings) if last else logits

    def get_embedding_dim(self) -> int:
        return self.head.in_features


def data_of(samples: int, seed: int) -> TensorDataset:
    """Ten Gaussian clusters that overlap, so that gradients differ in size and direction."""
    draws = generator(seed, "benchmark", samples)
    centres = torch.randn(CLASSES, INPUTS, generator=generator(0, "centres"))
    labels = torch.randint(CLASSES, (samples,), generator=draws)
    noise = torch.randn(samples, INPUTS, generator=draws)
    return TensorDataset(0.4 * centres[labels] + noise, labels)


def network(width: int) -> Net:
    """A network after a few steps of training: neither random nor converged."""
    with preserved_rng():
        torch.manual_seed(0)
        net = Net(width)
    train = data_of(2000, 7)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(train.tensors[0]), train.tensors[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def ours(case: Case, net: Net, train: TensorDataset, held_out: TensorDataset) -> Callable[[], Any]:
    """Gradients and selection by this package."""
    name, per, _, size = case

    def run() -> Any:
        if name == "random":
            return select(name, train.tensors[1], int(FRACTION * size), per="all")
        gradients = last_layer_gradients(net, train)
        validation = last_layer_gradients(net, held_out) if name == "glister" else None
        budget = int(FRACTION * size)
        return select(name, gradients, budget, val_gradients=validation, per=per)  # type: ignore[arg-type]

    return run


def theirs(
    case: Case, net: Net, train: TensorDataset, held_out: TensorDataset
) -> Callable[[], Any]:
    """The same by CORDS's strategy, on a sequential loader."""
    name, per, _, size = case
    import_cords()
    from cords.selectionstrategies.SL import (
        CRAIGStrategy,
        GLISTERStrategy,
        GradMatchStrategy,
        RandomStrategy,
    )

    loaders = [DataLoader(data, batch_size=500) for data in (train, held_out)]
    kind = {"class": "PerClass", "all": "Supervised"}[per]
    loss, log = nn.CrossEntropyLoss(reduction="none"), logging.getLogger("cords")
    if name == "glister":
        strategy = GLISTERStrategy(
            *loaders, net, loss, 0.01, "cpu", CLASSES, True, kind, "Naive", log
        )
    elif name == "gradmatch":
        strategy = GradMatchStrategy(
            *loaders, net, loss, 0.01, "cpu", CLASSES, True, kind, log, lam=0.0
        )
    elif name == "craig":
        strategy = CRAIGStrategy(*loaders, net, loss, "cpu", CLASSES, True, False, kind, log)
    else:
        random = RandomStrategy(loaders[0], online=True)
        return lambda: random.select(int(FRACTION * size))
    return lambda: strategy.select(int(FRACTION * size), net.state_dict())


class Compilation:
    """Processor seconds that numba spends compiling; CORDS's CRAIG does so at every call."""

    def __init__(self) -> None:
        self.seconds, self._depth, self._started = 0.0, 0, 0.0

    def listen(self) -> None:
        from numba.core import event

        outer = self

        class Listener(event.Listener):
            def on_start(self, _: Any) -> None:
                outer._depth += 1
                if outer._depth == 1:
                    outer._started = time.process_time()

            def on_end(self, _: Any) -> None:
                outer._depth -= 1
                if outer._depth == 0:
                    outer.seconds += time.process_time() - outer._started

        event.register("numba:compile", Listener())


def _inputs(case: Case) -> tuple[Net, TensorDataset, TensorDataset]:
    _, _, width, size = case
    return network(width), data_of(size, 0), data_of(max(100, size // 10), 1)


def seconds_of(run: Callable[[], Any]) -> float:
    """Processor time of one call on one thread, which other programs do not disturb.

    CORDS's floating-point settings and random draws are kept inside.
    """
    with preserved_rng(), np.errstate(all="ignore"):
        started = time.process_time()
        run()
        return time.process_time() - started


def compare(case: Case, least: float, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    inputs = _inputs(case)
    mine, other = ours(case, *inputs), theirs(case, *inputs)
    compilation = Compilation()
    if case[0] == "craig":
        compilation.listen()
    seconds_of(mine)
    seconds_of(mine)
    fast, slow, compiled = [], [], []
    for _ in range(rounds):
        before = compilation.seconds
        spent = seconds_of(other)
        compiled.append(compilation.seconds - before)
        slow.append(spent - compiled[-1])
        fast.extend(seconds_of(mine) for _ in range(3))
    name, per, width, size = case
    row = {
        "selector": name,
        "per": per,
        "embedding_dim": width,
        "samples": size,
        "cords_seconds": statistics.median(slow),
        "cords_compile_seconds_excluded": statistics.median(compiled),
        "seconds": statistics.median(fast),
        "ratio": statistics.median(slow) / statistics.median(fast),
        "at_least": least,
        "rounds": rounds,
    }
    print(
        f"{name:10} {per:5} E={width:<4} N={size:<6} CORDS {row['cords_seconds']:.4f} s, "
        f"here {row['seconds']:.4f} s: {row['ratio']:.1f}x (at least {least}x)",
        flush=True,
    )
    return row


def curve(name: str, width: int, sizes: list[int]) -> dict[str, Any]:
    """Seconds of one selector per class over N, and the exponent of their growth."""
    points = []
    for size in sizes:
        case = (name, "class", width, size)
        net, train, held_out = _inputs(case)
        run = ours(case, net, train, held_out)
        points.append(statistics.median(seconds_of(run) for _ in range(3)))
    slope = np.polyfit(np.log(sizes), np.log(points), 1)[0]
    steepest = math.log(points[-1] / points[-2]) / math.log(sizes[-1] / sizes[-2])
    print(f"{name:10} E={width:<4} N^{slope:.2f}, at the end N^{steepest:.2f}", flush=True)
    return {
        "selector": name, "embedding_dim": width, "samples": sizes, "seconds": points,
        "exponent": float(slope), "exponent_at_the_end": steepest,
    }  # fmt: skip


def random_gradients(samples: int, classes: int, width: int, seed: int) -> LastLayerGradients:
    """Factors of the right shape and scale, without a network."""
    draws = generator(seed, "factors")
    embeddings = torch.randn(samples, width, generator=draws).relu_()
    head = torch.randn(classes, width, generator=generator(0, "head")) / width**0.5
    labels = torch.randint(classes, (samples,), generator=draws)
    logits = embeddings @ head.T
    grads = logits.softmax(dim=1)
    grads[torch.arange(samples), labels] -= 1
    return LastLayerGradients(grads, embeddings, labels, logits)


def status_bytes(field: str) -> int:
    """A field of this process's status in bytes; unlike getrusage's peak, none is inherited."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}: run this benchmark on Linux")


@contextmanager
def watched(field: str) -> Iterator[list[int]]:
    """Readings of a field of this process's status, twenty a second, while the body runs."""
    readings, done = [status_bytes(field)], threading.Event()

    def read() -> None:
        while not done.wait(0.05):
            readings.append(status_bytes(field))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield readings
    finally:
        done.set()
        reader.join()


def memory_row(name: str, samples: int, width: int) -> dict[str, Any]:
    """Peak extra memory of one selection per class; run it in a process of its own."""
    pool = random_gradients(samples, CLASSES, width, 0)
    held_out = random_gradients(samples // 10, CLASSES, width, 1)
    tiny = random_gradients(200, CLASSES, width, 2)
    select(name, tiny, 20, val_gradients=tiny)  # libraries load their workspaces
    # Pages of libraries that are read for the first time are no memory of the selection.
    before = status_bytes("RssAnon")
    with watched("RssAnon") as anonymous:
        chosen = select(name, pool, int(FRACTION * samples), val_gradients=held_out)
    factored = pool.logit_grads.nbytes + pool.embeddings.nbytes
    extra = max(anonymous) - before
    return {
        "selector": name, "samples": samples, "embedding_dim": width, "extra_bytes": extra,
        "factored_bytes": factored, "ratio": extra / factored, "seconds": chosen.seconds,
        "at_most": 3.0,
    }  # fmt: skip


def imagenet_row(name: str, share: float, folder: Path) -> dict[str, Any]:
    """One selection on factors of ImageNet's shape, mapped from files, per class at 10 %."""
    # A share of the classes, each at its full size: the time is then linear in the share.
    samples, classes, width = int(1_281_167 * share), 1000, 512
    present = max(1, round(classes * share))
    pool = _mapped(folder, "train", samples, classes, width, present)
    held_out = _mapped(folder, "val", 50 * present, classes, width, present)
    started = time.perf_counter()
    with watched("RssAnon") as anonymous:  # pages of the mapped files are the system's to drop
        chosen = select(
            name, pool, samples // 10, val_gradients=held_out, memory_limit=2 * 2**30
        )  # fmt: skip
    return {
        "selector": name, "samples": samples, "classes": classes, "embedding_dim": width,
        "seconds": chosen.seconds, "seconds_with_checks": time.perf_counter() - started,
        "anonymous_peak_bytes": max(anonymous), "extrapolated_seconds": chosen.seconds / share,
    }  # fmt: skip


def _mapped(
    folder: Path, part: str, samples: int, classes: int, width: int, present: int
) -> LastLayerGradients:
    """Factors in files, made class by class in blocks when they are not there yet."""
    shapes = {"grads": classes, "embeddings": width}
    files = {key: folder / f"{part}-{samples}-{key}.f32" for key in shapes}
    labels = torch.arange(samples) % present
    fresh = not all(path.exists() for path in files.values())
    tensors = {
        key: torch.from_file(str(path), shared=True, size=samples * shapes[key]).view(samples, -1)
        for key, path in files.items()
    }
    head = torch.randn(classes, width, generator=generator(0, "imagenet")) * 4 / width**0.5
    for start in range(0, samples if fresh else 0, 20_000):
        rows = slice(start, min(start + 20_000, samples))
        block = torch.randn(rows.stop - start, width, generator=generator(1, part, start)).relu_()
        grads = (block @ head.T).softmax(dim=1)
        grads[torch.arange(len(block)), labels[rows]] -= 1
        tensors["embeddings"][rows], tensors["grads"][rows] = block, grads
    # The logits are those of the virtual head; only the validation set's are read.
    logits = tensors["grads"] if part == "train" else tensors["embeddings"] @ head.T
    return LastLayerGradients(tensors["grads"], tensors["embeddings"], labels, logits)


def in_own_process(arguments: list[str]) -> dict[str, Any]:
    """Run one row in a fresh interpreter, so that its peak memory is its own."""
    import json

    command = [sys.executable, __file__, "--row", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(row, flush=True)
    return row


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    """Seconds over N, one line a selector and width."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: no plot (pip install 'lipt-cords[report]')")
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for line in curves:
        label = f"{line['selector']}, E={line['embedding_dim']} (N^{line['exponent']:.2f})"
        axes.loglog(line["samples"], line["seconds"], marker="o", label=label)
    axes.set_xlabel("samples in the pool")
    axes.set_ylabel("seconds, gradients included")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=False, default=RESULTS)
    parser.add_argument("--cases", choices=("small", "full", "imagenet"), default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of ImageNet's classes")
    parser.add_argument("--scratch", type=Path, help="folder for the mapped factors")
    parser.add_argument("--row", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="'pin_memory'")
    if options.row:
        import json

        kind, name, *rest = options.row
        if kind == "memory":
            row = memory_row(name, int(rest[0]), int(rest[1]))
        else:
            row = imagenet_row(name, float(rest[0]), Path(rest[1]))
        print(json.dumps(row))
        return
    directory = output_directory(options.output)
    if options.cases == "imagenet":
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            rows = [
                in_own_process(["imagenet", name, str(options.share), scratch])
                for name in ("importance", "gradmatch", "glister")
            ]
        command = f"python benchmarks/selection.py --cases imagenet --share {options.share:g}"
        results = {"command": command, "rows": rows, **provenance()}
        write_json(directory / "selection-imagenet.json", results)
        return
    small = options.cases == "small"
    sizes = [250, 500, 1000] if small else [1000, 2000, 4000, 8000, 16000]
    result = {
        "command": "python benchmarks/selection.py",
        "table": [compare(case, least, options.rounds) for case, least in
                  (SMALL if small else TABLE).items()],
        "curves": [curve(name, width, sizes) for name in selector_names() for width in (64, 512)],
        "memory": [
            in_own_process(["memory", name, "2000" if small else "50000", "512"])
            for name in selector_names()
        ],
        **provenance(),
    }  # fmt: skip
    write_json(directory / "selection.json", result)
    plot(result["curves"], directory / "selection.png")


if __name__ == "__main__":
    main()
