"""Lists, names and numbers as users have them: nothing is lost, mistaken or counted by its size without a word."""

import csv
import io
import json
from pathlib import PurePosixPath

import numpy as np
import pytest
import soundfile

from chns.cli import main
from chns.comparison.run_evidence import condition_mixing
from chns.core import ManifestError, TrialError
from chns.data.audio import EXTENSIONS, UNREAD_EXTENSIONS
from chns.data.corpora.cnceleb import check_lists
from chns.data.manifest import Manifest, relative_name
from chns.evaluation.calibration import fit_calibration
from chns.evaluation.calibration_metrics import actual_dcf, calibration_effect, cllr, min_cllr, other_conventions
from chns.evaluation.embedder import draw_per_speaker
from chns.evaluation.intervals import speaker_intervals
from chns.evaluation.metrics import det_curve, equal_error_rate, min_dcf, verification_metrics
from chns.evaluation.scoring import read_scores
from chns.evaluation.trials import Trials, contradictions, label_contradictions, matching_rows
from chns.sampling.same_person import own_similarities, suspected_pairs


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


@pytest.mark.parametrize(
    "rows", [["u1.wav,x,a", 'u2.wav,"two,a', 'u3.wav,two",a'], ['u1.wav,x,"a', 'u2.wav,y,a"', "u3.wav,z,b"]]
)
def test_a_quote_that_swallows_a_single_row_is_refused_too(here, capsys, rows):
    table(here, "\n".join(["path,text,speaker", *rows]), expect=2)
    assert "quoted field must not hold whole rows" in capsys.readouterr().err


@pytest.mark.parametrize("row", ['"u0.wav\n",x,a', 'u0.wav,"x\ny, z",a', 'u0.wav,"x, y\n\nz",a', 'u0.wav,x,"a\n"'])
def test_quoted_line_breaks_in_any_field_lose_nothing(here, row):
    assert table(here, f"path,text,speaker\n{row}\nu1.wav,x,b\n") == [("u0", "a"), ("u1", "b")]


def test_a_quote_that_swallows_rows_of_a_manifest_is_refused_by_its_line(here):
    rows = [f"u{n},s,{n}.wav,0,1,16000,{text}" for n, text in enumerate(["a", '"two', "b", 'c"', "d"])]
    (here / "m.csv").write_text("\n".join([HEADER + ",text", *rows]))
    with pytest.raises(ManifestError, match=r"must not hold whole rows, got that of m\.csv:4 .* opens in m\.csv:3"):
        Manifest.read("m.csv")
    (here / "m.csv").write_text("\n".join([HEADER + ",text", rows[0], 'u9,s,9.wav,0,1,16000,"one,\r\ntwo"']))
    assert Manifest.read("m.csv").column("text") == ["a", "one, two"]


def test_a_table_between_tabs_with_all_quoted_is_read_as_its_writer_meant(here):
    frame = io.StringIO(newline="")
    writer = csv.writer(frame, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["path", "speaker", "sentence"])
    sentences = ["plain", 'a "word"', "tab\tin", "line\nbreak", '"', "x"]
    writer.writerows([f"u{n}.wav", f"s{n % 2}", sentence] for n, sentence in enumerate(sentences))
    assert len(table(here, frame.getvalue(), "--delimiter", "\t")) == 6
    assert Manifest.read("m.parquet").column("sentence") == ["plain", 'a "word"', "tab in", "line break", '"', "x"]


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


def test_every_suffix_of_audio_is_known_and_no_other():
    for suffix in (*EXTENSIONS, *UNREAD_EXTENSIONS, ".WAV"):
        assert relative_name(PurePosixPath(f"a.b/take.2{suffix}")) == "a.b/take.2"
    for name in ("a/take.2", "a.wav/take", "a/take.final", "a/take.wave1"):
        assert relative_name(PurePosixPath(name)) == name


