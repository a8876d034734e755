"""Results on disk: whole or refused, never mixed."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from warmstart_material import make_images, make_net

from lipt_cords.base.messages import decode, encode
from lipt_cords.warmstart.report import WarmStartReport
from lipt_cords.warmstart.result import WarmStartResult
from lipt_cords.warmstart.warm_start import LiPTWarmStart


def fitted(directory=None, **options):
    warm = LiPTWarmStart(
        num_workers=2, epochs=1, common_steps=1, launch="serial", work_dir=directory, **options
    )
    return warm.fit(make_net(), make_images(64), make_images(20, seed=1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("warm") / "start"
    return directory, fitted(directory, keep_workers=True)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_what_was_written_is_read_again(saved):
    directory, result = saved
    assert {path.name for path in directory.iterdir()} == {
        "merged.safetensors",
        "progress",
        "shards.safetensors",
        "theta_star.safetensors",
        "warm_start.json",
        "worker_00000.safetensors",
        "worker_00001.safetensors",
    }
    again = WarmStartResult.load(directory)
    assert same(again.state_dict, result.state_dict)
    assert same(again.theta_star, result.theta_star)
    assert all(same(a, b) for a, b in zip(again.worker_states, result.worker_states, strict=True))
    assert all(a.equal(b) for a, b in zip(again.shards, result.shards, strict=True))
    assert again.report == result.report
    assert again.config == result.config


def test_a_loaded_result_needs_a_module_for_gradients(saved):
    directory, result = saved
    again = WarmStartResult.load(directory)
    data = make_images(8, seed=2)
    with pytest.raises(ValueError, match="weights but no module"):
        again.gradients(data)
    expected = result.gradients(data).logits
    torch.testing.assert_close(again.gradients(data, model=make_net(5)).logits, expected)


@pytest.mark.parametrize(
    "name", ["merged.safetensors", "theta_star.safetensors", "warm_start.json"]
)
def test_a_truncated_file_is_named(saved, tmp_path, name):
    shutil.copytree(saved[0], tmp_path / "copy")
    path = tmp_path / "copy" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{name}.*truncated"):
        WarmStartResult.load(tmp_path / "copy")


def test_files_of_two_runs_are_not_mixed(saved, tmp_path):
    other = tmp_path / "other"
    fitted(other, seed=1, keep_workers=True)
    shutil.copy(saved[0] / "merged.safetensors", other)
    with pytest.raises(ValueError, match=r"merged.safetensors does not belong to .*another run"):
        WarmStartResult.load(other)


def test_a_result_shows_its_report_and_not_its_weights(saved):
    shown = repr(saved[1])
    assert "passes on the critical path" in shown and len(shown) < 200


def test_a_missing_or_foreign_record_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read .*warm_start.json"):
        WarmStartResult.load(tmp_path)
    for record in ("{}", '{"format": 1, "config": [], "report": null, "sha256": {}}'):
        (tmp_path / "warm_start.json").write_text(record)
        with pytest.raises(ValueError, match="is not the record of a warm start"):
            WarmStartResult.load(tmp_path)


def test_an_unusable_directory_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="expected a directory at .*file"):
        fitted(tmp_path / "file")


def test_an_unwritable_directory_is_refused():
    with pytest.raises(ValueError, match="cannot write to /proc/warm_start"):
        fitted("/proc/warm_start")


def test_reports_of_another_version_are_refused(saved):
    values = json.loads((saved[0] / "warm_start.json").read_text())["report"]
    del values["passes"]
    with pytest.raises(ValueError, match="WarmStartReport of this version: passes"):
        WarmStartReport.from_dict(values)


def test_a_printed_report_is_one_line(net, train):
    options = {"num_workers": 2, "common_steps": 1, "epochs": 1, "progress": False}
    report = LiPTWarmStart(**options).fit(net, train, train).report
    said = str(report)
    assert "\n" not in said
    assert said.startswith("2 of 2 workers merged; ")
    assert f"{report.critical_path_passes:,} sample-passes on the critical path" in said
    assert f"mean worker {report.mean_worker_accuracy:.1%}" in said


def test_bytes_for_another_process_hold_all_but_module_and_data(saved):
    _, result = saved
    again = WarmStartResult.from_bytes(result.to_bytes(), result.template)
    assert same(again.state_dict, result.state_dict)
    assert same(again.theta_star, result.theta_star)
    assert all(same(a, b) for a, b in zip(again.worker_states, result.worker_states, strict=True))
    assert all(a.equal(b) for a, b in zip(again.shards, result.shards, strict=True))
    assert (again.report, again.config, again.device) == (
        result.report, result.config, result.device,
    )  # fmt: skip
    assert again.config.model_fields_set == result.config.model_fields_set
    assert again.origins is None and again.template is not result.template


EXECUTED = []


class Attack:
    def __reduce__(self):
        return (EXECUTED.append, ("a pickle",))


def test_other_bytes_are_refused_and_execute_nothing(saved):
    _, result = saved
    whole = result.to_bytes()
    forged = decode(whole)
    for bad in (
        pickle.dumps(Attack()), b"", whole[:-3], encode(5), encode({"warm start": 1}),
        encode({**forged, "config": {"num_workers": "many"}}), encode({**forged, "more": 1}),
        encode({**forged, "device": "nowhere"}), encode({**forged, "ticket": (1, 2)}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected|changed or cut|num_workers"):
            WarmStartResult.from_bytes(bad)
    assert EXECUTED == []
