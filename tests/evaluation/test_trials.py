"""Trial lists: forms, names, and lists made from a manifest."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chns.core import ManifestError, TrialError
from chns.data.manifest import Manifest
from chns.evaluation.pairs import NumberedPairs, make_trials, unit_embeddings
from chns.evaluation.trials import FORMS, Trials, read_trials, resolve, write_trials

TRIALS = Trials(["a/1", "a/1", "b/1"], ["a/2", "b/1", "b/2"], np.array([True, False, True]))


def manifest_of(*rows, names=("speaker", "utterance")):
    """A manifest from tuples of text columns; the path is the utterance's name in FLAC unless given."""
    return Manifest.from_rows(
        [
            {
                "path": f"{dict(zip(names, row, strict=True))['utterance']}.flac",
                "offset_seconds": 0.0,
                "duration_seconds": 3.0,
                "sample_rate_hz": 16000,
                **dict(zip(names, row, strict=True)),
            }
            for row in rows
        ],
        root=Path(),
    )


def corpus(num_speakers=6, utterances_per_speaker=4):
    """Speaker s of family s % 2; utterance u of session u % 2."""
    return manifest_of(
        *(
            (f"s{speaker}", f"s{speaker}/{number}", f"family{speaker % 2}", f"session{number % 2}")
            for number in range(utterances_per_speaker)
            for speaker in range(num_speakers)
        ),
        names=("speaker", "utterance", "family", "session"),
    )


def as_list(trials):
    return list(zip(trials.enrolment, trials.test, trials.is_target.tolist(), strict=True))


def pairs_of(trials, *, target):
    return [frozenset(row[:2]) for row in as_list(trials) if row[2] == target]


# Reading and writing


@pytest.mark.parametrize("form", ["kaldi", "voxceleb", "cnceleb"])
@pytest.mark.parametrize("how", ["auto", "named"])
def test_written_trials_read_back_equal(tmp_path, form, how):
    write_trials(tmp_path / "trials.txt", TRIALS, form=form)
    back = read_trials(tmp_path / "trials.txt", form="auto" if how == "auto" else form)
    assert as_list(back) == as_list(TRIALS)
    assert list(tmp_path.iterdir()) == [tmp_path / "trials.txt"]


@pytest.mark.parametrize(
    ("form", "first_line"),
    [("kaldi", "a/1 a/2 target"), ("voxceleb", "1 a/1 a/2"), ("cnceleb", "a/1 a/2 1"), ("unlabelled", "a/1 a/2")],
)
def test_forms_read_as_the_field_writes_them(tmp_path, form, first_line):
    write_trials(tmp_path / "trials.txt", TRIALS, form=form)
    assert (tmp_path / "trials.txt").read_bytes().split(b"\n")[0].decode() == first_line
    assert len((tmp_path / "trials.txt").read_text().splitlines()) == len(TRIALS)


def test_a_list_without_labels_has_none(tmp_path):
    (tmp_path / "trials.txt").write_text("a b\nc d\n")
    trials = read_trials(tmp_path / "trials.txt")
    assert trials.is_target is None
    assert (trials.enrolment, trials.test) == (["a", "c"], ["b", "d"])


def test_line_ends_blank_lines_tabs_and_byte_order_mark_do_not_matter(tmp_path):
    content = "\ufeff\r\na b\ttarget\r\n\r\n  c   d nontarget\r\n\n\n"
    (tmp_path / "trials.txt").write_bytes(content.encode())
    trials = read_trials(tmp_path / "trials.txt")
    assert as_list(trials) == [("a", "b", True), ("c", "d", False)]
    assert trials.place(1) == f"{tmp_path / 'trials.txt'}:4"


def test_a_list_that_reads_in_two_ways_must_be_named(tmp_path):
    path = tmp_path / "trials.txt"
    path.write_text("0 x 1\n1 y 1\n")
    with pytest.raises(TrialError, match=r"'0 x 1' in .*trials.txt:1, .* voxceleb or cnceleb. Say which with --format"):
        read_trials(path)
    assert as_list(read_trials(path, form="voxceleb")) == [("x", "1", False), ("y", "1", True)]
    assert as_list(read_trials(path, form="cnceleb")) == [("0", "x", True), ("1", "y", True)]


