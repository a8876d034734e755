"""Files for resuming: every finished worker and every merge, complete on disk or absent.

A worker's result is a function of the configuration, its shard and the weights that it started
from. Each file has a record with the hash of the run, the hash of the start, and the checksum of
its tensors; the record has its own. What does not match is refused by name and never merged.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipt_cords.base.differences import first_difference
from lipt_cords.base.files import checksum, output_directory, read_json, write_json
from lipt_cords.base.seal import REMEDY
from lipt_cords.base.tensor_files import load_tensors, save_tensors
from lipt_cords.models.state import State

logger = logging.getLogger(__name__)

FORMAT = 4
SUBFOLDER = "progress"
RUN = "run.json"
RESULT = "warm_start.json"
OPTIONAL_FILES = "the warm start continues, but an interrupted run would have to train it again"


@dataclass(frozen=True)
class Stored:
    """The contents of a file: tensors by group, and the details in its record."""

    groups: dict[str, State]
    details: dict[str, Any]


class RunFolder:
    """The folder ``progress`` of a work_dir, for one run.

    Args:
        work_dir: of the warm start.
        run: hash of all on which the run depends.
        description: of the run, for the error about files of another run.

    Raises:
        ValueError: the folder holds another run, or cannot be written.
    """

    def __init__(self, work_dir: Path, run: str, description: Mapping[str, Any]) -> None:
        self.run = run
        self.root = output_directory(output_directory(work_dir) / SUBFOLDER)
        self.unwritten: list[str] = []
        """Names of files that could not be written, for the report."""
        record, result = self.root / RUN, self.root.parent / RESULT
        if record.exists():
            found = read_json(record, remedy=f"delete {self.all_of_it} and run again")
            if found.get("format") != FORMAT:
                raise ValueError(
                    f"work_dir {work_dir} holds a run of another version of lipt-cords: choose "
                    f"another directory, or delete {self.all_of_it}"
                )
            if found.get("run") != run:
                there = found.get("description")
                known = there if isinstance(there, dict) else {}
                differing = first_difference(description, known)
                seed = "seed the net with torch.manual_seed before it is built, "
                raise ValueError(
                    f"work_dir {work_dir} belongs to another run ({differing}): "
                    f"{seed if 'initial weights' in str(differing) else ''}"
                    f"choose another directory, or delete {self.all_of_it}"
                )
        else:
            if result.exists():
                raise ValueError(
                    f"work_dir {work_dir} holds the result of another run: choose another "
                    f"directory, or delete {result}"
                )
            try:
                write_json(
                    record,
                    {"format": FORMAT, "run": run, "description": dict(description)},
                    seal=True,
                )
            except OSError as error:
                raise ValueError(
                    f"cannot write {record} ({error.strerror}): make room, or choose another "
                    "work_dir"
                ) from error

    @property
    def all_of_it(self) -> str:
        """What to delete to begin anew, in words: a result without its run is refused."""
        result = self.root.parent / RESULT
        return f"{self.root} and {result}" if result.exists() else str(self.root)

    def keep(self, name: str, groups: Mapping[str, State], details: Mapping[str, Any]) -> bool:
        """Write tensors and their record; on a full disk the run continues without the file.

        Without tensors only the record is written.

        Args:
            name: path below the folder, without an ending.
            groups: state dicts by name.
            details: plain values.

        Returns:
            Whether it was written.
        """
        path = self.root / name
        flat = {
            f"{group}/{key}": value
            for group, state in groups.items()
            for key, value in state.items()
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = path.with_suffix(".safetensors")
            if flat:
                save_tensors(tensors, flat)
            record = {
                "format": FORMAT,
                "run": self.run,
                "entries": list(flat),  # safetensors has its own order
                "details": dict(details),
                "sha256": checksum(tensors) if flat else None,
            }
            write_json(path.with_suffix(".json"), record, seal=True)
        except OSError as error:
            if name not in self.unwritten:  # the file may be written again
                self.unwritten.append(name)
            logger.warning(
                "cannot write %s (%s): %s", path, error.strerror or error, OPTIONAL_FILES
            )
            return False
        if name in self.unwritten:  # written again, after an earlier failure
            self.unwritten.remove(name)
        return True

    def find(self, name: str, *, remedy: str = REMEDY) -> Stored | None:
        """Read what :meth:`keep` wrote; None if it is absent or incomplete.

        Args:
            name: path below the folder, without an ending.
            remedy: what to do about a damaged record.

        Raises:
            ValueError: the file is truncated, changed, or of another run; it is named.
        """
        path = self.root / name
        record_path, tensors = path.with_suffix(".json"), path.with_suffix(".safetensors")
        if not record_path.exists():
            return None
        record = read_json(record_path, must_be_sealed=True, remedy=remedy)
        if record.get("format") != FORMAT or record.get("run") != self.run:
            raise ValueError(
                f"{record_path} is of another run or version: delete it, or choose another work_dir"
            )
        entries = record.get("entries")
        if not isinstance(entries, list) or (entries and checksum(tensors) != record["sha256"]):
            raise ValueError(
                f"{tensors} is not what {record_path.name} describes: one of them was changed; "
                "delete both and run again"
            )
        flat = load_tensors(tensors) if entries else {}
        groups: dict[str, State] = {}
        for key in entries:
            group, _, entry = key.partition("/")
            groups.setdefault(group, {})[entry] = flat[key]
        return Stored(groups, record.get("details") or {})

    def rounds(self) -> list[int]:
        """The rounds that have a subfolder, ascending; other subfolders are ignored."""
        names = (path.name for path in self.root.glob("round_*"))
        numbers = [int(name[6:]) for name in names if re.fullmatch(r"round_[0-9]{5,}", name)]
        return sorted(number for number in numbers if self.place(number).is_dir())

    def place(self, number: int) -> Path:
        """The subfolder of a round."""
        return self.root / f"round_{number:05d}"

    def remove_before(self, number: int) -> None:
        """Remove the subfolders of earlier rounds, which are not needed after this round's merge.

        Ranks may share the folder and remove the same one at the same time.
        """
        for earlier in self.rounds():
            if earlier < number:
                shutil.rmtree(self.place(earlier), ignore_errors=True)
