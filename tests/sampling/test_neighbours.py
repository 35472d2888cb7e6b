"""The nearest speakers are those that a naive search finds, and a file gives them back."""

import io
import re
import sys

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from chns.core import ModelFileError
from chns.sampling import SpeakerNeighbours, cluster_speakers, clusters, find_neighbours, neighbours


def voices(num_speakers, num_groups=40, dim=24, seed=0):
    rng = np.random.default_rng(seed)
    groups = rng.normal(size=(num_groups, dim))[rng.integers(0, num_groups, num_speakers)]
    return (groups + 0.5 * rng.normal(size=(num_speakers, dim))).astype(np.float32)


def cosines_of(centroids):
    unit = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    return unit @ unit.T


def naive_neighbours(centroids, count):
    cosines = cosines_of(centroids)
    rows = []
    for speaker, row in enumerate(cosines):
        others = [other for other in np.argsort(-row, kind="stable") if other != speaker]
        rows.append(others[:count])
    return np.array(rows)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 80), st.integers(1, 30), st.integers(0, 99))
def test_neighbours_are_those_of_a_naive_search(num_speakers, num_neighbours, seed):
    num_neighbours = min(num_neighbours, num_speakers - 1)
    centroids = voices(num_speakers, seed=seed) * np.random.default_rng(seed).uniform(0.1, 9, (num_speakers, 1))
    found = find_neighbours(centroids.astype(np.float32), num_neighbours=num_neighbours)
    assert found.indices.dtype == np.int32
    assert (found.indices == naive_neighbours(centroids, num_neighbours)).all()


def test_searching_in_parts_finds_the_same(monkeypatch):
    whole = find_neighbours(voices(500), num_neighbours=10)
    monkeypatch.setattr(neighbours, "_SEARCHED_AT_ONCE", 37)
    assert (find_neighbours(voices(500), num_neighbours=10).indices == whole.indices).all()


@pytest.mark.parametrize("at_once", [10_000, 7])
@pytest.mark.parametrize("exactly", [200_000, 0])
@pytest.mark.parametrize("num_equal", [2, 5, 60])
def test_nobody_is_their_own_neighbour_or_twice_a_neighbour_among_equal_centroids(
    num_equal, exactly, at_once, monkeypatch
):
    monkeypatch.setattr(neighbours, "_MOST_COMPARED_EXACTLY", exactly)
    monkeypatch.setattr(neighbours, "_SEARCHED_AT_ONCE", at_once)
    centroids = np.concatenate([np.tile(voices(1), (num_equal, 1)), voices(200, seed=1)])
    found = find_neighbours(centroids, num_neighbours=8).indices
    assert (found != np.arange(len(centroids))[:, None]).all()
    assert all(len(set(row[row >= 0].tolist())) == np.count_nonzero(row >= 0) for row in found)
    nearest = np.take_along_axis(cosines_of(centroids)[:num_equal], found[:num_equal].astype(np.int64), axis=1)
    assert nearest[:, : min(8, num_equal - 1)] == pytest.approx(1, abs=1e-5)


def test_an_approximate_search_finds_nearly_all_that_an_exact_one_finds(monkeypatch):
    centroids = voices(4_000, num_groups=100)
    exact = find_neighbours(centroids, num_neighbours=20).indices
    monkeypatch.setattr(neighbours, "_MOST_COMPARED_EXACTLY", 3_999)
    approximate = find_neighbours(centroids, num_neighbours=20, seed=1).indices
    recall = np.mean([len(set(a.tolist()) & set(b.tolist())) / 20 for a, b in zip(exact, approximate, strict=True)])
    assert recall > 0.95
    assert (approximate != exact).any()  # it is another search
    assert (approximate == find_neighbours(centroids, num_neighbours=20, seed=1).indices).all()


def recall_of(found, wanted):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)])


def test_an_approximate_search_orders_by_the_cosine_itself_and_so_finds_what_bytes_confuse(monkeypatch):
    monkeypatch.setattr(neighbours, "_MOST_COMPARED_EXACTLY", 0)
    monkeypatch.setattr(neighbours, "_PROBED_CELLS", 1_000)
    centroids = 0.02 * voices(1_000)
    centroids[:, 0] += 1
    wanted, cosines, shares = naive_neighbours(centroids.astype(float), 20), cosines_of(centroids.astype(float)), []
    for again in (1, 2):
        monkeypatch.setattr(neighbours, "_COMPARED_AGAIN", again)
        found = find_neighbours(centroids, num_neighbours=20).indices
        shares.append(recall_of(found, wanted))
        assert (np.diff(np.take_along_axis(cosines, found.astype(np.int64), axis=1), axis=1) < 1e-6).all()
    assert shares[0] < shares[1] - 0.05
    assert shares[1] > 0.99


