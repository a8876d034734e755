"""Results that a benchmark writes row by row, so that an interrupted one goes on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lipt_cords.base.files import output_directory, read_json, write_json
from lipt_cords.base.provenance import provenance


def begun(
    args: argparse.Namespace, name: str, part: str = "", **settings: Any
) -> tuple[Path, dict[str, Any]]:
    """The file of a benchmark, and what it writes there row by row.

    Args:
        args: with ``output``, ``set`` and ``resume``: keep the rows that are there, and the record
            of where they were made.
        name: of the script, and of the file.
        part: options of the command for this file alone, such as ``--net resnet18``; their values
            are in its name.
        **settings: what all rows share.
    """
    values = [one for one in part.split() if not one.startswith("--")]
    path = output_directory(args.output) / f"{'-'.join([name, args.set, *values])}.json"
    kept = read_json(path) if args.resume and path.exists() else {"rows": []}
    return path, {
        "kind": name,
        "command": f"python benchmarks/{name}.py --data DIR --set {args.set} {part}".rstrip(),
        "data": args.set,
        "settings": {"net": "resnet8", **settings},
        "rows": kept["rows"],
        **origins(kept),
    }


def origins(kept: dict[str, Any]) -> dict[str, Any]:
    """Where the first rows of a file were made, and where the others: here, if it has some."""
    return {
        "provenance": kept.get("provenance") or provenance(),
        "resumed": [*kept.get("resumed", []), provenance()] if kept.get("rows") else [],
    }


def add(path: Path, payload: dict[str, Any], row: dict[str, Any]) -> None:
    """Write the file with one row more, and show the row."""
    payload["rows"].append(row)
    write_json(path, payload)
    print(row, flush=True)