def test_the_whole_file_decides_the_form(tmp_path):
    path = tmp_path / "trials.txt"
    path.write_text("0 x 1\n1 y 1\n1 y z\n")
    assert as_list(read_trials(path)) == [("x", "1", False), ("y", "1", True), ("y", "z", True)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 a b\n\n1 a\n", r"lines like `1 ENROL TEST` \(voxceleb\), got '1 a' in .*trials.txt:3"),
        ("a b target\na b Target\n", r"`ENROL TEST target` \(kaldi\), got 'a b Target' in .*trials.txt:2"),
        ("a b 1\na b c d\n", r"`ENROL TEST 1` \(cnceleb\), got 'a b c d' in .*trials.txt:2"),
        ("a b\n1 a b\n", r"`ENROL TEST` \(unlabelled\), got '1 a b' in .*trials.txt:2"),
        ("a b maybe\n", r"`1 ENROL TEST` \(voxceleb\), or .*got 'a b maybe' in .*trials.txt:1"),
        ("\n \n", "trial list must have at least one line, got none in"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, content, message):
    (tmp_path / "trials.txt").write_text(content)
    with pytest.raises(TrialError, match=message):
        read_trials(tmp_path / "trials.txt")


def test_a_line_that_does_not_fit_the_named_form_is_named(tmp_path):
    (tmp_path / "trials.txt").write_text("a b 1\n")
    with pytest.raises(TrialError, match=r"`ENROL TEST target` \(kaldi\), got 'a b 1' in .*trials.txt:1"):
        read_trials(tmp_path / "trials.txt", form="kaldi")


def test_text_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "trials.txt").write_bytes(b"a b 1\na \xff 1\n")
    with pytest.raises(TrialError, match=r"must be UTF-8 text, got .* in .*trials.txt:2"):
        read_trials(tmp_path / "trials.txt")


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"trial list must be a file, got .*absent\.txt"):
        read_trials(tmp_path / "absent.txt")


def test_unknown_forms_are_refused(tmp_path):
    with pytest.raises(ValueError, match="form must be auto or one of voxceleb, kaldi, cnceleb, unlabelled, got 'csv'"):
        read_trials(tmp_path / "trials.txt", form="csv")
    with pytest.raises(ValueError, match="form must be one of voxceleb, kaldi, cnceleb, unlabelled, got 'auto'"):
        write_trials(tmp_path / "trials.txt", TRIALS, form="auto")


def test_labels_are_never_made_up(tmp_path):
    with pytest.raises(ValueError, match="trials must have labels to be written as kaldi, got none"):
        write_trials(tmp_path / "trials.txt", Trials(["a"], ["b"], None))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["two words", "", "line\nend"])
def test_names_that_a_list_cannot_hold_are_refused(tmp_path, name):
    with pytest.raises(TrialError, match="utterance name must not be empty or contain white space, got"):
        write_trials(tmp_path / "trials.txt", Trials([name], ["b"], np.array([True])))


def test_columns_are_equally_long():
    with pytest.raises(ValueError, match="columns must be equally long, got 2 enrolment and 1 test"):
        Trials(["a", "b"], ["c"], None)
    with pytest.raises(ValueError, match="and 3 labels"):
        Trials(["a"], ["c"], np.ones(3, bool))


# Names


def resolved(name, manifest):
    enrolment, test = resolve(Trials([name], [name], None), manifest)
    assert enrolment.tolist() == test.tolist()
    return enrolment.tolist()


@pytest.mark.parametrize("name", ["u2", "wav/s/2.flac", "wav/s/2.wav", "wav/s/2", "s/2.wav", "s/2", "2.wav"])
def test_names_match_utterances_paths_and_ends_of_paths_whatever_the_suffix(name):
    manifest = manifest_of(
        ("s", "u1", "wav/s/1.flac"), ("s", "u2", "wav/s/2.flac"), names=("speaker", "utterance", "path")
    )
    assert resolved(name, manifest) == [1]


def test_the_utterance_name_comes_before_the_path():
    manifest = manifest_of(("s", "b", "a"), ("s", "a", "b"), names=("speaker", "utterance", "path"))
    assert resolved("a", manifest) == [1]


def test_a_whole_path_comes_before_the_end_of_another():
    manifest = manifest_of(("s", "u1", "dev/x/1.wav"), ("s", "u2", "x/1.wav"), names=("speaker", "utterance", "path"))
    assert resolved("x/1.flac", manifest) == [1]


def test_the_end_of_a_path_starts_at_a_folder():
    manifest = manifest_of(("s", "u1", "dev/xx/1.wav"), names=("speaker", "utterance", "path"))
    with pytest.raises(TrialError, match="names that match none"):
        resolved("x/1.wav", manifest)


@pytest.mark.parametrize("name", ["1.wav", "rec.wav", "rec"])
def test_names_that_fit_several_utterances_are_refused(name):
    manifest = manifest_of(
        ("s", "u1", "a/1.wav"),
        ("s", "u2", "b/1.wav"),
        ("s", "segment1", "rec.wav"),
        ("s", "segment2", "rec.wav"),
        names=("speaker", "utterance", "path"),
    )
    with pytest.raises(TrialError, match=f"got 1 names that match none or several: '{name}'"):
        resolved(name, manifest)