def test_cells_are_those_of_a_few_directions_and_the_search_is_the_same_in_parts(monkeypatch):
    centroids = voices(2_000, num_groups=100, dim=48)
    wanted, found = find_neighbours(centroids, num_neighbours=10).indices, {}
    monkeypatch.setattr(neighbours, "_MOST_COMPARED_EXACTLY", 0)
    for directions in (4, 24, 48):
        monkeypatch.setattr(neighbours, "_DIRECTIONS", directions)
        found[directions] = find_neighbours(centroids, num_neighbours=10).indices
    shares = {directions: recall_of(some, wanted) for directions, some in found.items()}
    assert shares[4] < 0.95 < shares[24]
    assert shares[48] > 0.95
    monkeypatch.setattr(neighbours, "_SEARCHED_AT_ONCE", 37)
    assert (find_neighbours(centroids, num_neighbours=10).indices == found[48]).all()


def test_what_an_approximate_search_does_not_find_is_minus_one_at_the_end(monkeypatch):
    """Two dozen cells of a few speakers, of which one is looked into."""
    monkeypatch.setattr(neighbours, "_MOST_COMPARED_EXACTLY", 0)
    monkeypatch.setattr(neighbours, "_PROBED_CELLS", 1)
    centroids = np.random.default_rng(0).normal(2, 1, (400, 24))
    centroids[0] = centroids.mean(axis=0)  # near everybody, and nobody, -1, must not be taken for this one
    found = find_neighbours(centroids, num_neighbours=60).indices
    missing = found == -1
    assert missing.any()
    assert (np.diff(missing.astype(int), axis=1) >= 0).all()
    assert (found != np.arange(400)[:, None]).all()
    named = np.zeros((400, 400), bool)
    named[np.nonzero(~missing)[0], found[~missing]] = True
    assert (named == named.T).all()  # those of a cell name each other


@pytest.mark.parametrize(
    ("centroids", "num_neighbours", "message"),
    [
        (np.ones((3, 2)), 3, "num_neighbours must be between 1 and 2, one less than the speakers, got 3"),
        (np.ones((3, 2)), 0, "num_neighbours must be between 1 and 2, one less than the speakers, got 0"),
        (np.ones(3), 1, r"centroids must have shape \(speakers, dim\), got \(3,\)"),
        ([[1, 0], [0, 0]], 1, "centroids must be finite and not zero, got speaker 1"),
    ],
)
def test_wrong_arguments_of_a_search_are_named(centroids, num_neighbours, message):
    with pytest.raises(ValueError, match=message):
        find_neighbours(np.asarray(centroids, np.float32), num_neighbours=num_neighbours)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.zeros(3, np.int32), r"indices must be a table of int32, got shape \(3,\) of int32"),
        (np.zeros((3, 1)), r"indices must be a table of int32, got shape \(3, 1\) of float64"),
        (np.array([[1], [2]], np.int32), "indices must be between -1 and 1, got -1 to 2"),
        (np.array([[1], [-2]], np.int32), "indices must be between -1 and 1, got -2 to 1"),
    ],
)
def test_a_table_that_names_no_speakers_is_an_error(indices, message):
    with pytest.raises(ValueError, match=message):
        SpeakerNeighbours(indices=indices)


def test_saved_neighbours_come_back_whole(tmp_path):
    found = find_neighbours(voices(50), num_neighbours=6, encoder="abc")
    found.save(tmp_path / "neighbours.safetensors")
    loaded = SpeakerNeighbours.load(tmp_path / "neighbours.safetensors")
    assert (loaded.indices == found.indices).all()
    assert loaded.indices.dtype == np.int32
    assert loaded.encoder == "abc"
    assert [path.name for path in tmp_path.iterdir()] == ["neighbours.safetensors"]


