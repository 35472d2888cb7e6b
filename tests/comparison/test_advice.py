"""What a verdict says to try, and what it calls the batches: right for their kind."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from fabricated_evidence import HIGHER, LOWER, SAME, of_kind, rules_of, verdict
from torch.nn import Identity

from chns.comparison.run_evidence import condition_mixing
from chns.data.manifest import Manifest
from chns.training.build import make_plan

EVERYTHING_ODD = [
    {"hard": {"hard_loss": None, "p95": 0.4, "hard_from": 900}, "random": {"loss": (1, 0.3)}},
    {"hard": {"hard_loss": (1.5, 1.4), "p95": 0.95, "temperature": (0.1, 0.1)}, "utterances_per_speaker": 2.0},
    {"hard": {"hard_loss": (1.0, 0.05)}, "suspected_duplicates": 100},
    {"conditions": condition_mixing(["a", "a", "b", "b"], np.array([0, 0, 1, 1]))},
]
DEAF = {
    "clustered": ("group_size", "first_neighbour", "last_neighbour", "kind: clustered"),
    "neighbours": ("num_clusters", "pooling", "kind: neighbours"),
    "auto": (
        "num_clusters", "pooling", "hard_ratio", "start_epoch", "start:", "ramp_epochs", "refresh_every",
        "separate_same_person", "kind: auto",
    ),
}  # fmt: skip


def settings_in(one):
    """What a verdict says to try, as far as it is about batches: sections of the settings."""
    steps = [step.partition(" (")[0] for step in one.next_steps]
    return [(step, yaml.safe_load(step)) for step in steps if step.startswith(("batches:", "clusters:"))]


def changed(settings, tree):
    """Settings with those of a tree."""
    return replace(
        settings, **{section: replace(getattr(settings, section), **values) for section, values in tree.items()}
    )


@pytest.mark.parametrize("kind", DEAF)
@pytest.mark.parametrize("clusters", [{}, {"hard_ratio": 0.5, "start": "easy", "num_clusters": None}])
@pytest.mark.parametrize("change_of_all", [LOWER, SAME, HIGHER])
def test_advice_is_settings_that_the_kind_listens_to_and_that_differ_from_those_tried(kind, clusters, change_of_all):
    settings = of_kind(kind, **clusters)
    known = EVERYTHING_ODD if kind == "clustered" else EVERYTHING_ODD[:3]  # the others have no clusters
    advised = [step for odd in known for step in settings_in(verdict(change_of_all, settings=settings, **odd))]
    assert advised or change_of_all is LOWER
    for step, tree in advised:
        assert not any(word in step for word in DEAF[kind]), step
        assert changed(settings, tree) != settings, step


@pytest.mark.parametrize("kind", DEAF)
def test_batches_can_be_made_of_what_is_advised(kind, hum_manifest):
    manifest = Manifest.read(hum_manifest)  # 20 speakers
    settings = of_kind(kind, num_clusters=8, group_size=4, last_neighbour=10)
    settings = replace(settings, batches=replace(settings.batches, speakers_per_batch=8, steps_per_epoch=50))
    for odd in EVERYTHING_ODD[:3]:
        for step, tree in settings_in(verdict(HIGHER, settings=settings, num_training_speakers=20, **odd)):
            to_try = changed(settings, tree)
            assert make_plan(to_try, manifest, Identity()).steps_per_epoch == 50
            groups = to_try.clusters
            assert groups.last_neighbour - groups.first_neighbour >= groups.group_size - 1, step


def test_doubles_are_first_of_all_kept_apart_by_a_setting():
    doubles = {"suspected_duplicates": 100}
    assert "clusters: {separate_same_person: true}" in verdict(SAME, **doubles).next_steps
    for settings in (of_kind("auto"), of_kind("neighbours", separate_same_person=True)):
        assert "near_duplicates" not in rules_of(verdict(SAME, settings=settings, **doubles))
        close = verdict(SAME, settings=settings, hard={"p95": 0.95}).next_steps
        assert "clusters: {first_neighbour: 1, last_neighbour: 17} (leaves out the very nearest)" in close
    apart = of_kind("clustered", separate_same_person=True)
    assert not any("neighbour" in step for step in verdict(SAME, settings=apart, hard={"p95": 0.95}).next_steps)


def test_words_name_the_batches_that_were_used():
    hardly = {"hard_loss": None, "p95": 0.4, "easy": 0.9}
    (clustered,) = (f for f in verdict(SAME, hard=hardly).findings if f.rule == "hardly_harder")
    assert clustered.text == (
        "Clustered batches were hardly harder than random ones: p95 of the similarity of different speakers +0.00, "
        "loss 1.00 times theirs. A cluster holds 20 speakers on average."
    )
    one = verdict(SAME, settings=of_kind("neighbours"), hard=hardly, random={"easy": 0.9})
    (neighbours,) = (f for f in one.findings if f.rule == "hardly_harder")
    assert neighbours.text == (
        "Hard batches were hardly harder than random ones: p95 of the similarity of different speakers +0.00, loss "
        "1.00 times theirs, easy anchors 90 % instead of 90 %. A group holds 8 speakers, one and some of the nearest "
        "1 to 16."
    )
    assert neighbours.try_next == ("clusters: {last_neighbour: 8}", "clusters: {group_size: 16, last_neighbour: 16}")
    for kind in ("neighbours", "auto"):
        assert "lustered" not in str(verdict(SAME, settings=of_kind(kind), **EVERYTHING_ODD[1]))


def test_a_number_of_clusters_that_was_derived_is_known():
    one = verdict(SAME, settings=of_kind("clustered", num_clusters=None), hard={"hard_loss": None, "p95": 0.4})
    assert "A cluster holds 6 speakers on average." in str(one)
    assert "clusters: {num_clusters: 344}" in one.next_steps
