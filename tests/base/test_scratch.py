"""Temporary directories: gone at the end, and after a kill by the next one."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lipt_cords.base import scratch
from lipt_cords.base.scratch import scratch_directory


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path


def test_it_is_there_until_the_end(place: Path) -> None:
    with pytest.raises(RuntimeError), scratch_directory("ours-") as made:
        (made / "file").write_text("x")
        assert made.parent == place and made.name.startswith("ours-")
        raise RuntimeError
    assert list(place.iterdir()) == []


def test_what_killed_processes_left_is_removed_and_what_others_use_is_not(place: Path) -> None:
    for name in ("ours-left", "theirs"):
        (place / name / "deep").mkdir(parents=True)
    with scratch_directory("ours-") as one, scratch_directory("ours-") as two:
        assert sorted(place.iterdir()) == sorted([one, two, place / "theirs"])
    assert list(place.iterdir()) == [place / "theirs"]


def test_one_that_is_swept_before_it_is_locked_is_made_anew(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, made = scratch._lock, []

    def late(directory: Path) -> int | None:
        made.append(directory)
        if len(made) == 1:
            directory.rmdir()
        return lock(directory)

    monkeypatch.setattr(scratch, "_lock", late)
    with scratch_directory("ours-") as here:
        assert here == made[1] and here.is_dir()


def test_file_systems_that_lock_no_directory_do_no_harm(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int) -> bool:
        raise OSError(errno.EBADF, "as NFS answers")

    monkeypatch.setattr(scratch, "try_lock", refused)
    with scratch_directory("ours-") as one, scratch_directory("ours-") as two:
        assert one.is_dir() and two.is_dir()
    assert list(place.iterdir()) == []
