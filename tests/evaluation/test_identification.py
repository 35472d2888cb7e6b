"""Open-set identification against a case worked by hand and loops over searches and thresholds."""

import numpy as np
import pytest

from chns.evaluation import identification
from chns.evaluation.identification import identification_rates


def angles(*degrees):
    radians = np.radians(degrees)
    return np.stack((np.cos(radians), np.sin(radians)), axis=1).astype(np.float32)


def test_a_case_worked_by_hand():
    # Four people of two utterances each, one of which is enrolled, whichever; four strangers.
    embeddings = angles(0, 0, 90, 90, 40, 60, 120, 160, -10, -25, 270, 271)
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7])
    found = identification_rates(embeddings, labels, [4], fpir=0.25, draws=1, num_resamples=20)
    (gallery,) = found.galleries
    assert (gallery.mated, gallery.nonmated) == (4, 4)
    # The strangers are nearest to the person at 0 degrees, by 10, 25, 90 and 89 degrees: one of four may pass.
    assert gallery.threshold == pytest.approx(np.cos(np.radians(25)))
    # Of the searches, 0, 0 and 20 degrees from what is enrolled of their people, and 40, the last is missed.
    assert gallery.fnir.estimate == pytest.approx(0.25)


@pytest.fixture
def corpus(rng):
    labels = np.repeat(np.arange(60), 6)
    centres = rng.normal(size=(60, 8))
    return (centres[labels] + 0.8 * rng.normal(size=(360, 8))).astype(np.float32), labels


def test_rates_are_those_of_a_loop_over_all_thresholds(corpus, monkeypatch):
    monkeypatch.setattr(identification, "_SEARCHES_AT_ONCE", 50)
    embeddings, labels = corpus
    drawn = []
    original = identification._draw

    def remembered(*arguments):
        for size, found in original(*arguments):
            drawn.append((size, found))
            yield size, found

    monkeypatch.setattr(identification, "_draw", remembered)
    found = identification_rates(embeddings, labels, [40, 10], fpir=0.05, draws=3, num_resamples=10)
    assert [one.size for one in found.galleries] == [10, 40]
    for gallery in found.galleries:
        rates = []
        for _, searches in (pair for pair in drawn if pair[0] == gallery.size):
            candidates = []
            for threshold in (*searches.stranger_scores, *searches.mate_scores):
                if (searches.stranger_scores > threshold).mean() <= 0.05:
                    missed = ~(searches.is_nearest & (searches.mate_scores > threshold))
                    candidates.append(missed.mean())
            rates.append(min(candidates))
        assert gallery.fnir.estimate == pytest.approx(np.mean(rates))
        assert gallery.fnir.low <= gallery.fnir.estimate <= gallery.fnir.high
        assert gallery.confused <= gallery.fnir.estimate


def test_searches_are_compared_with_the_gallery_one_by_one(corpus):
    embeddings, labels = corpus
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    sizes, rng = [5, 20], np.random.default_rng(3)
    draws = dict(identification._draw(unit, labels, np.arange(60), sizes, rng))
    assert np.array_equal(draws[5].stranger_speakers, draws[20].stranger_speakers)
    assert set(draws[5].mated_speakers) < set(draws[20].mated_speakers)
    assert len(draws[20].mate_scores) == 20 * 5
    assert len(draws[20].stranger_scores) == 40 * 6
    again = np.random.default_rng(3)
    members = again.permutation(np.arange(60))[:20]
    order = again.permutation(360)
    enrolled = [next(row for row in order if labels[row] == speaker) for speaker in members]
    rows = [row for row in range(360) if labels[row] in members and row not in enrolled]
    for row, mate, nearest in zip(rows, draws[20].mate_scores, draws[20].is_nearest, strict=True):
        cosines = {labels[one]: unit[row] @ unit[one] for one in enrolled}
        assert mate == pytest.approx(cosines[labels[row]], abs=1e-6)
        assert nearest == (max(cosines, key=cosines.get) == labels[row])


def test_larger_galleries_miss_more(corpus):
    found = identification_rates(*corpus, [2, 10, 40], fpir=0.02, draws=5, num_resamples=10)
    rates = [one.fnir.estimate for one in found.galleries]
    assert rates == sorted(rates)
    thresholds = [one.threshold for one in found.galleries]
    assert thresholds == sorted(thresholds)
    assert "      40  " in str(found)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([0], {}, "gallery sizes and draws must be 1 or more"),
        ([], {}, "gallery sizes and draws must be 1 or more"),
        ([10], {"fpir": 1.0}, "fpir between 0 and 1"),
        ([61], {}, "gallery size must be at most 60, the number of speakers with two utterances, got 61"),
        ([50], {"fpir": 0.01}, "strangers must make at least 100 searches for a FPIR of 0.01, got 60"),
    ],
)
def test_what_cannot_be_measured_is_refused(corpus, sizes, options, message):
    with pytest.raises(ValueError, match=message):
        identification_rates(*corpus, sizes, **options)
