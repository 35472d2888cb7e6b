"""Lists, names and numbers as users have them: nothing is lost, mistaken or counted by its size without a word."""

import numpy as np
import pytest
import soundfile

from chns.cli import main
from chns.core.errors import ManifestError, TrialError
from chns.data.manifest import Manifest
from chns.evaluation.embedder import draw_per_speaker
from chns.evaluation.metrics import equal_error_rate
from chns.evaluation.scoring import read_scores
from chns.evaluation.trials import Trials, contradictions, label_contradictions, matching_rows


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(path, seconds=0.6):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(int(16_000 * seconds)), 16_000)


def table(folder, content, *options, name="t.csv", expect=0):
    for number in range(6):
        record(folder / f"u{number}.wav")
    (folder / name).write_bytes(content.encode())
    assert main(["prepare", "csv", name, "--out", "m.parquet", *options]) == expect
    if not expect:
        manifest = Manifest.read("m.parquet")
        return list(zip(manifest.column("utterance"), manifest.column("speaker"), strict=True))
    return None


# Rows

SENTENCES = ["Hello.", '"two open', "a", "b", 'close"', '"Yes," she said, "no" twice']


def test_a_quote_in_a_table_between_tabs_is_a_character(here):
    rows = "".join(f"u{n}.wav\ts{n % 2}\t{sentence}\n" for n, sentence in enumerate(SENTENCES))
    assert len(table(here, "path\tspeaker\tsentence\n" + rows, "--delimiter", "\t")) == 6
    assert Manifest.read("m.parquet").column("sentence") == SENTENCES
    assert (here / "m.rejected.csv").read_text().splitlines() == ["path,reason"]


def test_a_quote_that_swallows_rows_of_a_csv_is_refused_by_its_line(here, capsys):
    content = 'path,text,speaker\nu0.wav,x,a\nu1.wav,"two,a\nu2.wav,b,a\nu3.wav,two",a\n'
    table(here, content, expect=2)
    assert "t.csv:4 within the field that a quote opens in t.csv:3" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_ends_of_lines_marks_and_blank_lines_are_no_rows(here, end, mark):
    lines = ["", "path,speaker", "u0.wav,a", "", "u1.wav,b", "  ", ",", ""]
    assert table(here, mark + end.join(lines) + end) == [("u0", "a"), ("u1", "b")]


def test_a_quoted_line_break_is_text_and_places_name_the_first_line(here, capsys):
    content = 'path,text,speaker\nu0.wav,"one\n\ntwo",a\nu1.wav,x,b\n'
    assert table(here, content) == [("u0", "a"), ("u1", "b")]
    assert Manifest.read("m.parquet").column("text") == ["one  two", "x"]
    table(here, content + 'u2.wav,"y\nz"\n', expect=2)
    assert "line must have 3 fields as the header, got 2 in t.csv:6" in capsys.readouterr().err


HEADER = "utterance,speaker,path,offset_seconds,duration_seconds,sample_rate_hz"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_manifest_in_csv_may_have_blank_lines_and_errors_name_the_right_one(here, end):
    lines = [HEADER, "a,s,a.wav,0,1,16000", "", "b,s,b.wav,0,1,16000", "", ""]
    (here / "m.csv").write_text("\ufeff" + end.join(lines), newline="")
    assert Manifest.read("m.csv").column("utterance") == ["a", "b"]
    (here / "m.csv").write_text(end.join([*lines, "c,,c.wav,0,1,16000", ""]), newline="")
    with pytest.raises(ManifestError, match=r"speaker must not be empty, got None in m\.csv:7"):
        Manifest.read("m.csv")


def test_blank_lines_of_a_kaldi_directory_are_nothing(here):
    record(here / "k/a.wav")
    (here / "k/wav.scp").write_text("\ufeffu1 a.wav\r\n\r\n \r\n")
    (here / "k/utt2spk").write_text("u1 s\n\n")
    assert main(["prepare", "kaldi", "k", "--out", "m.parquet"]) == 0
    assert Manifest.read("m.parquet").column("utterance") == ["u1"]


# Names


def test_only_suffixes_of_audio_are_stripped_and_paths_are_made_plain(here):
    for name in ("a/take", "a/rec0", "b/rec0"):
        record(here / f"f/{name}.wav")
    record(here / "f/a/take.2.wav", 0.2)
    assert main(["prepare", "folder", "f", "--out", "m.parquet"]) == 0
    manifest = Manifest.read("m.parquet")
    assert matching_rows({"a/take.2", "x/take.2.wav"}, manifest) == {}
    names = {"./a/rec0.wav", "a//rec0.flac", "a\\rec0.wav", "./a/rec0"}
    assert {manifest.column("utterance")[row] for row in matching_rows(names, manifest).values()} == {"a/rec0"}
    assert matching_rows(names, manifest).keys() == names
    assert "rec0.wav" not in matching_rows({"rec0.wav"}, manifest)


