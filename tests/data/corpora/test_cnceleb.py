"""CN-Celeb's folders and lists."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from chns.core.errors import ManifestError
from chns.data.corpora.cnceleb import check_lists, prepare_cnceleb
from chns.data.manifest import Manifest
from chns.evaluation.enrolment import read_enrolment_map, resolve_enrolment
from chns.evaluation.trials import read_trials

FILES = [
    "data/id00000/singing-01-001", "data/id00000/singing-01-002", "data/id00000/live_broadcast-02-001",
    "data/id00001/vlog-01-001", "data/id00800/speech-01-001", "data/id00800/speech-02-001",
    "eval/enroll/id00800-enroll", "eval/enroll/id00801-enroll",
    "eval/test/id00800-singing-01-005", "eval/test/id00801-movie-03-001",
]  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "CN-Celeb_flac"
    for name in FILES:
        path = root / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(8_000, np.int16), 16_000)
    (root / "dev").mkdir()
    (root / "dev" / "dev.lst").write_text("id00000\nid00001\n")
    lists = root / "eval" / "lists"
    lists.mkdir()
    (lists / "enroll.lst").write_text(
        "id00800-enroll enroll/id00800-enroll.wav\nid00801-enroll enroll/id00801-enroll.wav\n"
    )
    (lists / "trials.lst").write_text(
        "id00800-enroll test/id00800-singing-01-005.wav 1\nid00801-enroll test/id00800-singing-01-005.wav 0\n"
        "id00801-enroll test/id00801-movie-03-001.wav 1\n"
    )
    return root


def test_dev_is_who_may_be_trained_on_with_genre_and_session(corpus):
    result = prepare_cnceleb(corpus)
    manifest = result.manifest
    assert manifest.speakers == ["id00000", "id00001"]
    assert manifest.column("utterance") == [name for name in sorted(FILES) if name < "data/id00002"]
    assert manifest.column("genre") == ["live_broadcast", "singing", "singing", "vlog"]
    sessions = ["id00000/live_broadcast-02", "id00000/singing-01", "id00000/singing-01", "id00001/vlog-01"]
    assert manifest.column("session") == sessions
    assert result.rejected == []


def test_without_a_list_all_speakers_of_data_are_dev(corpus):
    (corpus / "dev" / "dev.lst").unlink()
    assert prepare_cnceleb(corpus).manifest.speakers == ["id00000", "id00001", "id00800"]


def test_eval_holds_what_its_trials_compare(corpus):
    result = prepare_cnceleb(corpus, subset="eval")
    assert result.manifest.column("utterance") == [name for name in sorted(FILES) if name.startswith("eval")]
    assert result.manifest.column("genre") == ["", "", "singing", "movie"]
    assert result.rejected == []
    lists = corpus / "eval" / "lists"
    trials = read_trials(lists / "trials.lst")
    resolved = resolve_enrolment(trials, read_enrolment_map(lists / "enroll.lst"), result.manifest)
    assert len(resolved.test) == 3


def test_the_enrolment_map_adds_the_recordings_it_names(corpus):
    lists = corpus / "eval" / "lists"
    (lists / "enroll.map").write_text("id00800-enroll id00800/speech-01-001.wav id00800/speech-02-001.wav\n")
    result = prepare_cnceleb(corpus, subset="eval")
    assert "data/id00800/speech-01-001" in result.manifest.column("utterance")
    assert "id00000" not in result.manifest.speakers
    assert result.rejected == []
    trials = read_trials(lists / "trials.lst")
    kept = type(trials)(trials.enrolment[:1], trials.test[:1], trials.is_target[:1])
    resolved = resolve_enrolment(kept, read_enrolment_map(lists / "enroll.map"), result.manifest)
    assert resolved.models.counts.tolist() == [2]


def test_what_the_lists_name_and_the_disk_lacks_is_reported(corpus, caplog):
    (corpus / "eval/enroll/id00801-enroll.flac").unlink()
    (corpus / "eval/test/id00800-singing-01-005.flac").write_bytes(b"damaged")
    with (corpus / "eval/lists/trials.lst").open("a") as file:
        file.write("id00999-enroll test/id00801-movie-03-001.wav 0\n")
    caplog.set_level("INFO")
    result = prepare_cnceleb(corpus, subset="eval")
    reasons = dict(result.rejected)
    lists = corpus / "eval" / "lists"
    not_there = "names it, but it is not among the usable recordings"
    assert reasons["enroll/id00801-enroll.wav"] == f"{lists / 'enroll.lst'}:2 {not_there}"
    assert reasons["test/id00800-singing-01-005.wav"] == f"{lists / 'trials.lst'}:1 {not_there}"
    assert reasons["id00999-enroll"] == f"{lists / 'trials.lst'}:4 names it, but no enrolment list does"
    assert "eval/test/id00800-singing-01-005.flac" in reasons
    assert len(reasons) == 4
    assert "0 of 4 trials and 1 of 2 enrolment models have their recordings" in caplog.text


def test_the_check_counts_what_can_be_scored(corpus):
    check = check_lists(corpus / "eval" / "lists", prepare_cnceleb(corpus, subset="eval").manifest)
    assert check == (2, 2, 3, 3, [])


def test_a_name_that_two_recordings_have_is_none(corpus):
    copied = corpus / "eval/test/other/id00801-movie-03-001.flac"
    copied.parent.mkdir()
    copied.write_bytes((corpus / "eval/test/id00801-movie-03-001.flac").read_bytes())
    rows = [
        {
            "utterance": str(number),
            "speaker": "a",
            "path": path,
            "offset_seconds": 0.0,
            "duration_seconds": 1.0,
            "sample_rate_hz": 16_000,
        }
        for number, path in enumerate(["x/test/id00801-movie-03-001.flac", "y/test/id00801-movie-03-001.flac"])
    ]
    check = check_lists(corpus / "eval" / "lists", Manifest.from_rows(rows, root=corpus))
    assert check.usable_trials == 0


def test_misnamed_recordings_are_rejected(corpus):
    (corpus / "data/id00000/loose.flac").write_bytes((corpus / "data/id00000/singing-01-001.flac").read_bytes())
    ((path, reason),) = prepare_cnceleb(corpus).rejected
    assert path == "data/id00000/loose.flac"
    assert reason.startswith("path must be data/idXXXXX/GENRE-NN-NNN")


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("enroll.lst", "id00800-enroll", r"line must have 2 fields, got 1 in .*enroll\.lst:3"),
        ("enroll.map", "id00800-enroll", r"line must have at least 2 fields, got 1 in .*enroll\.map:1"),
        ("trials.lst", "id00800-enroll test/x.wav", r"line must have 3 fields, got 2 in .*trials\.lst:4"),
        ("trials.lst", "id00800-enroll test/x.wav target", r"label must be 0 or 1, got 'target' in .*trials\.lst:4"),
    ],
)
def test_a_malformed_line_is_named(corpus, name, line, message):
    with (corpus / "eval" / "lists" / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ManifestError, match=message):
        prepare_cnceleb(corpus, subset="eval")


def test_another_layout_is_recognised(tmp_path):
    with pytest.raises(ManifestError, match=r"CN-Celeb's folder must hold `data` or `eval`, got .*Point at"):
        prepare_cnceleb(tmp_path)
    with pytest.raises(FileNotFoundError, match="corpus must be a folder"):
        prepare_cnceleb(tmp_path / "none")


def test_a_corpus_without_evaluation_says_so(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(
        ManifestError, match=r"CN-Celeb's eval part must hold recordings, got none in .*Only 1 has eval"
    ):
        prepare_cnceleb(tmp_path, subset="eval")


def test_an_unknown_subset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="subset must be dev or eval, got 'test'"):
        prepare_cnceleb(Path(tmp_path), subset="test")
