"""Clustering finds the groups that are there, reproducibly, and keeps what made them."""

import io
import re
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from chns.core import ModelFileError
from chns.sampling import SpeakerClusters, cluster_speakers
from chns.sampling import clusters as clusters_module
from chns.sampling.clusters import (
    closest_pairs,
    cluster_tightness,
    derived_num_clusters,
    similarity_to_centre,
    unit_length,
)


def centroids_in_groups(num_groups=5, per_group=20, dim=16, spread=0.1, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_groups, dim))
    groups = np.repeat(np.arange(num_groups), per_group)
    return (centres[groups] + spread * rng.normal(size=(len(groups), dim))).astype(np.float32), groups


def same_grouping(a, b):
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))


def test_groups_that_are_there_are_found():
    centroids, groups = centroids_in_groups()
    clusters = cluster_speakers(centroids, num_clusters=5)
    assert same_grouping(clusters.labels, groups)
    assert clusters.labels.dtype == np.int64
    assert clusters.sizes.tolist() == [20] * 5


def test_only_the_direction_of_a_centroid_matters():
    centroids, groups = centroids_in_groups()
    scales = np.random.default_rng(1).uniform(0.01, 100, size=(len(centroids), 1)).astype(np.float32)
    assert same_grouping(cluster_speakers(centroids * scales, num_clusters=5).labels, groups)


def test_centres_have_unit_length_and_every_speaker_is_with_the_nearest():
    centroids = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    clusters = cluster_speakers(centroids, num_clusters=12)
    assert np.linalg.norm(clusters.centres, axis=1) == pytest.approx(np.ones(12), abs=1e-5)
    normalised = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    assert (clusters.labels == (normalised @ clusters.centres.T).argmax(axis=1)).all()


def test_same_seed_same_clusters_other_seed_other_clusters():
    centroids = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    first, again, other = (cluster_speakers(centroids, num_clusters=12, seed=seed) for seed in (1, 1, 2))
    assert (first.labels == again.labels).all()
    assert (first.centres == again.centres).all()
    assert not same_grouping(first.labels, other.labels)


def test_more_initialisations_never_give_looser_clusters():
    centroids = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    normalised = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)

    def tightness(clusters):
        return (normalised * clusters.centres[clusters.labels]).sum()

    one, many = (cluster_speakers(centroids, num_clusters=20, num_initialisations=n) for n in (1, 10))
    assert tightness(many) >= tightness(one) - 1e-4


def test_without_settings_k_means_starts_five_times_with_seed_0():
    centroids = np.random.default_rng(0).normal(size=(300, 8))
    plain = cluster_speakers(centroids, num_clusters=12)
    assert (plain.seed, plain.encoder) == (0, "")
    assert same_grouping(cluster_speakers(np.asfortranarray(centroids), num_clusters=12).labels, plain.labels)
    alike = {
        (seed, starts): (
            cluster_speakers(centroids, num_clusters=12, seed=seed, num_initialisations=starts).centres == plain.centres
        ).all()
        for seed, starts in ((0, 5), (1, 5), (0, 1))
    }
    assert alike == {(0, 5): True, (1, 5): False, (0, 1): False}


def many_voices(num_speakers=2_000, num_groups=40, dim=96):
    rng = np.random.default_rng(0)
    groups = rng.normal(size=(num_groups, dim))[rng.integers(num_groups, size=num_speakers)]
    centroids = (groups + 0.8 * rng.normal(size=(num_speakers, dim))).astype(np.float32)
    return centroids / np.linalg.norm(centroids, axis=1, keepdims=True)


def compare_beyond(monkeypatch, many):
    monkeypatch.setattr(clusters_module, "_MANY_POINTS", many)
    monkeypatch.setattr(clusters_module, "_FEWEST", 300)