def test_unknown_names_are_counted_and_shown_with_their_lines(tmp_path):
    (tmp_path / "trials.txt").write_text("\n".join(["a x 1", "", "y a 1", "x a 0", "a z 1", "w a 0"]))
    trials = read_trials(tmp_path / "trials.txt")
    with pytest.raises(TrialError) as error:
        resolve(trials, manifest_of(("s", "a")))
    assert "got 4 names that match none or several: 'x' in " in str(error.value)
    places = [f"{name!r} in {tmp_path / 'trials.txt'}:{line}" for name, line in (("x", 1), ("y", 3), ("z", 5))]
    assert ", ".join(places) + ", ..." in str(error.value)


def test_rows_are_in_the_order_of_the_trials():
    manifest = manifest_of(("a", "a/2"), ("b", "b/2"), ("a", "a/1"), ("b", "b/1"))
    enrolment, test = resolve(TRIALS, manifest)
    assert enrolment.tolist() == [2, 2, 3]
    assert test.tolist() == [0, 3, 1]


# Making


def test_all_target_pairs_and_as_many_nontargets_by_default():
    manifest = corpus(num_speakers=6, utterances_per_speaker=4)
    trials = make_trials(manifest, seed=0)
    targets = pairs_of(trials, target=True)
    expected = {
        frozenset(pair)
        for speaker in range(6)
        for pair in combinations([f"s{speaker}/{number}" for number in range(4)], 2)
    }
    assert set(targets) == expected
    assert len(targets) == len(expected) == 36
    assert len(pairs_of(trials, target=False)) == 36


@pytest.mark.slow
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 240), st.sampled_from([None, "family"]))
def test_no_pair_twice_and_every_label_true(seed, targets_per_speaker, num_nontargets, same_column):
    manifest = corpus(num_speakers=6, utterances_per_speaker=4)
    available = 240 if same_column is None else 96
    trials = make_trials(
        manifest,
        targets_per_speaker=targets_per_speaker,
        num_nontargets=min(num_nontargets, available),
        same_column=same_column,
        seed=seed,
    )
    pairs = [frozenset(row[:2]) for row in as_list(trials)]
    assert all(len(pair) == 2 for pair in pairs)
    assert len(set(pairs)) == len(pairs)
    assert trials.is_target.sum() == 6 * min(targets_per_speaker, 6)
    assert (~trials.is_target).sum() == min(num_nontargets, available)
    speaker = dict(zip(manifest.column("utterance"), manifest.column("speaker"), strict=True))
    family = dict(zip(manifest.column("utterance"), manifest.column("family"), strict=True))
    for enrolment, test, is_target in as_list(trials):
        assert (speaker[enrolment] == speaker[test]) == is_target
        if same_column and not is_target:
            assert family[enrolment] == family[test]


def test_every_speaker_gets_the_same_number_of_targets():
    trials = make_trials(corpus(6, 4), targets_per_speaker=3, seed=0)
    speakers = [name.split("/")[0] for name, _, is_target in as_list(trials) if is_target]
    assert np.unique(speakers, return_counts=True)[1].tolist() == [3] * 6


def test_a_speaker_with_fewer_target_pairs_gives_all():
    manifest = manifest_of(("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1"), ("c", "c2"), ("c", "c3"))
    trials = make_trials(manifest, targets_per_speaker=2, num_nontargets=1, seed=0)
    assert [name[0] for name, _, is_target in as_list(trials) if is_target] == ["a", "c", "c"]


@pytest.mark.slow
def test_every_nontarget_pair_is_equally_likely():
    manifest = manifest_of(("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"))
    drawn = [pairs_of(make_trials(manifest, num_nontargets=1, seed=seed), target=False)[0] for seed in range(1400)]
    counts = np.array([drawn.count(pair) for pair in set(drawn)])
    assert len(counts) == 7
    assert counts.min() > 140  # 200 expected, standard deviation 13
    assert counts.max() < 260


def test_cross_session_targets_differ_in_session():
    trials = make_trials(corpus(6, 4), cross_session=True, seed=0)
    targets = [sorted(int(name[-1]) % 2 for name in pair) for pair in pairs_of(trials, target=True)]
    assert targets == [[0, 1]] * 24