def test_a_looser_match_never_hits_what_stands_in_for_a_rejected_recording(here):
    for name in ("dev/x/1.wav", "dev/x/2.flac", "dev/y/1.wav"):
        record(here / "f" / name)
    for name in ("test/x/1.wav", "dev/x/2.wav"):
        record(here / "f" / name, 0.2)
    assert main(["prepare", "folder", "f", "--out", "m.parquet"]) == 0
    manifest = Manifest.read("m.parquet")
    assert sorted(manifest.rejected_paths()) == ["dev/x/2.wav", "test/x/1.wav"]
    wanted = {"x/1.wav", "dev/x/2.wav", "y/1.flac", "dev/x/2"}
    assert {name: manifest.column("path")[row] for name, row in matching_rows(wanted, manifest).items()} == {
        "y/1.flac": "dev/y/1.wav",
        "dev/x/2": "dev/x/2.flac",
    }
    (here / "m.rejected.csv").unlink()
    assert matching_rows(wanted, manifest).keys() == wanted
    (here / "m.rejected.csv").write_text("something,else\ndev/y/1.wav,\n")
    assert matching_rows(wanted, manifest).keys() == wanted


def test_a_copy_that_was_left_out_for_its_name_does_no_harm(here):
    for name in ("x/1.wav", "x/1.flac"):
        record(here / "f" / name)
    assert main(["prepare", "folder", "f", "--out", "m.parquet"]) == 0
    assert len(matching_rows({"x/1.wav", "x/1.flac", "x/1.mp3"}, Manifest.read("m.parquet"))) == 3


def test_lists_of_cnceleb_lose_only_suffixes_of_audio(here):
    manifest = Manifest.from_rows([ROW | {"utterance": "test/take", "path": "test/take.flac"}], root=here)
    (here / "enroll.map").write_text("m take.wav\n")
    (here / "trials.lst").write_text("m test/take.wav 1\nm test/take.2 0\n")
    assert [each.path for each in check_lists(here, manifest).missing] == ["test/take.2"]


ROW = {"speaker": "s", "offset_seconds": 0.0, "duration_seconds": 0.6, "sample_rate_hz": 16_000}


def test_check_finds_speakers_that_look_the_same(here, capsys):
    rows = [ROW | {"utterance": f"u{n}", "path": f"{n}.wav", "speaker": name} for n, name in enumerate(LOOKALIKES)]
    for number in range(len(rows)):
        path = here / f"{number}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(9_600), 16_000)
    for name in ("m.parquet", "m.csv"):
        Manifest.from_rows(rows, root=here).write(here / name)
        assert main(["check", name, "--report", "r.parquet", "--json"]) == 0
        finding = json.loads(capsys.readouterr().out)["findings"]["same_looking"]
        assert finding["number"] == 4
        assert finding["action"] == "keep"
        assert finding["detail"] == r"'Zoe\u0308' looks like 'Zo\xeb'"


def test_check_finds_speakers_in_letters_that_look_like_others(here, capsys):
    """Full width, a ligature and a superscript: perhaps meant to differ, so they are said and not made one."""
    speakers = ["anna", "\uff41nna", "fi2", "\ufb01\u00b2", "lena"]
    rows = [ROW | {"utterance": f"u{n}", "path": f"{n}.wav", "speaker": name} for n, name in enumerate(speakers)]
    for number in range(len(rows)):
        soundfile.write(here / f"{number}.wav", 0.1 * np.random.default_rng(number).standard_normal(9_600), 16_000)
    Manifest.from_rows(rows, root=here).write(here / "m.parquet")
    assert main(["check", "m.parquet", "--json"]) == 0
    finding = json.loads(capsys.readouterr().out)["findings"]["same_looking"]
    assert (finding["number"], finding["detail"]) == (4, r"'anna' looks like '\uff41nna'")


LOOKALIKES = ["Zo\u00eb", "Zoe\u0308", "anna", "anna ", "lena"]


def test_prepare_says_which_spellings_it_takes_for_one(here, capsys):
    content = "path,speaker\n" + "".join(f"u{n}.wav,{name}\n" for n, name in enumerate(LOOKALIKES))
    table(here, content)
    line = "warning: 1 speaker is written in several ways that look the same, such as 'Zoe\\u0308' and 'Zo\\xeb'"
    assert line in capsys.readouterr().out


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