def test_speakers_that_look_the_same_are_one(here):
    spellings = ["anna", "anna ", "an\u200bna", "Zo\u00eb", "Zoe\u0308", "\u00a0Zo\u00eb"]
    content = "path,speaker\n" + "".join(f"u{n}.wav,{name}\n" for n, name in enumerate(spellings))
    assert [speaker for _, speaker in table(here, content)] == ["anna"] * 3 + ["Zo\u00eb"] * 3


def test_kaldis_lists_are_sorted_by_utterance_and_by_speaker(here):
    for speaker in ("anna", "anna-lena", "Zoe", "\u00e9mile"):
        for number in range(2):
            record(here / f"k/{speaker}/{number}.wav")
    assert main(["prepare", "folder", "k", "--out", "m.parquet"]) == 0
    assert main(["convert", "m.parquet", "--to", "kaldi", "--out", "kd"]) == 0
    lines = (here / "kd/utt2spk").read_bytes().splitlines()
    speakers = [line.split()[1] for line in lines]
    assert lines == sorted(lines)
    assert speakers == sorted(speakers)


def test_close_offsets_of_nemo_get_names_of_their_own(here):
    record(here / "a.wav", 2)
    offsets = (0, 0.5, 0.5001, 0.5002)
    line = '{{"audio_filepath": "a.wav", "offset": {}, "duration": 1, "label": "s"}}\n'
    (here / "n.json").write_text("".join(line.format(offset) for offset in offsets))
    assert main(["prepare", "nemo", "n.json", "--out", "m.parquet"]) == 0
    assert Manifest.read("m.parquet").column("utterance") == ["a-0.000", "a-0.500", "a-0.5001", "a-0.5002"]


# Integers


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4", np.bool_])
def test_zeros_and_ones_of_any_type_are_labels(dtype):
    labels = np.array([0, 1, 0, 1, 1, 0])
    scores = np.array([0.1, 0.9, 0.5, 0.4, 0.8, 0.2])
    assert equal_error_rate(scores, labels.astype(dtype)) == equal_error_rate(scores, labels == 1)
    with pytest.raises(ValueError, match="is_target must be of type bool, or integers 0 and 1, got int64"):
        equal_error_rate(scores, labels * 2)


def test_speakers_are_counted_not_their_numbers():
    labels = np.repeat(np.arange(3), 4) * 10**10 + 5
    drawn = draw_per_speaker(labels, 2, np.random.default_rng(0))
    assert labels[drawn].tolist() == np.repeat(np.unique(labels), 2).tolist()


# Trials and scores


def scored(path, *lines):
    path.write_text("".join(line + "\n" for line in lines), newline="")
    trials, scores = read_scores(path)
    return trials.enrolment, trials.is_target.tolist(), scores.tolist()


@pytest.mark.parametrize("end", ["", "\r"])
def test_scores_stand_before_or_behind_the_label(here, end):
    expected = (["a", "c"], [True, False], [0.5, -1.0])
    for lines in (["a b 0.5 target", "c d -1 nontarget"], ["a b target 0.5", "c d nontarget -1"]):
        assert scored(here / "s.txt", *(line + end for line in lines)) == expected
    assert scored(here / "s.txt", "a b 1 0.5", "c d 0 -1") == expected
    assert scored(here / "s.txt", "a b 1 1", "c d 0 0") == (["a", "c"], [True, False], [1.0, 0.0])


@pytest.mark.parametrize("number", ["1_000", "\u0661", "\uff11", "nan", "inf"])
def test_a_score_is_a_number_in_plain_digits(here, number):
    with pytest.raises(TrialError, match=r"score must be a finite number, got .* in .*s\.txt:2"):
        scored(here / "s.txt", "a b 1.5 target", f"a c {number} nontarget")


def test_what_trials_contradict_is_said():
    trials = Trials(list("abac"), list("bacb"), np.array([True, False, True, True]), source="t.txt")
    enrolment, test = np.array([0, 1, 0, 2]), np.array([1, 0, 2, 1])
    speakers = np.array([0, 0, 1])
    said = [
        *label_contradictions(trials, speakers[enrolment], speakers[test]),
        *contradictions(trials, enrolment, test),
    ]
    assert said == [
        "warning: 3 trials are labelled otherwise than the manifest's speakers, the first in t.txt:2: 'b a'",
        "warning: 1 trials name their pair as target and as non-target, the first in t.txt:2: 'b a'",
    ]
    twice = Trials(["a", "b"], ["b", "a"], None, source="t.txt")
    assert contradictions(twice, enrolment[:2], test[:2]) == [
        "warning: 1 trials were there before, the first in t.txt:2: 'b a'"
    ]
