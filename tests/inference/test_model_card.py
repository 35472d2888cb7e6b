"""The README of a published model: what a user must know before using it, from what its bundle knows."""

import numpy as np
import pytest
import torch
import yaml

from chns.bundle.bundle import Architecture, load_bundle, save_bundle
from chns.core import ModelFileError
from chns.evaluation.metrics import verification_metrics
from chns.inference.publish import Publication, eer_half_width, model_card

TINY = Architecture(
    encoder="chns.encoders.EcapaTdnn", encoder_settings={"channels": 16, "aggregation_channels": 24, "embedding_dim": 8}
)
PUBLICATION = Publication(licence="cc-by-4.0", training_data="Hums: made up, free to use.", language="en")
RATES = {"eer": 0.1, "min_dcf": {"0.01": 0.9, "0.05": 0.6}, "target_trials": 400, "nontarget_trials": 1_600}
TRAINING = {
    "speakers": 1_694,
    "utterances": 7_213,
    "hours": 4.643,
    "settings": {"loss": {"factory": "chns.losses.SupConLoss"}, "batches": {"kind": "clusters"}},
}
CALIBRATION = {"scale": 20.0, "offset": -5.0, "quality": {}, "threshold": 2.2, "score_threshold": 0.36,
               "target_trials": 300, "nontarget_trials": 4_000}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("card") / "model"
    save_bundle(folder, TINY.build(), TINY, training={}, metrics={})
    return load_bundle(folder)


@pytest.fixture
def card(bundle):
    def write(*, training=(), publication=PUBLICATION, **metrics):
        return model_card("me/voice", bundle._replace(training=dict(training), metrics=metrics), publication)

    return write


def test_the_header_is_what_the_hub_reads(card):
    _, header, text = card().split("---\n", 2)
    assert yaml.safe_load(header) == {
        "license": "cc-by-4.0",
        "language": "en",
        "library_name": "chns",
        "tags": ["speaker-verification", "speaker-recognition", "speaker-embedding", "audio"],
        "metrics": ["eer"],
    }
    assert text.startswith("\n# voice\n")


def test_the_card_has_a_section_for_each_thing_to_know(card, bundle):
    text = card(training=TRAINING, validation={**RATES, "threshold": 0.4})
    for title in (
        "How to use",
        "Intended use",
        "Training data",
        "Error rates",
        "Decisions",
        "Limits",
        "Licence",
        "Model",
    ):
        assert f"\n## {title}\n" in text
    assert (
        "Hums: made up, free to use.\n\n1,694 speakers, 7,213 utterances, 4.643 hours. "
        "Loss: `chns.losses.SupConLoss`; batches: clusters." in text
    )
    assert 'Verifier.load("hf://me/voice")' in text
    assert "\n`cc-by-4.0`. The training data have terms of their own" in text
    assert bundle.digest in text


def test_intervals_of_the_bundle_are_shown(card):
    intervals = {
        "eer": {"estimate": 0.1, "low": 0.08, "high": 0.13, "level": 0.95},
        "min_dcf_0.05": {"estimate": 0.6, "low": 0.5, "high": 0.7, "level": 0.95},
    }
    text = card(**{"VoxCeleb1-H": {**RATES, "intervals": intervals}})
    assert (
        "| VoxCeleb1-H | 10.00 % [8.00, 13.00] | 0.900 (p_target 0.01), 0.600 [0.500, 0.700] (p_target 0.05) "
        "| 400 / 1,600 |" in text
    )
    assert "independent" not in text


def test_without_intervals_the_one_of_independent_trials_is_shown_and_said_to_be(card):
    text = card(validation=RATES)
    assert (
        "| validation | 10.00 % [8.36, 11.64]* | 0.900 (p_target 0.01), 0.600 (p_target 0.05) | 400 / 1,600 |" in text
    )
    assert "An interval marked * takes trials for independent." in text


def test_the_interval_covers_the_rate_that_independent_trials_have():
    """Scores of two normal distributions with an EER of 15.87 %: 19 of 20 intervals should cover it."""
    rng = np.random.default_rng(0)
    is_target = np.arange(2_000) < 500
    covered = 0
    for _ in range(200):
        eer = verification_metrics(rng.normal(size=2_000) + 2 * is_target, is_target).eer
        covered += abs(eer - 0.158655) < eer_half_width(eer, 500, 1_500)
    assert 180 <= covered <= 200


def test_the_card_says_what_decides(card):
    assert "accepted from 0.400 on, the point where the validation" in card(validation={**RATES, "threshold": 0.4})
    text = card(validation={**RATES, "threshold": 0.4}, calibration=CALIBRATION)
    assert "accepted from 0.360 on, as its calibration of 300 target and 4,000 non-target trials says" in text
    assert "The model states no threshold: choose one with `chns calibrate`" in card()


def test_a_card_without_measurements_or_facts_says_so(card):
    text = card(publication=Publication(licence="other", training_data="Mine."))
    assert "## Error rates\n\nNone were measured." in text
    assert "## Training data\n\nMine.\n\n## Error rates" in text
    assert "language" not in text.split("---")[1]


def test_imported_weights_are_said_to_be(card):
    assert "Weights taken over from a checkpoint of speechbrain." in card(training={"imported_from": "speechbrain"})


def test_text_in_the_header_cannot_add_fields(card):
    text = card(publication=Publication(licence="mit\nextra: 1", training_data=""))
    assert yaml.safe_load(text.split("---\n", 2)[1])["license"] == "mit\nextra: 1"


def test_a_name_in_the_bundle_cannot_break_the_table(card):
    assert "| a \\| b c | 10.00 %" in card(**{"a | b\nc": RATES})


@pytest.mark.parametrize("eer", [None, "0.1", float("nan"), 1.5, True, [1]])
def test_an_error_rate_that_is_none_is_refused(card, eer):
    with pytest.raises(
        ModelFileError, match=r"eer must be a fraction between 0 and 1, got .* in metrics of 'validation'"
    ):
        card(validation={**RATES, "eer": eer})


@pytest.mark.parametrize(
    "oddities",
    [
        {"min_dcf": 3, "target_trials": None},
        {"min_dcf": {"0.01": None}, "intervals": 3},
        {"intervals": {"eer": [1, 2]}},
    ],
)
def test_other_odd_values_are_unknown(card, oddities):
    text = card(validation={**RATES, **oddities}, training={"settings": 3, "speakers": "many"})
    assert "10.00 %" in text
