"""What was kept is found bit for bit; what is torn, changed or another run's is refused by name."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from warmstart_material import make_net

from lipt_cords.base.files import checksum, read_json, write_json
from lipt_cords.models.state import digest
from lipt_cords.warmstart.resume.folder import RunFolder, first_difference

NAME = "round_00000/worker_00003"


def state():
    return {
        "weight": torch.randn(3, 4),
        "half": torch.randn(5).to(torch.bfloat16),
        "wide": torch.randn(2, dtype=torch.float64),
        "steps": torch.tensor(2**60 + 1),
        "seen": torch.tensor([True, False]),
        "a/slash.in/the.name": torch.randn(1, 1),
        "odd": torch.tensor([torch.nan, torch.inf, -0.0]),
        "nothing": torch.zeros(0, 3),
        "turned": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(0.5),
    }


def folder_in(path, run="one", **description):
    return RunFolder(path, run, {"seed": 0, "lr": 0.1, **description})


@pytest.fixture
def kept(tmp_path):
    """A folder with one finished worker, and its two files."""
    folder = folder_in(tmp_path)
    assert folder.keep(NAME, {"state": {"w": torch.arange(40.0)}}, {"passes": 3})
    path = folder.root / NAME
    return folder, path.with_suffix(".json"), path.with_suffix(".safetensors")


def same(one, two):
    """Equal names in one order, dtypes, shapes and bits."""
    return list(one) == list(two) and all(
        one[name].dtype == two[name].dtype
        and one[name].shape == two[name].shape
        and digest({"": one[name]}) == digest({"": two[name]})
        for name in one
    )


def test_what_was_kept_is_found_in_its_order(tmp_path):
    folder = folder_in(tmp_path)
    groups = {
        "state": state(),
        "reading": {"losses": torch.rand(7)},
        "model": make_net().state_dict(),
    }
    details = {"passes": 7, "loss": None, "largest": [0.1, 0.0], "nested": {"text": "ä"}}
    assert folder.keep(NAME, groups, details)
    for again in (folder, folder_in(tmp_path)):
        found = again.find(NAME)
        assert found.details == details
        assert list(found.groups) == list(groups)
        assert all(same(found.groups[name], groups[name]) for name in groups)
    assert folder.unwritten == []


@pytest.mark.parametrize("groups", [{}, {"velocity": {}}])
def test_details_alone_are_kept_too_and_empty_groups_are_not(tmp_path, groups):
    folder = folder_in(tmp_path)
    assert folder.keep("theta_star", groups, {"passes": 0})
    assert folder.find("theta_star").details == {"passes": 0}
    assert folder.find("theta_star").groups == {}
    assert not (folder.root / "theta_star.safetensors").exists()


def test_what_was_not_written_to_the_end_is_not_there(kept):
    folder, record, _ = kept
    assert folder.find("round_00000/worker_00004") is None
    record.unlink()  # the tensors came first
    assert folder.find(NAME) is None
    assert folder.keep(NAME, {"state": {"w": torch.ones(2)}}, {})
    assert folder.find(NAME).groups["state"]["w"].equal(torch.ones(2))


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [halve, flip_last_byte, os.unlink])
def test_tensors_that_are_not_those_of_the_record_are_named(kept, spoil):
    folder, _, tensors = kept
    spoil(tensors)
    with pytest.raises(ValueError, match=f"{tensors}"):
        folder.find(NAME)


def test_a_record_that_was_changed_is_noticed(kept):
    folder, record, _ = kept
    details = json.loads(record.read_text()) | {"details": {"passes": 4}}
    record.write_text(json.dumps(details))
    with pytest.raises(ValueError, match=f"{record} is truncated, damaged or changed"):
        folder.find(NAME)
    shutil.copy(folder.root / "run.json", record)
    with pytest.raises(ValueError, match="is not what .* describes: one of them was changed"):
        folder.find(NAME)
    details.pop("lipt_cords_sha256")
    record.write_text(json.dumps(details))
    with pytest.raises(ValueError, match=f"{record} has no whole checksum"):
        folder.find(NAME)


def test_a_truncated_or_empty_record_is_named(kept):
    folder, record, _ = kept
    halve(record)
    with pytest.raises(ValueError, match=f"{record} is not valid JSON .*it may be truncated"):
        folder.find(NAME)
    record.write_text("[]")
    with pytest.raises(ValueError, match=f"expected a JSON object in {record}, found list"):
        folder.find(NAME)


def test_files_of_another_run_or_version_are_refused(kept, tmp_path):
    folder, record, tensors = kept
    other = folder_in(tmp_path / "other", run="two")
    (other.root / "round_00000").mkdir()
    for path in (record, tensors):
        shutil.copy(path, other.root / "round_00000")
    copied = other.root / "round_00000" / record.name
    message = "is of another run or version: delete it, or choose another work_dir"
    with pytest.raises(ValueError, match=f"{copied} {message}"):
        other.find(NAME)
    write_json(record, read_json(record) | {"format": 0}, seal=True)
    with pytest.raises(ValueError, match=f"{record} {message}"):
        folder.find(NAME)


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("after", [0, 1])
def test_a_full_disk_costs_the_file_not_the_run(tmp_path, monkeypatch, caplog, owner, call, after):
    folder, calls = folder_in(tmp_path), []

    def full(*arguments, **options):
        calls.append(arguments)
        if len(calls) > after:  # the tensors are written first, then the record
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    real = getattr(owner, call)
    monkeypatch.setattr(owner, call, full)
    assert folder.keep(NAME, {"state": {"w": torch.ones(3)}}, {}) is False
    monkeypatch.undo()
    assert folder.unwritten == [NAME]
    assert caplog.messages == [
        f"cannot write {folder.root / NAME} (No space left on device): the warm start continues, "
        "but an interrupted run would have to train it again"
    ]
    left = {path.name for path in (folder.root / NAME).parent.iterdir()}
    assert left == ({"worker_00003.safetensors"} if after else set())
    assert folder.find(NAME) is None
    assert folder.keep(NAME, {"state": {"w": torch.ones(3)}}, {})
    assert folder.find(NAME) is not None


def test_another_run_in_the_directory_is_refused_by_its_first_difference(tmp_path):
    folder_in(tmp_path, num_workers=4, rounds=2)
    with pytest.raises(ValueError) as refusal:
        folder_in(tmp_path, run="two", num_workers=5, rounds=3)
    assert str(refusal.value) == (
        f"work_dir {tmp_path} belongs to another run (num_workers is 4 there and 5 here): choose "
        f"another directory, or delete {tmp_path / 'progress'}"
    )
    shutil.rmtree(tmp_path / "progress")
    folder_in(tmp_path, run="two", num_workers=5)


def test_a_result_of_another_run_in_the_directory_is_refused(tmp_path):
    (tmp_path / "warm_start.json").write_text("{}")
    with pytest.raises(ValueError) as refusal:
        folder_in(tmp_path)
    assert str(refusal.value) == (
        f"work_dir {tmp_path} holds the result of another run: choose another directory, or "
        f"delete {tmp_path / 'warm_start.json'}"
    )


def test_a_run_resumes_with_its_own_result_in_the_folder(tmp_path):
    assert folder_in(tmp_path).keep(NAME, {"state": {"w": torch.ones(2)}}, {"passes": 3})
    (tmp_path / "warm_start.json").write_text("{}")
    found = folder_in(tmp_path).find(NAME)
    assert found.details == {"passes": 3} and found.groups["state"]["w"].equal(torch.ones(2))
    assert (tmp_path / "warm_start.json").read_text() == "{}"


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=f"expected a directory at {tmp_path / 'file'}"):
        folder_in(tmp_path / "file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "progress").mkdir()
    (tmp_path / "run" / "progress" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is not valid JSON"):
        folder_in(tmp_path / "run")


def test_earlier_rounds_are_forgotten_and_the_rest_stays(kept):
    folder, record, _ = kept
    for number in (1, 2):
        assert folder.keep(f"round_{number:05d}/merge", {"state": {"w": torch.ones(1)}}, {})
    for name in ("round_abc", "round_0", "history"):
        (folder.root / name).mkdir()
    (folder.root / "round_00003").write_text("a file")
    assert folder.rounds() == [0, 1, 2]
    for _ in range(2):  # another rank has been there
        folder.remove_before(2)
        assert folder.rounds() == [2]
    assert not record.parent.exists()
    assert folder.find("round_00002/merge") is not None
    for name in ("round_abc", "round_0", "history", "round_00003"):
        assert (folder.root / name).exists()


def test_differences_are_told_in_words():
    assert first_difference({"a": 1, "b": 2}, {"a": 1, "b": 2}) is None
    assert first_difference({"b": 2, "a": 1}, {"a": 1, "b": 3}) == "b is 3 there and 2 here"
    assert first_difference({"a": 1}, {"a": 1, "c": "x"}) == "c is 'x' there and None here"


def test_a_digest_is_of_names_shapes_dtypes_and_bits_but_not_of_the_layout():
    one = torch.randn(2, 3, 4, 4)
    expected = digest({"w": one})
    assert digest({"w": one.contiguous(memory_format=torch.channels_last)}) == expected
    assert digest({"w": torch.nn.Parameter(one)}) == expected
    changed = one.clone()
    changed[1, 2, 3, 3] = torch.nextafter(changed[1, 2, 3, 3], torch.tensor(9.0))
    others = [
        {"v": one},
        {"w": one.reshape(3, 2, 4, 4)},
        {"w": one.view(torch.int32)},
        {"w": changed},
        {"w": one, "v": torch.zeros(0)},
        {},
    ]
    assert len({expected, *map(digest, others)}) == 7
    assert digest({"z": torch.tensor(0.0)}) != digest({"z": torch.tensor(-0.0)})


def test_a_checksum_is_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksum(tmp_path / "a") == expected