def test_names_of_kaldi_end_at_its_own_spaces_only(here):
    for number in range(2):
        record(here / f"k/{number}.wav")
    (here / "k/wav.scp").write_text("u\u00a01\t0.wav\nu\u00a02  1.wav \n", encoding="utf-8")
    (here / "k/utt2spk").write_text("u\u00a01 a\u3000b\nu\u00a02 a\u3000b\n", encoding="utf-8")
    assert main(["prepare", "kaldi", "k", "--out", "m.parquet"]) == 0
    manifest = Manifest.read("m.parquet")
    assert manifest.column("utterance") == ["u\u00a01", "u\u00a02"]
    assert manifest.speakers == ["a\u3000b"]
    assert main(["convert", "m.parquet", "--to", "kaldi", "--out", "kd"]) == 2


@pytest.mark.parametrize("column", ["utterance", "speaker"])
def test_names_that_kaldi_cannot_hold_are_refused_and_nothing_is_written(here, capsys, column):
    record(here / "a.wav")
    Manifest.from_rows([ROW | {"utterance": "u", "path": "a.wav", column: "two words"}], root=here).write("m.parquet")
    assert main(["convert", "m.parquet", "--to", "kaldi", "--out", "kd"]) == 2
    assert f"{column} must hold no white space for Kaldi, got 'two words'" in capsys.readouterr().err
    assert not (here / "kd").exists()


def test_names_of_nemo_with_spaces_are_kept_and_with_controls_are_listed(here):
    names = {
        "two words": "a b.wav",
        "line\nbreak": "c.wav",
        "turned\u202e": "d.wav",
        "plain": "e\u0000.wav",
        " ": "f.wav",
    }
    for file in names.values():
        record(here / file.replace("\0", ""))
    lines = [json.dumps({"audio_filepath": file, "label": label}) for label, file in names.items()]
    (here / "n.json").write_text("\n".join(lines))
    assert main(["prepare", "nemo", "n.json", "--out", "m.parquet"]) == 0
    manifest = Manifest.read("m.parquet")
    assert (manifest.column("utterance"), manifest.speakers) == (["a b"], ["two words"])
    assert len((here / "m.rejected.csv").read_text().splitlines()) == 5


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


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, ">i4", ">u8", "<i8", np.bool_])
def test_every_metric_takes_zeros_and_ones_of_any_type(dtype):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3 == 0
    scores = rng.normal(size=60) + labels
    speakers = np.arange(60) % 5, np.where(labels, np.arange(60) % 5, (np.arange(60) + 1) % 5)
    settings = {"p_target": 0.05}
    for name, measure in {
        "EER": lambda given: equal_error_rate(scores, given),
        "minDCF": lambda given: min_dcf(scores, given, **settings),
        "both": lambda given: verification_metrics(scores, given).to_json(),
        "DET": lambda given: [column.tolist() for column in det_curve(scores, given)],
        "Cllr": lambda given: (cllr(scores, given), min_cllr(scores, given)),
        "actual": lambda given: actual_dcf(scores, given, **settings),
        "effect": lambda given: calibration_effect(scores, scores, given, threshold=0.3, **settings).to_json(),
        "others": lambda given: other_conventions(scores, given).to_json(),
        "calibration": lambda given: fit_calibration(scores, given, **settings).to_json(),
        "intervals": lambda given: str(speaker_intervals(scores, given, *speakers, num_resamples=5)),
    }.items():
        assert measure(labels.astype(dtype)) == measure(labels), name
        assert measure(labels.astype(dtype).tolist()) == measure(labels), name


def test_huge_ids_are_no_reason_for_memory():
    labels, rows = np.repeat(np.arange(4), 3) * 10**12, np.eye(12, dtype=np.float32)
    for measure in (suspected_pairs, own_similarities):
        with pytest.raises(ValueError, match="speaker_labels must name every speaker, got no utterance of 1"):
            measure(rows, labels)
    assert condition_mixing(list("aaabbb"), np.repeat([7, 10**12], 3)) == condition_mixing(
        list("aaabbb"), np.repeat([0, 1], 3)
    )


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
