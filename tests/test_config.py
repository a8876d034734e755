import pytest

from lipt_cords.config import WarmStartConfig


def test_parse_accepts_the_name_a_mapping_and_a_ready_configuration():
    ready = WarmStartConfig(num_workers=3)
    assert WarmStartConfig.parse("lipt") == WarmStartConfig()
    assert WarmStartConfig.parse({"type": "lipt", "num_workers": 3}) == ready
    assert WarmStartConfig.parse(ready) is ready


@pytest.mark.parametrize("absent", [None, "none"])
def test_parse_reads_absence(absent):
    assert WarmStartConfig.parse(absent) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("lipd", "Did you mean 'lipt'"),
        ({}, "empty mapping"),
        (7, "must be 'lipt' or a mapping"),
        ({"type": "lipt", "num_worker": 2}, "Did you mean 'num_workers'"),
    ],
)
def test_parse_refuses(value, message):
    with pytest.raises(ValueError, match=message):
        WarmStartConfig.parse(value)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("num_workers", 0, r"num_workers: .*greater than or equal to 1 \(received 0\)"),
        ("density", 0.0, r"density: .*greater than 0"),
        ("density", 1.5, r"density: .*less than or equal to 1 \(received 1.5\)"),
        ("sparsity", "magnitde", "Did you mean 'magnitude'"),
        ("soup", "gredy", "Did you mean 'greedy'"),
        ("launch", "torchrn", "Did you mean 'torchrun'"),
        ("device", "gpu", "unknown device 'gpu'"),
        ("epochs", float("inf"), r"epochs: .*finite number \(received inf\)"),
        ("lr", float("nan"), r"lr: .*finite number"),
        ("epochs", "many", r"epochs: .*\(received 'many'\)"),
    ],
)
def test_wrong_options_name_themselves_what_is_valid_and_what_came(option, value, message):
    with pytest.raises(ValueError, match=message):
        WarmStartConfig(**{option: value})


def test_options_cannot_change_after_validation():
    config = WarmStartConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.num_workers = 0
