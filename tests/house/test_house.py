"""The plan of the house: nine rooms, one direction, no circle, and LiPT on one page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import lipt_cords

ROOT = Path(lipt_cords.__file__).parent
ROOMS = (
    "base", "data", "models", "selectors", "training", "warmstart", "cords", "experiments", "cli",
)  # fmt: skip
KEPT_PATHS = {"report.py", "cords_plugin.py"}
"""Files that only keep import paths which pages name."""
FROM_FIT_TO_MERGED = (
    "warm_start.py", "one_rank.py", "lipt.py", "common_start.py", "team.py",
    "workers/together.py", "workers/worker.py", "workers/local_training.py",
    "../training/step.py", "merge/soup.py", "merge/codecs.py", "merge/fixed_point.py",
)  # fmt: skip
"""What a reader passes from ``LiPTWarmStart.fit`` to the merged weights, in this order."""
FROM_A_PARENT = {"lipt_cords.warmstart.ranks.handed"}
"""Files that unpickle what the parent of their process wrote, and nobody else."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in ROOT.rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {one for one in inside if one in FILES} or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & FILES.keys()


def test_nine_rooms_and_nothing_else_at_the_top() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert folders == set(ROOMS)
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"} | KEPT_PATHS
    for name in KEPT_PATHS:
        assert len((ROOT / name).read_text().splitlines()) <= 25
    everywhere = {one for path in FILES.values() for one in imports_of(path)}
    assert not everywhere & {"lipt_cords.report", "lipt_cords.cords_plugin"}


def test_every_arrow_goes_down() -> None:
    order = {room: height for height, room in enumerate(ROOMS)}
    for name, path in FILES.items():
        room = name.split(".")[1] if name.count(".") else ""
        for other in imports_of(path):
            there = other.split(".")[1] if other.count(".") else ""
            if room in order and there in order:
                assert order[there] <= order[room], f"{name} imports {other}"


def test_no_circle_of_files() -> None:
    arrows = {name: imports_of(path) - {name} for name, path in FILES.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join((*way[way.index(name) :], name))}"
        if name not in done:
            for other in sorted(arrows[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in arrows:
        visit(name, ())


def test_lipt_is_one_page_without_what_watches_it() -> None:
    text = (ROOT / "warmstart/lipt.py").read_text()
    (loop,) = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert loop.name == "lipt" and loop.end_lineno is not None
    assert len(text.splitlines()) <= 70 and loop.end_lineno - loop.lineno <= 45
    assert not re.findall(r"ticket|early.?bird|folder|work_dir|stop", text, re.IGNORECASE)


def test_few_files_from_fit_to_the_merged_weights() -> None:
    assert len(FROM_FIT_TO_MERGED) <= 12
    paths = [(ROOT / "warmstart" / name).resolve() for name in FROM_FIT_TO_MERGED]
    for place, path in enumerate(paths[1:], 1):
        readers = [one for one in paths[:place] if name_of(path) in imports_of(one)]
        assert readers, f"no file before {path.name} imports it"


def test_one_file_knows_devices() -> None:
    asks = re.compile(r"torch\.(?:cuda|xpu|mps|mtia|accelerator)\b|\.is_cuda|device_module")
    of_kind = re.compile(r"""\.type (==|!=|in|not in) \(?["'](cuda|xpu|mps|mtia)""")
    for name, path in FILES.items():
        if name != "lipt_cords.base.devices":
            found = asks.findall(path.read_text()) + of_kind.findall(path.read_text())
            assert not found, f"{name} asks for a device itself: ask lipt_cords.base.devices"


def test_what_is_gone_stays_gone() -> None:
    text = "\n".join(path.read_text() for path in FILES.values())
    for name in ("Rounds", "History", "Material", "StateSum", "SmallerNet", "Holding", "Crew"):
        assert not re.search(rf"^class {name}\b", text, re.MULTILINE), name


UNPICKLES = {"load", "loads", "Unpickler"}
PICKLED_OBJECTS = {
    "all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list",
    "send_object_list", "recv_object_list",
}  # fmt: skip


def test_nothing_that_other_processes_sent_is_unpickled() -> None:
    found = []
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute) or name in FROM_A_PARENT:
                continue
            whose = ast.unparse(node.value)
            if (whose == "pickle" and node.attr in UNPICKLES) or node.attr in PICKLED_OBJECTS:
                found.append(f"{name}: {ast.unparse(node)}")
    assert not found
