"""Device mistakes put into the package on purpose: does the emulated accelerator catch them?

    python benchmarks/device_mistakes.py

Each is one change of the source in a copy of the package, on which the tests of
``tests/devices/on_device`` run until the first one fails. ``--check`` only looks whether every
mistake still has its place in the source; ``--only WORDS`` takes those whose file or kind holds the
words.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":  # in place of this folder, the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pytest

from benchmarks import RESULTS
from lipt_cords.base.files import output_directory, write_json
from lipt_cords.base.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
TESTS = "tests/devices/on_device"
LOADED = (
    "hypothesis", "lipt_cords.cli.commands", "lipt_cords.cli.doctor", "lipt_cords.cords.factory",
    "lipt_cords.warmstart.unlearning.deltagrad", "torch.testing", "torch._dynamo",
)  # fmt: skip
"""With all that they import in turn."""


@dataclass(frozen=True)
class Mistake:
    """One change of the source."""

    kind: str
    file: str
    right: str
    """Stands once in the file."""
    wrong: str


TO, FACTORY, HOST = "a forgotten .to(device)", "a tensor made on the CPU", "a forgotten .cpu()"
RANDOM, PLACE, LOSS = "random state", "state on the wrong device", "weights of a loss on the CPU"
DRAWS, CHOICE = "a generator of the wrong device", "the choice of a device"
MISTAKES = (
    Mistake(TO, "training/subset.py", "    model.to(target)\n", ""),
    Mistake(TO, "training/trainer.py", "labels = labels.to(self.device, non_blocking=True)",
            "labels = labels"),
    Mistake(TO, "training/trainer.py",
            "weights.to(self.device, torch.float32, non_blocking=True)",
            "weights.to(torch.float32)"),
    Mistake(TO, "data/batches.py", "return inputs.to(device, non_blocking=True)", "return inputs"),
    Mistake(TO, "data/batches.py", "{key: value.to(device, non_blocking=True) for",
            "{key: value for"),
    Mistake(TO, "data/source.py", "flat_labels(y).to(self.device)", "flat_labels(y)"),
    Mistake(TO, "data/source.py", "torch.split(positions.to(self.device), batch_size)",
            "torch.split(positions, batch_size)"),
    Mistake(TO, "data/images.py",
            "self._scale = (1 / (255 * self.std)).reshape(shape).to(images.device)",
            "self._scale = (1 / (255 * self.std)).reshape(shape)"),
    Mistake(TO, "data/images.py", "where = indices.to(self.images.device)", "where = indices"),
    Mistake(TO, "warmstart/one_rank.py",
            "with_dense_gradients(copy_model(request.model)).to(ranks.device)",
            "with_dense_gradients(copy_model(request.model))"),
    Mistake(TO, "warmstart/workers/batches.py", "(value.to(source.device) for value in",
            "(value for value in"),
    Mistake(TO, "models/gradients.py", "else copy_model(model).to(where))",
            "else copy_model(model))"),
    Mistake(TO, "selectors/gradmatch/omp.py", "torch.from_numpy(mix).to(self._rows.device)",
            "torch.from_numpy(mix)"),
    Mistake(LOSS, "models/losses.py",
            "inner = copy.deepcopy(loss).to(device) if", "inner = copy.deepcopy(loss) if"),
    Mistake(LOSS, "models/losses.py", "single = copy.deepcopy(loss).to(device)",
            "single = copy.deepcopy(loss)"),
    Mistake(FACTORY, "training/evaluation.py",
            "torch.zeros((), dtype=torch.int64, device=source.device)",
            "torch.zeros((), dtype=torch.int64)"),
    Mistake(FACTORY, "training/trainer.py",
            "torch.zeros((), device=self.device, dtype=widest_float(self.device))",
            "torch.zeros((), dtype=widest_float(self.device))"),
    Mistake(FACTORY, "warmstart/workers/local_training.py",
            "total, passes, counted, taken = torch.zeros((), device=device), 0, 0, 0",
            "total, passes, counted, taken = torch.zeros(()), 0, 0, 0"),
    Mistake(FACTORY, "models/gradients.py",
            "labels_N = torch.empty(count, dtype=torch.int64, device=device)",
            "labels_N = torch.empty(count, dtype=torch.int64)"),
    Mistake(FACTORY, "models/gradients.py",
            "logits_NC = torch.empty(count, classes, device=device)",
            "logits_NC = torch.empty(count, classes)"),
    Mistake(FACTORY, "selectors/atoms.py",
            "weight = torch.zeros(classes, width, dtype=torch.float64, device=self.device)",
            "weight = torch.zeros(classes, width, dtype=torch.float64)"),
    Mistake(FACTORY, "selectors/gradmatch/select.py",
            "torch.ones(len(atoms), dtype=torch.bool, device=products.device)",
            "torch.ones(len(atoms), dtype=torch.bool)"),
    Mistake(FACTORY, "selectors/glister/gains.py",
            "self._taken = torch.zeros(count, device=self._device)",
            "self._taken = torch.zeros(count)"),
    Mistake(FACTORY, "selectors/glister/lockstep.py",
            "kernel = torch.empty(count, held, candidates, device=device)",
            "kernel = torch.empty(count, held, candidates)"),
    Mistake(FACTORY, "selectors/craig/facility.py",
            "largest = torch.zeros((), dtype=torch.float64, device=points.device)",
            "largest = torch.zeros((1,), dtype=torch.float64)"),
    Mistake(HOST, "models/state.py", "{name: value.cpu() for name, value in state.items()}",
            "{name: value for name, value in state.items()}"),
    Mistake(HOST, "warmstart/watch/probe.py", "Reading(losses.float().cpu(), right, rows.cpu())",
            "Reading(losses.float(), right, rows)"),
    Mistake(HOST, "selectors/gradmatch/omp.py", "along.cpu().numpy() if", "along.numpy() if"),
    Mistake(HOST, "selectors/gradmatch/omp.py", "squared_norms.cpu().numpy()",
            "squared_norms.numpy()"),
    Mistake(HOST, "selectors/base.py", 'choice.indices.detach().to("cpu", torch.int64)',
            "choice.indices.detach().to(torch.int64)"),
    Mistake(HOST, "selectors/checks.py", '    return tensor.to("cpu", torch.int64)\n',
            "    return tensor.to(torch.int64)\n"),
    Mistake(HOST, "data/batches.py", "torch.as_tensor(indices).reshape(-1).cpu()",
            "torch.as_tensor(indices).reshape(-1)"),
    Mistake(HOST, "warmstart/unlearning/deltagrad.py", "copy_model(model).cpu().double()",
            "copy_model(model).double()"),
    Mistake(HOST, "warmstart/unlearning/deltagrad.py", "gradients.embeddings.cpu()",
            "gradients.embeddings"),
    Mistake(HOST, "training/cheaper/channels.py", ".detach().abs().cpu()", ".detach().abs()"),
    Mistake(RANDOM, "training/checkpoint.py", "list(random_states_there())", "[]"),
    Mistake(RANDOM, "training/checkpoint.py",
            '    set_random_states_there(states["accelerators"])\n', ""),
    Mistake(RANDOM, "base/devices.py", "        set_random_states(there)\n", "        pass\n"),
    Mistake(RANDOM, "warmstart/workers/together.py",
            "device if is_accelerator(device) else None", "None"),
    Mistake(RANDOM, "warmstart/workers/together.py",
            "            set_random_state(self._accelerator, there)\n", "            pass\n"),
    Mistake(DRAWS, "base/randomness.py", "torch.Generator(device=device).manual_seed",
            'torch.Generator("emulated").manual_seed'),
    Mistake(DRAWS, "warmstart/workers/sparsity.py", "torch.rand(sum(sizes), generator=generator)",
            "torch.rand(sum(sizes), generator=generator, device=weights[0].device)"),
    Mistake(PLACE, "warmstart/workers/ema.py",
            "parameter.to(torch.promote_types(parameter.dtype, torch.float32), copy=True)",
            "parameter.cpu().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)"),
    Mistake(PLACE, "training/optimizers.py", "torch.zeros_like(parameter)",
            'torch.zeros_like(parameter, device="cpu")'),
    Mistake(PLACE, "base/tensor_files.py", 'map_location="cpu", weights_only', "weights_only"),
    Mistake(CHOICE, "base/devices.py", 'return accelerator() or torch.device("cpu")',
            'return torch.device("cpu")'),
    Mistake(CHOICE, "base/devices.py", 'and f"{kind}:{number or 0}" not in here', "and False"),
    Mistake(CHOICE, "base/devices.py",
            "return torch.float64 if has_float64(device.type) else torch.float32",
            "return torch.float64"),
    Mistake(CHOICE, "selectors/checks.py", 'device = with_float64(parts["logit_grads"].device)',
            'device = parts["logit_grads"].device'),
    Mistake(CHOICE, "warmstart/merge/average.py",
            "return mean.to(origin.dtype).to(origin.device)",
            "return mean.to(origin.device).to(origin.dtype)"),
)  # fmt: skip


def misplaced(mistake: Mistake) -> str | None:
    """What is wrong with a mistake, if its place is not in the source once."""
    found = (ROOT / "lipt_cords" / mistake.file).read_text().count(mistake.right)
    return None if found == 1 else f"{mistake.file}: {mistake.right!r} stands there {found} times"


def preload() -> None:
    """Import what the tests import, but for the package itself: every trial is a fork."""
    for name in LOADED:
        importlib.import_module(name)
    for name in [one for one in sys.modules if one.partition(".")[0] == "lipt_cords"]:
        del sys.modules[name]


def tried(mistake: Mistake | None) -> dict[str, Any]:
    """The tests on a copy of the package with one mistake, or with none."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copytree(ROOT / "lipt_cords", place / "lipt_cords")
        for name in ("tests", "pyproject.toml"):
            (place / name).symlink_to(ROOT / name)
        if mistake is not None:
            path = place / "lipt_cords" / mistake.file
            path.write_text(path.read_text().replace(mistake.right, mistake.wrong))
        started = time.perf_counter()
        child = os.fork()
        if child == 0:
            _run_tests(place)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.perf_counter() - started
        text = (place / "said").read_text()
        said = re.findall(r"^FAILED (.+?)(?: - .*)?$", text, re.MULTILINE)
    return {
        "caught": status == 1 and bool(said),
        "exit_status": status,
        "by": said[-1].partition("on_device/")[2] if said else None,
        "seconds": round(seconds, 1),
    }


