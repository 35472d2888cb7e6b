"""Wrong labels against a loop over the utterances, scikit-learn's mixture, and labels exchanged on purpose."""

import csv

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from chns.data import resumable
from chns.data.manifest import Manifest
from chns.evaluation import wrong_labels
from chns.evaluation.wrong_labels import check_labels, higher_component, label_fit


def voices(rng, speakers=30, each=8, spread=0.6, dim=64):
    """Embeddings around a centre of each speaker, and their labels."""
    centres = rng.normal(size=(speakers, dim))
    labels = np.repeat(np.arange(speakers), each)
    lengths = rng.uniform(0.5, 2, (len(labels), 1))
    return ((centres[labels] + spread * rng.normal(size=(len(labels), dim))) * lengths).astype(np.float32), labels


def test_a_case_worked_by_hand():
    # Two speakers at right angles; the third utterance of the first lies on the second's side.
    embeddings = np.array([[2, 0], [1, 0], [0, 3], [0, 1], [0, 2]], np.float32)
    fit = label_fit(embeddings, np.array([0, 0, 0, 1, 1]))
    # Others of the first: (1, 0) + (0, 1) for its first two, (2, 0) for the third.
    assert fit.own == pytest.approx([0.5**0.5, 0.5**0.5, 0, 1, 1])
    # Its centroid is (2, 1) / sqrt 5.
    assert fit.other == pytest.approx([0, 0, 1, 0.2**0.5, 0.2**0.5])
    assert fit.other_speaker.tolist() == [1, 1, 1, 0, 0]
    assert fit.suspected.tolist() == [False, False, True, False, False]


def test_similarities_are_those_of_a_loop_over_the_utterances(rng, monkeypatch):
    monkeypatch.setattr(wrong_labels, "_ROWS_AT_ONCE", 7)
    embeddings, labels = voices(rng, speakers=5, each=4)
    labels[-3:] = [5, 5, 6]
    fit = label_fit(embeddings, labels)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for row in range(len(labels)):
        others = [n for n in range(len(labels)) if labels[n] == labels[row] and n != row]
        means = {s: unit[labels == s].mean(axis=0) for s in range(7) if s != labels[row]}
        cosines = {s: unit[row] @ mean / np.linalg.norm(mean) for s, mean in means.items()}
        nearest = max(cosines, key=cosines.get)
        assert (fit.other_speaker[row], fit.other[row]) == (nearest, pytest.approx(cosines[nearest], abs=1e-6))
        if others:
            own = unit[others].mean(axis=0)
            assert fit.own[row] == pytest.approx(unit[row] @ own / np.linalg.norm(own), abs=1e-6)
        else:
            assert np.isnan(fit.own[row])
            assert np.isnan(fit.reliability[row])
            assert not fit.suspected[row]


def test_reliability_is_the_posterior_of_scikit_learns_mixture(rng):
    values = np.concatenate((rng.normal(-0.4, 0.15, 150), rng.normal(0.3, 0.1, 850)))
    mixture = GaussianMixture(2, means_init=[[-0.4], [0.3]], tol=1e-10, max_iter=500, reg_covar=1e-9)
    mixture.fit(values[:, None])
    high = mixture.means_.ravel().argmax()
    between = (values > mixture.means_.min()) & (values < mixture.means_.max())
    posterior = mixture.predict_proba(values[:, None])[:, high]
    assert higher_component(values)[between] == pytest.approx(posterior[between], abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_a_higher_value_is_never_less_reliable(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate((rng.normal(0, 1, 300), rng.normal(0.5, 0.05, 300), [np.nan]))
    reliability = higher_component(values)
    assert np.isnan(reliability[-1])
    ordered = reliability[np.argsort(values[:-1])]
    assert (np.diff(ordered) >= 0).all()
    assert 0 <= ordered[0] <= ordered[-1] <= 1


def test_values_that_are_all_equal_are_all_reliable():
    assert higher_component(np.array([0.3, 0.3, np.nan])).tolist()[:2] == [1, 1]


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_exchanged_labels_are_found(rng, share):
    embeddings, right = voices(rng)
    rows = rng.choice(len(right), round(share * len(right)), replace=False)
    labels = right.copy()
    labels[rows] = np.roll(right[rows], 1)
    is_wrong = labels != right
    suspected = label_fit(embeddings, labels).suspected
    assert (suspected & is_wrong).sum() / is_wrong.sum() > 0.95
    assert (suspected & is_wrong).sum() / suspected.sum() > 0.9


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_labels_that_nothing_can_be_said_of_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be of two speakers, one of them with two utterances, got"):
        label_fit(np.eye(3, dtype=np.float32), np.array(labels))


class Stubborn:
    """An embedder of what is known already, which stops after so many calls."""

    def __init__(self, embeddings, calls):
        self._embeddings = embeddings
        self.left = calls

    def crops(self, _, rows, **__):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return self._embeddings[rows]


def test_a_check_goes_on_where_it_was_stopped(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(resumable, "EMBEDDED_UTTERANCES", 100)
    embeddings, labels = voices(rng)
    labels[[0, 8]] = labels[[8, 0]]
    common = {"path": "a.wav", "offset_seconds": 0.0, "duration_seconds": 1.0, "sample_rate_hz": 16_000}
    rows = [{"utterance": f"u{row}", "speaker": f"={label}", **common} for row, label in enumerate(labels)]
    manifest = Manifest.from_rows(rows, root=tmp_path)
    options = {"kept": tmp_path / "kept", "model": "some digest"}
    with pytest.raises(KeyboardInterrupt):
        check_labels(Stubborn(embeddings, 2), manifest, **options)
    with pytest.raises(KeyboardInterrupt):  # another model starts anew
        check_labels(Stubborn(embeddings, 0), manifest, kept=tmp_path / "kept", model="another")
    check = check_labels(Stubborn(embeddings, 1), manifest, **options)
    assert not (tmp_path / "kept").exists()
    assert set(check.suspects.tolist()) == {0, 8}
    assert sorted(check.fixed_manifest().column("utterance")) == sorted(
        f"u{row}" for row in range(240) if row not in (0, 8)
    )
    check.write(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["utterance"] for line in lines} == {"u0", "u8"}
    assert {line["speaker"] for line in lines} == {"'=0", "'=1"}  # no formulas
    assert all(float(line["own_similarity"]) < float(line["other_similarity"]) for line in lines)
    assert all(float(line["reliability"]) < 0.5 for line in lines)
