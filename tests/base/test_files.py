import json
import os

import pytest
import torch

from lipt_cords.base import files, tensor_files


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    path = files.write_json(tmp_path / "results.json", {"value": 1})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_json(path, {"value": 2})
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_refuses_numbers_that_json_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "results.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read"), ('{"a": 1', "may be truncated"), ("[1]", "expected a JSON object")],
)
def test_reading_bad_json_names_the_file(tmp_path, content, message):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        files.read_json(path)
    assert str(path) in str(error.value)


def test_tensors_round_trip_whatever_their_memory_layout(tmp_path):
    tensors = {
        "transposed": torch.arange(6.0).view(2, 3).t(),
        "count": torch.tensor(3),
        "channels_last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    path = tensor_files.save_tensors(tmp_path / "weights.safetensors", tensors, seed="0")
    loaded = tensor_files.load_tensors(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("keep", [0, 4, 40])
def test_a_truncated_tensor_file_is_refused_by_name(tmp_path, keep):
    path = tensor_files.save_tensors(tmp_path / "weights.safetensors", {"w": torch.ones(8)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a whole safetensors file"):
        tensor_files.load_tensors(path)


def test_a_file_in_the_way_of_a_directory_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="expected a directory at .*out, found a file"):
        files.output_directory(tmp_path / "out")
    with pytest.raises(ValueError, match="choose"):
        files.output_directory(tmp_path / "out" / "deeper")


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = files.write_atomic(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_name_is_on_disk_when_a_write_returns(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda one: (synced.append((one, os.fstat(one).st_ino)), sync(one))
    )
    path = files.write_atomic(tmp_path / "a", "text")
    assert [inode for _, inode in synced] == [path.stat().st_ino, tmp_path.stat().st_ino]


def test_what_is_being_written_is_not_taken_for_left_over(tmp_path):
    descriptor, writing = files._temporary(tmp_path / "a")
    left = writing.with_name(f"{files.PREFIX}a.00000000{files.SUFFIX}")
    left.touch()
    assert files.remove_left_over(tmp_path) == [left]
    os.close(descriptor)
    assert files.remove_left_over(tmp_path) == [writing]


def test_a_temporary_that_was_removed_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    lock, seen = files.try_lock, []

    def slow(descriptor):
        if not seen:
            (seen_now,) = tmp_path.glob(".lipt-cords.*")
            seen.append(seen_now)
            seen_now.unlink()
        return lock(descriptor)

    monkeypatch.setattr(files, "try_lock", slow)
    assert files.write_atomic(tmp_path / "a", "text").read_text() == "text"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_long_name_can_be_written(tmp_path):
    assert files.write_atomic(tmp_path / ("n" * 250), "text").read_text() == "text"
