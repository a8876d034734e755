import json
import os

import pytest
import torch

from lipt_cords.base import files


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
    path = files.save_tensors(tmp_path / "weights.safetensors", tensors, seed="0")
    loaded = files.load_tensors(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("keep", [0, 4, 40])
def test_a_truncated_tensor_file_is_refused_by_name(tmp_path, keep):
    path = files.save_tensors(tmp_path / "weights.safetensors", {"w": torch.ones(8)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a whole safetensors file"):
        files.load_tensors(path)


def test_a_file_in_the_way_of_a_directory_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="expected a directory at .*out, found a file"):
        files.output_directory(tmp_path / "out")
    with pytest.raises(ValueError, match="choose"):
        files.output_directory(tmp_path / "out" / "deeper")
