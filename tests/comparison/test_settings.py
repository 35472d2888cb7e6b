"""The YAML of a comparison: what it builds, and that whatever is wrong in it is named."""

import copy

import pytest
import yaml

from chns.comparison.runs import ComparisonSettings, TrialListSettings, checked, paper_strategies, read_comparison
from chns.comparison.verdict import find_twins
from chns.core import ConfigError
from chns.training.settings import BatchSettings, ObjectSettings, TrainSettings

LISTS = {"trial_lists": {"easy": {"manifest": "m.parquet", "trials": "t.txt"}}}


STRATEGIES_OF_THE_PAPER = ("aam_softmax", "supcon", "hscl", "chns", "chns_hscl")


def paper_with_defaults():
    return ComparisonSettings(trial_lists={"easy": TrialListSettings(manifest="m.parquet", trials="t.txt")})


def read(write_yaml, **settings):
    return read_comparison(write_yaml({**LISTS, **settings}))


@pytest.mark.slow
def test_by_default_the_five_strategies_of_the_paper_see_equally_many_segments(write_yaml):
    base = {"batches": {"speakers_per_batch": 32}}
    comparison = read(write_yaml, base=base)
    assert list(comparison.strategies) == ["aam_softmax", "supcon", "hscl", "chns", "chns_hscl"]
    assert comparison.baseline == "aam_softmax"
    assert comparison.seeds == (0, 1, 2)
    shapes = {
        name: (settings.batches.kind, settings.batches.speakers_per_batch, settings.batches.utterances_per_speaker)
        for name, settings in comparison.strategies.items()
    }
    assert shapes == {
        "aam_softmax": ("random", 64, 1),
        "supcon": ("random", 32, 2),
        "hscl": ("random", 32, 2),
        "chns": ("clustered", 32, 2),
        "chns_hscl": ("clustered", 32, 2),
    }
    losses = [settings.loss.factory.rpartition(".")[2] for settings in comparison.strategies.values()]
    assert losses == ["AAMSoftmaxLoss", "SupConLoss", "HSCLLoss", "SupConLoss", "HSCLLoss"]


@pytest.mark.parametrize("name", ["aam_softmax", "supcon", "hscl", "chns", "chns_hscl"])
def test_the_default_strategies_are_the_shipped_configurations(configs, name):
    shipped = yaml.safe_load((configs / f"{name}.yaml").read_text())
    assert {key: shipped[key] | value for key, value in paper_strategies(TrainSettings())[name].items()} == shipped


@pytest.mark.slow
def test_the_example_states_the_defaults(configs):
    comparison = read_comparison(configs / "compare.yaml")
    base = comparison.strategies["supcon"]
    assert (
        comparison.strategies
        == checked(ComparisonSettings(base=base, trial_lists=dict(comparison.trial_lists))).strategies
    )
    assert comparison.baseline == "supcon"


def test_a_strategy_changes_what_it_names_and_keeps_the_rest(write_yaml):
    base = {"optimizer": {"learning_rate": 0.5, "weight_decay": 0.25}, "loss": {"factory": "a.B", "settings": {"c": 1}}}
    strategies = {"one": {"optimizer": {"learning_rate": 0.75}}, "two": {"loss": {"factory": "x.Y"}}}
    comparison = read(write_yaml, base=base, strategies=strategies, baseline="two")
    one, two = comparison.strategies.values()
    assert (one.optimizer.learning_rate, one.optimizer.weight_decay) == (0.75, 0.25)
    assert one.loss == ObjectSettings(factory="a.B", settings={"c": 1})
    assert two.loss == ObjectSettings(factory="x.Y", settings={})
    assert comparison.baseline == "two"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bogus": 1}, r"got others in .*compare\.yaml .*'bogus' is not accepted"),
        ({"base": {"batches": {"speakers": 3}}}, r"batches\.speakers"),
        ({"trial_lists": {"easy": {"manifest": "m", "trails": "t"}}}, "'trails' is not accepted"),
        ({"trial_lists": {"easy": {"manifest": "m"}}}, "required: trials"),
        ({"strategies": {"one": 3}}, "strategies"),
        ({"strategies": {"one": {"batch": {"kind": "random"}}}}, "strategy one must hold settings .*batch"),
        ({"strategies": {"one": {"batches": {"kind": "hard"}}}}, r"strategy one must hold settings .*batches\.kind"),
        ({"strategies": {"../one": {}}}, r"name of a strategy must be letters, digits .* got '\.\./one'"),
        ({"trial_lists": {"a b": {"manifest": "m", "trials": "t"}}}, "name of a trial list must be .* got 'a b'"),
        ({"trial_lists": {}}, "trial_lists must name at least one trial list, got none"),
        ({"seeds": []}, r"seeds must be different numbers from 0 on, at least one, got \[\]"),
        ({"seeds": [1, 1]}, r"seeds must be different numbers .* got \[1, 1\]"),
        ({"seeds": [-1]}, r"seeds must be different numbers from 0 on, .* got \[-1\]"),
        ({"baseline": "none"}, "baseline must be one of the strategies aam_softmax, .* got 'none'"),
        ({"base": {"seed": 3}}, "seed of aam_softmax must be left to `seeds`, got 3"),
        ({"strategies": {"one": {"train": {"devices": 2}}}}, "train.devices and .* of one must be 1 .* got 2 and None"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(write_yaml, settings, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        read(write_yaml, **copy.deepcopy(settings))


@pytest.mark.parametrize("content", [b"a: [", b"- a", b"\xff\xfe", b""])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "compare.yaml").write_bytes(content)
    message = (
        "file must be UTF-8 text" if content == b"\xff\xfe" else "comparison must hold the settings of a comparison"
    )
    with pytest.raises(ConfigError, match=f"{message}, got .* in .*compare.yaml"):
        read_comparison(tmp_path / "compare.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"configuration must be a YAML file or one of .*, got .*none\.yaml"):
        read_comparison(tmp_path / "none.yaml")


def test_settings_can_be_built_without_a_file():
    settings = ComparisonSettings(base=TrainSettings(batches=BatchSettings(speakers_per_batch=8)), trial_lists={})
    with pytest.raises(ConfigError, match="trial_lists must name at least one"):
        checked(settings)


@pytest.mark.slow
def test_the_papers_comparison_has_its_five_strategies_with_either_encoder():
    comparison = read_comparison("paper", base_options=["--data.train", "other.parquet", "--train.chunk-size=64"])
    names = [f"{encoder}-{name}" for encoder in ("ecapa", "resnet") for name in STRATEGIES_OF_THE_PAPER]
    assert sorted(comparison.strategies) == sorted(names)
    of_the_paper = checked(paper_with_defaults()).strategies
    for name, settings in comparison.strategies.items():
        assert (settings.data.train, settings.train.chunk_size) == ("other.parquet", 64)
        assert settings.batches.speakers_per_batch * settings.batches.utterances_per_speaker == 1300
        assert settings.train.epochs * settings.batches.steps_per_epoch == 154_000
        assert ("thin_resnet34" in settings.encoder.factory) == name.startswith("resnet-")
        assert settings.loss == of_the_paper[name.partition("-")[2]].loss
    twins = find_twins(comparison.strategies)
    assert {name: twin.name for name, twin in twins.items()} == {
        f"{encoder}-{hard}": f"{encoder}-{random}"
        for encoder in ("ecapa", "resnet")
        for hard, random in (("chns", "supcon"), ("chns_hscl", "hscl"))
    }
    assert all(twin.other_differences == () for twin in twins.values())
