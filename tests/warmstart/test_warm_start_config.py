import pytest

from lipt_cords.warmstart.config import WarmStartConfig
from lipt_cords.warmstart.watch.stop_rule import StopRule


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
        ("sparsity", "snp", "unknown sparsity 'snp'.*Did you mean 'snip'"),
        ("densities", "ekr", "unknown densities 'ekr'.*Did you mean 'erk'"),
        ("soup", "weigthed", "Did you mean 'weighted'"),
        ("outer", "nestrov", "unknown outer step 'nestrov'.*Did you mean 'nesterov'"),
        ("launch", "process", "Did you mean 'processes'"),
        ("memory_format", "channel_last", "unknown memory format .*Did you mean 'channels_last'"),
        ("memory_format", None, "unknown memory format None: expected one of 'auto', 'channels"),
        ("rounds", 0, r"rounds: .*greater than or equal to 1 \(received 0\)"),
        ("outer_lr", 0.0, r"outer_lr: .*greater than 0 \(received 0.0\)"),
        ("outer_momentum", 1.0, r"outer_momentum: .*less than 1 \(received 1.0\)"),
        ("ema", 1.0, r"ema: .*less than 1 \(received 1.0\)"),
        ("ema", 0.0, r"ema: .*greater than 0 \(received 0.0\)"),
        ("probe_samples", 0, r"probe_samples: .*greater than or equal to 1 \(received 0\)"),
        ("processes", 0, r"processes: .*greater than or equal to 1 \(received 0\)"),
        ("threads", 0, r"threads: .*greater than or equal to 1 \(received 0\)"),
        ("max_restarts", -1, r"max_restarts: .*greater than or equal to 0 \(received -1\)"),
        ("min_workers", 0, r"min_workers: .*greater than or equal to 1 \(received 0\)"),
        ("worker_timeout", 0.0, r"worker_timeout: .*greater than 0 \(received 0.0\)"),
        ("join_timeout", float("inf"), r"join_timeout: .*finite number \(received inf\)"),
        ("together", 0, "together must be at least 1 or 'auto', received 0"),
        ("together", "many", r"together.*should be 'auto' \(received 'many'\)"),
        ("stop_when", 0.1, "stop_when: expected conditions by name, .* received 0.1"),
        (
            "stop_when",
            {},
            "stop_when needs a condition, such as benefit=0.05",
        ),
        ("stop_when", {"benefi": 0.1}, "unknown StopRule option 'benefi'.*Did you mean 'benefit'"),
        ("stop_when", {"benefit": 0.0}, r"benefit: .*greater than 0 \(received 0.0\)"),
        ("stop_when", {"class_cosine": 1}, r"class_cosine: .*less than 1 \(received 1\)"),
        ("stop_when", {"rank_correlation": -1}, r"rank_correlation: .*greater than -1"),
    ],
)
def test_wrong_options_name_themselves_what_is_valid_and_what_came(option, value, message):
    with pytest.raises(ValueError, match=message):
        WarmStartConfig(**{option: value})


def test_options_cannot_change_after_validation():
    config = WarmStartConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.num_workers = 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_workers": 3, "min_workers": 4},
            "min_workers (4) exceeds num_workers (3): a merge cannot have more workers than are "
            "trained",
        ),
        (
            {"rounds": 5, "local_steps": 4},
            "rounds (5) exceeds local_steps (4): every round needs a step of every worker",
        ),
        (
            {"rounds": 1, "stop_when": {"benefit": 0.1}},
            "stop_when ends a warm start between two rounds, and rounds=1 has none: set rounds to "
            "2 or more",
        ),
        (
            {"rounds": 4, "probe_every": 4, "stop_when": {"benefit": 0.1}},
            "stop_when is judged every probe_every (4) rounds, and so not before the last of 4: "
            "set probe_every below rounds",
        ),
        (
            {"rounds": 4, "num_workers": 1, "stop_when": {"rank_correlation": 0.9}},
            "stop_when=rank_correlation compares workers, and num_workers=1 has one: use benefit "
            "or merged_loss, or more workers",
        ),
        (
            {
                "rounds": 4,
                "num_workers": 1,
                "stop_when": {"rank_correlation": 0.9, "class_cosine": 0.9, "benefit": 0.1},
            },
            "stop_when=class_cosine and rank_correlation compares workers, and num_workers=1 has "
            "one: use benefit or merged_loss, or more workers",
        ),
        (
            {"type": "lipt-once", "rounds": 4},
            "the preset 'lipt-once' merges once, by the average: received rounds=4; leave it out, "
            "or take the preset 'lipt'",
        ),
        (
            {"type": "lipt-once", "outer": "nesterov"},
            "the preset 'lipt-once' merges once, by the average: received outer='nesterov'; leave "
            "it out, or take the preset 'lipt'",
        ),
        (
            {"launch": "serial", "processes": 2},
            "launch='serial' is one process, received processes=2: set launch='processes', or "
            "leave processes out",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError) as refusal:
        WarmStartConfig(**options)
    assert str(refusal.value).endswith(f": {message}")


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 3, "min_workers": 3},
        {"rounds": 5, "local_steps": 5},
        {"rounds": 50, "epochs": 0.1},  # every worker takes a step in every round
        {"rounds": 2, "stop_when": {"benefit": 0.1}},
        {"rounds": 2, "stop_when": StopRule(class_cosine=0.9, rank_correlation=0.9)},
        {"rounds": 4, "probe_every": 3, "stop_when": {"merged_loss": 0.1}},
        {"rounds": 4, "probe_every": 9},  # nothing is stopped by it
        {"rounds": 4, "num_workers": 1, "stop_when": {"benefit": 0.1}},
        {"launch": "serial", "processes": 1},
        {"launch": "processes", "processes": 2},
        {"processes": 2},
        {"together": "auto"},
        {"together": 7},
    ],
)
def test_options_that_agree_pass_and_are_kept(options):
    config = WarmStartConfig(**options)
    for name, value in options.items():
        rule = name == "stop_when" and isinstance(value, dict)
        assert getattr(config, name) == (StopRule(**value) if rule else value), name


def test_a_stop_rule_keeps_what_it_was_given():
    rule = WarmStartConfig(rounds=2, stop_when={"benefit": 0.1}).stop_when
    assert rule == StopRule(benefit=0.1)
    assert (rule.rank_correlation, rule.class_cosine) == (None, None)