def test_up_to_the_limit_all_are_compared_and_beyond_the_seed_decides(monkeypatch):
    centroids = voices(400)
    monkeypatch.setattr(neighbours, "_PROBED_CELLS", 1)
    monkeypatch.setattr(neighbours, "_MOST_COMPARED_EXACTLY", 400)
    cosines = cosines_of(centroids)
    found, wanted = find_neighbours(centroids, num_neighbours=60).indices, naive_neighbours(centroids, 60)
    np.testing.assert_allclose(  # versions of faiss round differently, and may swap two that are as near
        np.take_along_axis(cosines, found, 1), np.take_along_axis(cosines, wanted, 1), atol=1e-6
    )
    monkeypatch.setattr(neighbours, "_MOST_COMPARED_EXACTLY", 399)
    plain, first, other = (find_neighbours(centroids, num_neighbours=60, **seed).indices for seed in SEEDS)
    assert (plain == first).all()
    assert (plain != other).any()


SEEDS = ({}, {"seed": 0}, {"seed": 1})


def test_where_faiss_has_a_gpu_all_are_compared_on_it_however_many(monkeypatch):
    """A build for GPUs is stood in for: this one has none. What is moved there is noted."""
    moved, kmeans = [], faiss.Kmeans

    def noted(*sizes, gpu, **settings):
        moved.append(gpu)
        return kmeans(*sizes, **settings)

    monkeypatch.setattr(faiss, "Kmeans", noted)
    monkeypatch.setattr(clusters, "_MANY_POINTS", 10)
    monkeypatch.setattr(clusters, "_FEW", ((1, 1),))
    monkeypatch.setattr(neighbours, "_MOST_COMPARED_EXACTLY", 10)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index, **_: moved.append(index.ntotal) or index)
    monkeypatch.setattr(clusters, "_grouped_further", None)
    monkeypatch.setattr(neighbours, "_in_cells", None)
    centroids = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    assert cluster_speakers(centroids, num_clusters=4).num_clusters == 4
    assert moved == [True, 0] * 5  # k-means, and an index, empty still, of the centres
    found = find_neighbours(centroids, num_neighbours=3).indices
    assert len(moved) == 2 * 5 + 1
    monkeypatch.undo()
    assert (found == find_neighbours(centroids, num_neighbours=3).indices).all()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_search_of_more_than_a_second_tells_how_far_it_is_where_somebody_looks(monkeypatch, is_terminal):
    now, without_oneself = [0.0], neighbours._without_oneself

    def slowly(*searched):
        now[0] += 1.5
        return without_oneself(*searched)

    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(neighbours, "_without_oneself", slowly)
    find_neighbours(voices(50), num_neighbours=3)
    told = r"\rneighbours: 100%\|.*\| 50/50 \[00:01<00:00, 33\.33speaker/s\]\r +\r"
    assert re.fullmatch(told if is_terminal else "", shown.getvalue())


def test_tables_may_be_empty_or_hold_nobody():
    assert SpeakerNeighbours(indices=np.empty((0, 3), np.int32)).encoder == ""
    assert SpeakerNeighbours(indices=np.array([[-1]], np.int32)).indices.tolist() == [[-1]]
    assert find_neighbours(voices(5), num_neighbours=2).encoder == ""


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neighbours must be a file, got .*none\.safetensors"):
        SpeakerNeighbours.load(tmp_path / "none.safetensors")


TABLE = {"indices": np.array([[1], [0]], np.int32)}
OURS = {"format": "chns-neighbours-1", "encoder": ""}


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (TABLE, None, "neighbours must be of format chns-neighbours-1"),
        (TABLE, {"format": "chns-clusters-1"}, "neighbours must be of format chns-neighbours-1"),
        (TABLE, {"format": OURS["format"]}, "neighbours must be a complete file"),
        ({"labels": TABLE["indices"]}, OURS, "neighbours must be a complete file"),
        ({"indices": np.array([[9], [0]], np.int32)}, OURS, "neighbours must be a complete file, .*between -1 and 1"),
        ({"indices": np.array([[np.nan], [0]])}, OURS, "neighbours must be a complete file, .*a table of int32"),
    ],
)
def test_foreign_and_incomplete_files_are_named(tensors, metadata, message, tmp_path):
    save_file(tensors, tmp_path / "foreign.safetensors", metadata=metadata)
    with pytest.raises(ModelFileError, match=message):
        SpeakerNeighbours.load(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize("kept_bytes", [0, 5, 60, -1])
def test_a_damaged_file_is_named(kept_bytes, tmp_path):
    path = tmp_path / "damaged.safetensors"
    SpeakerNeighbours(**TABLE).save(path)
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(ModelFileError, match=r"neighbours must be a complete file, got .*damaged\.safetensors"):
        SpeakerNeighbours.load(path)