def _run_tests(place: Path) -> NoReturn:
    """In a fork: the tests with the package of a folder; never returns."""
    status = 3
    try:
        with (place / "said").open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        os.chdir(place)
        sys.path.insert(0, str(place))
        status = int(
            pytest.main(
                ["--emulated-device", "-x", "--tb=no", "-rf", "-p", "no:cacheprovider",
                 "-k", "not CRAIG-cords", TESTS],
            )
        )  # fmt: skip
        import lipt_cords

        if Path(lipt_cords.__file__).parents[1].resolve() != place.resolve():
            status = 4  # another package was tested
        sys.stdout.flush()
    finally:
        os._exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only look for the places")
    parser.add_argument("--only", default="", help="words of the file or kind")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    wrong = [text for one in MISTAKES if (text := misplaced(one))]
    if wrong or args.check:
        sys.exit("\n".join(wrong) if wrong else 0)
    chosen = [one for one in MISTAKES if args.only in f"{one.file} {one.kind}"]
    preload()
    untouched = tried(None)
    if untouched["exit_status"] != 0:
        sys.exit(f"the tests fail without any mistake: {untouched}")
    rows = []
    for mistake in chosen:
        found = tried(mistake)
        rows.append(
            {"kind": mistake.kind, "file": mistake.file, "right": mistake.right.strip(),
             "wrong": mistake.wrong.strip(), **found}
        )  # fmt: skip
        print("caught" if found["caught"] else "MISSED", mistake.file, found, flush=True)
    caught = sum(row["caught"] for row in rows)
    print(f"{caught} of {len(rows)} caught")
    if args.only:
        return
    payload = {
        "kind": "device mistakes",
        "command": "python benchmarks/device_mistakes.py",
        "mistakes": len(rows),
        "caught": caught,
        "kinds": dict(Counter(row["kind"] for row in rows)),
        "seconds_without_a_mistake": untouched["seconds"],
        "rows": rows,
        "provenance": provenance(),
    }
    print(write_json(output_directory(args.output) / "device-mistakes.json", payload))


if __name__ == "__main__":
    main()