def test_beyond_the_limit_a_few_speakers_begin_and_everybody_is_grouped_as_tightly(monkeypatch):
    seen, starts = [], []
    trained = clusters_module.trained_centres

    def noted(points, centres, iterations):
        seen.append((len(points), iterations))
        starts.append((points, centres))
        return trained(points, centres, iterations)

    unit = many_voices()
    rows = {point.tobytes(): row for row, point in enumerate(unit_length(unit))}

    def grouped(num_clusters, **settings):
        seen.clear()
        starts.clear()
        return cluster_speakers(unit, num_clusters=num_clusters, **{"num_initialisations": 1, **settings})

    assert not np.allclose(trained(unit, unit[:9], 1), trained(unit, unit[:9], 25))
    monkeypatch.setattr(clusters_module, "trained_centres", noted)
    compare_beyond(monkeypatch, 2_000)
    whole = grouped(60)
    assert seen == [(2_000, 25)]
    compare_beyond(monkeypatch, 1_999)
    few = grouped(60)
    assert seen == [(480, 8), (960, 1)]
    assert few.labels.shape == (2_000,)
    assert (few.sizes > 0).sum() > 50
    assert similarity_to_centre(unit, few).mean() == pytest.approx(similarity_to_centre(unit, whole).mean(), rel=0.01)
    assert grouped(20).num_clusters == 20
    assert seen == [(300, 8), (320, 1)]
    assert grouped(124).num_clusters == 124
    assert seen == [(992, 8), (1_984, 1)]
    grouped(125)  # sixteen a cluster are everybody
    assert seen == [(2_000, 25)]
    grouped(60, num_initialisations=2)
    assert len(seen) == 4
    drawn = [[rows[point.tobytes()] for point in points] for points, _ in starts]
    assert all(chosen == sorted(set(chosen)) for chosen in drawn)
    assert len({tuple(chosen) for chosen in drawn}) == 4
    first = [{rows[centre.tobytes()] for centre in starts[run][1]} for run in (0, 2)]
    assert [len(chosen) for chosen in first] == [60, 60]
    assert first[0] != first[1]


def test_beyond_the_limit_the_start_whose_beginning_is_tightest_is_gone_on_with(monkeypatch):
    compare_beyond(monkeypatch, 1_999)
    begun, begin, gone_on_with = [], clusters_module._begun, []
    further = clusters_module._grouped_further
    monkeypatch.setattr(clusters_module, "_begun", lambda *given: begun.append(begin(*given)) or begun[-1])
    monkeypatch.setattr(
        clusters_module, "_grouped_further", lambda *given: gone_on_with.append(given) or further(*given)
    )
    unit = unit_length(many_voices())
    for seed in range(3):
        begun.clear()
        cluster_speakers(unit, num_clusters=20, seed=seed, num_initialisations=4)
        tightness = [(unit[::6] @ centres.T).max(axis=1).sum() for centres in begun]
        assert len(begun) == 4
        assert gone_on_with[-1][1] is begun[int(np.argmax(tightness))]
    assert any(given[1] is not begun[0] for given in gone_on_with)


def test_beyond_the_limit_nearly_everybody_is_with_the_nearest_centre_and_the_seed_decides(monkeypatch):
    compare_beyond(monkeypatch, 1_999)
    monkeypatch.setattr(clusters_module, "_AT_ONCE", 300)
    unit = many_voices()
    first, again, other = (cluster_speakers(unit, num_clusters=60, seed=seed) for seed in (1, 1, 2))
    assert (first.labels == again.labels).all()
    assert (first.centres == again.centres).all()
    assert not same_grouping(first.labels, other.labels)
    assert np.linalg.norm(first.centres, axis=1) == pytest.approx(np.ones(60), abs=1e-5)
    assert (first.labels == (unit @ first.centres.T).argmax(axis=1)).mean() > 0.97
    monkeypatch.setattr(clusters_module, "_NEAREST_CENTRES", 60)
    monkeypatch.setattr(clusters_module, "_AT_ONCE", 10_000)
    clusters = cluster_speakers(unit, num_clusters=60, seed=1)
    assert (clusters.labels == (unit @ clusters.centres.T).argmax(axis=1)).all()