def test_a_seed_decides_the_trials():
    manifest = corpus()
    first, again, other = (
        as_list(make_trials(manifest, targets_per_speaker=2, num_nontargets=20, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def hardest_by_comparing_all(manifest, embeddings, count, same_column):
    names, speakers = manifest.column("utterance"), manifest.column("speaker")
    values = manifest.column(same_column or "utterance")
    cosine = embeddings @ embeddings.T / np.outer(*[np.linalg.norm(embeddings, axis=1)] * 2)
    pairs = [
        (cosine[a, b], frozenset((names[a], names[b])))
        for a, b in combinations(range(len(names)), 2)
        if speakers[a] != speakers[b] and (same_column is None or values[a] == values[b])
    ]
    return [pair for _, pair in sorted(pairs, key=lambda scored: -scored[0])[:count]]


@pytest.mark.parametrize("same_column", [None, "family"])
@pytest.mark.parametrize("count", [1, 17, 96])
@pytest.mark.parametrize("tile", [1, 3, 8192])
def test_hardest_nontargets_are_those_of_highest_cosine_highest_first(monkeypatch, same_column, count, tile):
    monkeypatch.setattr(NumberedPairs, "_TILE_ROWS", tile)
    monkeypatch.setattr(NumberedPairs, "_TILE_COLUMNS", tile + 1)
    manifest = corpus(6, 4)
    embeddings = np.random.default_rng(0).normal(size=(len(manifest), 5)).astype(np.float32)
    trials = make_trials(
        manifest, num_nontargets=count, nontargets="hardest", embeddings=embeddings, same_column=same_column, seed=0
    )
    expected = hardest_by_comparing_all(manifest, embeddings.astype(np.float64), count, same_column)
    assert pairs_of(trials, target=False) == expected


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_numbered_pairs_are_all_that_share_a_group_but_not_a_block(rows):
    groups, blocks = np.array(rows, dtype=np.int64).T
    pairs = NumberedPairs(groups, blocks)
    numbered = list(zip(*(rows.tolist() for rows in pairs.rows(np.arange(len(pairs)))), strict=True))
    expected = {
        frozenset((a, b))
        for a, b in combinations(range(len(groups)), 2)
        if groups[a] == groups[b] and blocks[a] != blocks[b]
    }
    assert {frozenset(pair) for pair in numbered} == expected
    assert len(numbered) == len(expected)
    for first, count in pairs.ranges():
        assert len({groups[a] for a, _ in numbered[first : first + count]}) == 1
    assert sum(count for _, count in pairs.ranges()) == len(pairs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_nontargets": 241}, "num_nontargets must be at most 240, all pairs of different speakers, got 241"),
        (
            {"num_nontargets": 97, "same_column": "family"},
            "at most 96, all pairs of different speakers and equal family, got 97",
        ),
        ({"num_nontargets": 0}, "num_nontargets must be at least 1, got 0"),
        ({"targets_per_speaker": 0}, "targets_per_speaker must be at least 1, got 0"),
        ({"nontargets": "easy"}, "nontargets must be random or hardest, got 'easy'"),
        ({"nontargets": "hardest"}, "got 'hardest' without embeddings"),
        ({"embeddings": np.ones((24, 2))}, "got 'random' with embeddings"),
        ({"nontargets": "hardest", "embeddings": np.ones((23, 2))}, "one for each of 24 utterances, got 23"),
        (
            {"nontargets": "hardest", "embeddings": np.zeros((24, 2))},
            "embeddings must be finite and not zero, got row 0",
        ),
    ],
)
def test_impossible_lists_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_trials(corpus(6, 4), seed=0, **settings)


def test_a_list_without_target_pairs_is_refused():
    with pytest.raises(TrialError, match="speaker with two utterances, got none among 2 speakers"):
        make_trials(manifest_of(("a", "a1"), ("b", "b1")), seed=0)
    with pytest.raises(TrialError, match="two utterances of different sessions, got none among 2 speakers"):
        make_trials(corpus(2, 1), cross_session=True, seed=0)
    with pytest.raises(TrialError, match="got none among 0 speakers"):
        make_trials(manifest_of(("a", "a1")).take([]), seed=0)


def test_columns_must_exist_and_be_complete():
    with pytest.raises(ManifestError, match="got 'accent'"):
        make_trials(corpus(), same_column="accent", seed=0)
    gaps = manifest_of(("a", "a1", "x"), ("a", "a2", None), ("b", "b1", "x"), names=("speaker", "utterance", "accent"))
    with pytest.raises(ManifestError, match="accent must have a value for every utterance, got none for 'a2'"):
        make_trials(gaps, same_column="accent", seed=0)


def test_unit_embeddings_have_length_1_and_the_same_direction():
    unit = unit_embeddings(np.array([[3.0, 4.0], [0.0, -2.0]]))
    assert unit.dtype == np.float32
    assert unit == pytest.approx(np.array([[0.6, 0.8], [0.0, -1.0]]))


def test_every_form_has_a_distinct_line():
    assert len({form.line for form in FORMS.values()}) == len(FORMS)
