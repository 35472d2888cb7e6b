"""The map of training speakers and the shapes of their clusters."""

from dataclasses import replace

import numpy as np
import pytest
from fabricated_findings import fabricated_run

from chns.data.manifest import Manifest
from chns.report.page import map_data
from chns.report.speakers import TrainingSpeakers, cluster_shapes, principal_plane, speaker_columns, speaker_map
from chns.sampling import SpeakerClusters


def speakers_of(directions, *, places=None, num_training_speakers=None):
    count = len(directions)
    return TrainingSpeakers(
        names=[f"s{number:03d}" for number in range(count)],
        places=np.arange(count) if places is None else np.array(places),
        num_training_speakers=num_training_speakers or count,
        labels=np.repeat(np.arange(count), 2),
        embeddings=np.repeat(np.asarray(directions, np.float32), 2, axis=0),
    )


def test_points_of_a_plane_are_shown_undistorted():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 2)) * [3, 1]
    plane = np.linalg.qr(rng.normal(size=(12, 2)))[0]
    points, explained = principal_plane(flat @ plane.T + rng.normal(size=12))
    assert explained == pytest.approx(1)
    between = [np.linalg.norm(p[:, None] - p[None], axis=2) for p in (flat, points)]
    np.testing.assert_allclose(*between, atol=1e-9)
    assert points[:, 0].var() > points[:, 1].var()


def test_the_plane_keeps_what_a_singular_value_decomposition_says():
    vectors = np.random.default_rng(1).normal(size=(40, 9))
    points, explained = principal_plane(vectors)
    values = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    assert explained == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), values[:2])


def test_a_map_is_not_mirrored_by_the_order_of_speakers():
    vectors = np.random.default_rng(2).normal(size=(30, 6))
    np.testing.assert_allclose(principal_plane(vectors)[0], principal_plane(vectors[::-1])[0][::-1], atol=1e-9)


@pytest.mark.parametrize("vectors", [np.ones((1, 4)), np.ones((3, 4)), np.array([[1.0], [2.0], [4.0]])])
def test_few_or_equal_or_one_dimensional_speakers_have_a_map_too(vectors):
    points, explained = principal_plane(vectors)
    assert points.shape == (len(vectors), 2)
    assert np.isfinite(points).all()
    assert explained == pytest.approx(1)


def test_the_map_has_a_name_and_a_cluster_for_each_point():
    rng = np.random.default_rng(3)
    clusters = SpeakerClusters(labels=np.array([0, 1, 2, 1, 0]), centres=np.eye(4, 8, dtype=np.float32), seed=0)
    found = speaker_map(speakers_of(rng.normal(size=(3, 8)), places=[1, 2, 4], num_training_speakers=5), clusters)
    assert found.speakers == ["s000", "s001", "s002"]
    assert found.clusters.tolist() == [1, 2, 0]
    assert found.points.shape == (3, 2)
    assert 0 < found.explained <= 1
    assert speaker_map(speakers_of(rng.normal(size=(3, 8))), None).clusters is None


def test_tightness_is_to_the_centre_of_the_speakers_as_they_are_now():
    angles = np.radians([0, 60, 90, 90])
    speakers = speakers_of(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    stale = -np.ones((4, 2), np.float32)
    shapes = cluster_shapes(speakers, SpeakerClusters(labels=np.array([1, 1, 3, 3]), centres=stale, seed=0))
    assert shapes.sizes.tolist() == [0, 2, 0, 2]
    np.testing.assert_allclose(shapes.tightness, [np.nan, np.cos(np.radians(30)), np.nan, 1], atol=1e-6)


def test_sizes_count_all_training_speakers_where_some_are_embedded():
    clusters = SpeakerClusters(labels=np.array([0, 0, 0, 1]), centres=np.eye(2, dtype=np.float32), seed=0)
    shapes = cluster_shapes(speakers_of([[1, 0]], places=[2], num_training_speakers=4), clusters)
    assert shapes.sizes.tolist() == [3, 1]
    np.testing.assert_allclose(shapes.tightness, [1, np.nan], atol=1e-6)


def manifest_of(tmp_path, **columns):
    """Two utterances of each of eight speakers, with further columns of one value an utterance."""
    rows = [
        {
            "utterance": f"u{row:02}",
            "speaker": f"{'ab'[row // 8]}/s{row // 2}",
            "path": f"{row}.wav",
            "offset_seconds": 0.0,
            "duration_seconds": 1.0,
            "sample_rate_hz": 16_000,
            **{name: values[row] for name, values in columns.items()},
        }
        for row in range(16)
    ]
    return Manifest.from_rows(rows, root=tmp_path)


def test_columns_that_group_the_speakers_are_kept_and_others_are_not(tmp_path):
    manifest = manifest_of(
        tmp_path,
        gender=["f", "f", "m", "m"] * 4,
        session=[f"x{row}" for row in range(16)],  # one of each utterance
        device=["phone"] * 16,  # tells nobody apart
        word=["yes", "no"] * 8,  # of the utterance, not of the speaker
    )
    assert speaker_columns(manifest) == {"gender": ["f", "m"] * 4, "corpus": ["a"] * 4 + ["b"] * 4}


def test_the_value_of_a_speaker_is_that_of_most_utterances(tmp_path):
    language = ["de"] * 8 + ["en"] * 8
    language[0] = "en"
    assert speaker_columns(manifest_of(tmp_path, language=language))["language"][1:] == ["de"] * 3 + ["en"] * 4


def test_purity_says_how_clusters_and_neighbours_go_with_a_column(tmp_path):
    manifest = manifest_of(tmp_path, gender=["f", "f", "m", "m"] * 4)
    rng = np.random.default_rng(0)
    voices = np.repeat(np.eye(2), 4, axis=0) + 0.01 * rng.normal(size=(8, 2))  # by corpus
    speakers = replace(speakers_of(voices), names=manifest.speakers, utterances=manifest)
    clusters = SpeakerClusters(labels=np.repeat([0, 1], 4), centres=np.eye(2, dtype=np.float32), seed=0)
    by_column = {one.column: one for one in speaker_map(speakers, clusters).purities}
    assert by_column["corpus"].clusters == 1
    assert by_column["gender"].clusters == 0.5
    assert 0.5 <= by_column["corpus"].clusters_by_chance < 0.9
    assert by_column["corpus"].neighbours_by_chance == pytest.approx(3 / 7)
    without = speaker_map(speakers, None).purities
    assert all(np.isnan(one.clusters) for one in without)


def test_the_page_has_the_columns_once_for_runs_of_the_same_speakers():
    run = fabricated_run("chns")
    columned = replace(run, speaker_map=replace(run.speaker_map, columns={"gender": ["f", "m", "", "f"] * 15}))
    content = map_data([columned, columned])
    assert content["speakers"][0]["columns"] == {"gender": {"values": ["", "f", "m"], "codes": [1, 2, 0, 1] * 15}}
    assert [one["speakers"] for one in content["runs"]] == [0, 0]
    assert content["num_colours"] == 12