def test_beyond_the_limit_the_last_iterations_make_clusters_tighter(monkeypatch):
    compare_beyond(monkeypatch, 1_999)
    unit, tightness = many_voices(), []
    for iterations in (0, 1, 5):
        monkeypatch.setattr(clusters_module, "_FURTHER_ITERATIONS", iterations)
        clusters = cluster_speakers(unit, num_clusters=60, num_initialisations=1)
        tightness.append(similarity_to_centre(unit, clusters).mean())
    assert tightness[0] < tightness[1] < tightness[2]


def test_a_centre_without_speakers_or_direction_stays_where_it_is():
    centres = np.eye(3, dtype=np.float32)
    points = np.array([[1, 1, 0], [-1, 0, 0], [1, 0, 0]], np.float32)
    means = clusters_module._means(points, np.array([1, 2, 2]), centres)
    assert means == pytest.approx(np.array([[1, 0, 0], [0.5**0.5, 0.5**0.5, 0], [0, 0, 1]]))
    assert means.dtype == np.float32


def test_the_centre_of_a_single_cluster_is_that_of_all_speakers_however_many():
    centroids = np.random.default_rng(0).normal([3, 0, 0, 0], 1, size=(600, 4)).astype(np.float32)
    mean = (centroids / np.linalg.norm(centroids, axis=1, keepdims=True)).mean(axis=0)
    (centre,) = cluster_speakers(centroids, num_clusters=1).centres
    assert centre == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_grouping_tells_how_far_it_is_where_somebody_looks(monkeypatch, is_terminal):
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", shown)
    cluster_speakers(centroids_in_groups()[0], num_clusters=5)
    told = r"\rclustering:   0%\|.*\| 0/5 \[00:00<\?, \?run/s\].*\r +\r"
    assert re.fullmatch(told if is_terminal else "", shown.getvalue(), re.DOTALL)


@pytest.mark.parametrize("num_clusters", [1, 7])
def test_one_cluster_and_one_a_speaker_are_allowed(num_clusters, capfd):
    clusters = cluster_speakers(np.random.default_rng(0).normal(size=(7, 4)), num_clusters=num_clusters)
    assert len(set(clusters.labels.tolist())) == num_clusters
    assert capfd.readouterr() == ("", "")  # faiss warns of clusters of few


def test_saved_clusters_come_back_whole(tmp_path):
    clusters = cluster_speakers(centroids_in_groups()[0], num_clusters=5, seed=3, encoder="abc")
    clusters.save(tmp_path / "clusters.safetensors")
    loaded = SpeakerClusters.load(tmp_path / "clusters.safetensors")
    assert (loaded.labels == clusters.labels).all()
    assert (loaded.centres == clusters.centres).all()
    assert (loaded.labels.dtype, loaded.centres.dtype) == (np.int64, np.float32)
    assert (loaded.num_clusters, loaded.seed, loaded.encoder) == (5, 3, "abc")
    assert [path.name for path in tmp_path.iterdir()] == ["clusters.safetensors"]


@pytest.mark.parametrize(
    ("centroids", "num_clusters", "message"),
    [
        (np.ones((3, 2)), 4, "num_clusters must be between 1 and the 3 speakers, got 4"),
        (np.ones((3, 2)), 0, "num_clusters must be between 1 and the 3 speakers, got 0"),
        (np.ones(3), 1, r"centroids must have shape \(speakers, dim\), got \(3,\)"),
        ([[1, 0], [0, 0]], 1, "centroids must be finite and not zero, got speaker 1"),
        ([[1, 0], [1, 1], [np.nan, 0]], 1, "centroids must be finite and not zero, got speaker 2"),
    ],
)
def test_wrong_centroids_are_named(centroids, num_clusters, message):
    with pytest.raises(ValueError, match=message):
        cluster_speakers(np.asarray(centroids, np.float32), num_clusters=num_clusters)


def test_a_label_without_centre_is_an_error():
    centres = np.eye(2, dtype=np.float32)
    for labels, found in (([0, 2], "0 to 2"), ([1, -1], "-1 to 1"), ([3, 2], "2 to 3")):
        with pytest.raises(
            ValueError, match=rf"^labels must be between 0 and 1, the last of the centres, got {found}\.$"
        ):
            SpeakerClusters(labels=np.array(labels), centres=centres, seed=0)
    assert SpeakerClusters(labels=np.empty(0, np.int64), centres=centres[:1], seed=0).sizes.tolist() == [0]


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"clusters must be a file, got .*none\.safetensors\. Make one with `chns cluster`\.$"
    ):
        SpeakerClusters.load(tmp_path / "none.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not safetensors at all")
    with pytest.raises(ModelFileError, match=r"clusters must be a complete cluster file, got .*damaged\.safetensors"):
        SpeakerClusters.load(damaged)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"labels": np.zeros(2, np.int64)}, foreign)
    with pytest.raises(ModelFileError, match="clusters must be of format chns-clusters-1"):
        SpeakerClusters.load(foreign)
    ours = {"format": "chns-clusters-1", "seed": "3", "encoder": ""}
    whole = {"labels": np.zeros(2, np.int32), "centres": np.eye(2)}
    for tensors, metadata in (
        ({"labels": whole["labels"]}, ours),
        ({"centres": whole["centres"]}, ours),
        (whole, {**ours, "seed": "three"}),
        (whole, {name: ours[name] for name in ("format", "seed")}),
        (whole, {name: ours[name] for name in ("format", "encoder")}),
    ):
        save_file(tensors, foreign, metadata=metadata)
        with pytest.raises(ModelFileError, match="clusters must be a complete cluster file"):
            SpeakerClusters.load(foreign)
    save_file(whole, foreign, metadata=ours)
    loaded = SpeakerClusters.load(foreign)
    assert (loaded.labels.dtype, loaded.centres.dtype, loaded.seed) == (np.int64, np.float32, 3)


def unit(angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


CENTROIDS = unit(np.array([0.0, 0.2, 1.0, 1.05, 1.6]))
CLUSTERS = SpeakerClusters(labels=np.array([0, 0, 1, 1, 1]), centres=unit(np.array([0.1, 1.2, 3.0])), seed=0)


def test_similarity_is_the_cosine_to_the_own_centre():
    similarities = similarity_to_centre(CENTROIDS, CLUSTERS)
    assert similarities == pytest.approx(np.cos([0.1, 0.1, 0.2, 0.15, 0.4]), abs=1e-6)
    assert similarities.dtype == np.float64


def test_tightness_is_the_mean_over_a_cluster_and_nan_for_an_empty_one():
    tightness = cluster_tightness(CENTROIDS, CLUSTERS)
    assert tightness[:2] == pytest.approx([np.cos(0.1), np.cos([0.2, 0.15, 0.4]).mean()], abs=1e-6)
    assert np.isnan(tightness[2])


def test_pairs_are_within_clusters_most_similar_first():
    pairs = closest_pairs(CENTROIDS, CLUSTERS, count=3)
    assert [(pair.first, pair.second) for pair in pairs] == [(2, 3), (0, 1), (3, 4)]
    assert pairs[0].similarity == pytest.approx(np.cos(0.05), abs=1e-6)
    assert len(closest_pairs(CENTROIDS, CLUSTERS, count=100)) == 4
    (pair,) = closest_pairs(CENTROIDS, CLUSTERS, count=1)
    assert (pair.first, pair.second) == (2, 3)


def test_pairs_that_are_equally_similar_come_in_the_order_of_the_speakers():
    three = np.eye(3, dtype=np.float32)
    one = SpeakerClusters(labels=np.zeros(60, np.int64), centres=three[:1], seed=0)
    pairs = closest_pairs(np.tile(three, (20, 1)), one, count=2_000)
    assert {pair.similarity for pair in pairs} == {0.0, 1.0}
    assert pairs == sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def test_the_derived_number_of_clusters_is_the_papers_for_the_papers_corpus():
    assert derived_num_clusters(5_894, 650) == 50


@pytest.mark.parametrize(
    ("num_speakers", "speakers_per_batch", "expected"), [(1_000_000, 650, 8462), (20, 30, 4), (3, 650, 1), (20, 2, 20)]
)
def test_the_derived_number_follows_corpus_and_batch(num_speakers, speakers_per_batch, expected):
    assert derived_num_clusters(num_speakers, speakers_per_batch) == expected
