"""The voiceprint store as its users see it."""

import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from chns.core import ModelFileError
from chns.store import content, store_file
from chns.store.content import export_voiceprints
from chns.store.voiceprints import Match, VoiceprintStore, identified, lead_of, unit_length

DIM = 16
MODEL = "a" * 64


def vectors(seed, count=3, dim=DIM):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


@pytest.fixture
def pq():
    """Parquet, which the base installation has not."""
    return pytest.importorskip("pyarrow.parquet", reason="needs chns[train]")


def opened(path, **settings):
    return VoiceprintStore.open(path, **{"model_digest": MODEL, "dim": DIM, **settings})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "people.store"


@pytest.fixture
def store(path):
    with opened(path) as store:
        yield store


def test_a_voiceprint_is_the_normalised_mean_of_unit_embeddings(store):
    embeddings = vectors(0) * np.array([[1], [10], [0.1]], np.float32)
    store.enrol("anna", embeddings, note="consent 2026", sources=["1.wav", "2.wav", "3.wav"])
    person = store.show("anna")
    mean = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(person.vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert person.vector.dtype == np.float32
    assert (person.name, person.note, person.num_utterances) == ("anna", "consent 2026", 3)
    assert person.sources == ("1.wav", "2.wav", "3.wav")
    assert abs(person.enrolled_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_what_one_opening_enrols_the_next_one_finds(path):
    with opened(path) as store:
        store.enrol("berta", vectors(1))
        store.enrol("anna", vectors(0))
        before = store.show("anna")
    with VoiceprintStore.open_existing(path) as store:
        assert store.names() == ["anna", "berta"]
        assert len(store) == 2
        assert (store.model_digest, store.dim, store.is_encrypted) == (MODEL, DIM, False)
        np.testing.assert_array_equal(store.show("anna").vector, before.vector)
        assert store.show("anna").sources == (None, None, None)
        assert [person.name for person in store.voiceprints()] == ["berta", "anna"]


def test_identify_ranks_people_by_cosine(store):
    people = {f"p{number:02d}": vectors(number) for number in range(30)}
    for name, embeddings in people.items():
        store.enrol(name, embeddings)
    query = 7 * people["p05"].mean(axis=0)
    matches = store.identify(query, top=4)
    scores = {name: store.show(name).vector @ query / np.linalg.norm(query) for name in people}
    expected = sorted(scores, key=scores.get, reverse=True)[:4]
    assert [match.name for match in matches] == expected
    np.testing.assert_allclose([match.score for match in matches], [scores[name] for name in expected], atol=1e-6)
    assert len(store.identify(query, top=100)) == 30
    assert len(store.identify(query)) == 5
    assert len(store.identify(query, top=1)) == 1


def test_a_score_never_leaves_the_range_of_a_cosine(store):
    for number in range(50):
        store.enrol(str(number), vectors(number, count=1))
    assert all(-1 <= store.identify(vectors(number, 1)[0], top=1)[0].score <= 1 for number in range(50))


def test_nobody_is_identified_in_an_empty_store(store):
    assert store.identify(vectors(0)[0]) == []
    assert store.names() == []


def test_identify_sees_what_anybody_has_written_since(path, store):
    store.enrol("anna", vectors(0))
    assert store.identify(vectors(1)[0], top=1)[0].name == "anna"
    with opened(path) as other:
        other.enrol("berta", vectors(1, count=1))
        assert store.identify(vectors(1)[0], top=1)[0].name == "berta"
        other.delete("berta")
    assert [match.name for match in store.identify(vectors(1)[0])] == ["anna"]
    store.enrol("carla", vectors(1, count=1))
    assert store.identify(vectors(1)[0], top=1)[0].name == "carla"
    store.delete("carla")
    assert [match.name for match in store.identify(vectors(1)[0])] == ["anna"]


def test_voiceprints_are_read_once_as_long_as_nobody_writes(store, monkeypatch):
    store.enrol("anna", vectors(0))
    store.identify(vectors(0)[0])
    monkeypatch.setattr(store._content, "vectors", None)
    assert store.identify(vectors(0)[0])[0].name == "anna"


def test_rows_some_at_a_time_give_what_all_at_once_do(store, path, monkeypatch):
    """Three utterances a person, two rows at a time: every other person is read in two parts."""
    for number in range(5):
        store.enrol(f"p{number}", vectors(number))
    kinds = ("voiceprint", "mean", "max")
    at_once = [dict(store.identify(vectors(3)[0], score_by=kind)) for kind in kinds]
    monkeypatch.setattr(content, "_ROWS_AT_ONCE", 2)
    with opened(path) as other:
        in_parts = [dict(other.identify(vectors(3)[0], score_by=kind)) for kind in kinds]
    assert [list(scores) for scores in in_parts] == [list(scores) for scores in at_once]
    assert in_parts == [pytest.approx(scores) for scores in at_once]


def test_what_is_searched_takes_four_bytes_a_dimension(store):
    for people in range(2):
        (_, means), (_, embeddings, _) = store._content.vectors(), store._content.exemplars()
        assert means.dtype == embeddings.dtype == np.float32
        assert (means.shape, embeddings.shape) == ((people, DIM), (3 * people, DIM))
        store.enrol(str(people), vectors(people))


def test_adding_to_a_person_must_be_meant(store):
    store.enrol("anna", vectors(0), note="old")
    way_out = r"Use --add \(add=True in Python\) to add to a person, or delete the old voiceprint first\.$"
    with pytest.raises(
        ValueError, match=rf"^name must be new, got 'anna', who is enrolled in .*people\.store\. {way_out}"
    ):
        store.enrol("anna", vectors(1))
    assert store.show("anna").num_utterances == 3
    store.enrol("anna", vectors(1, count=2), add=True)
    assert (store.show("anna").num_utterances, store.show("anna").note) == (5, "old")
    store.enrol("anna", vectors(2, count=1), add=True, note="new")
    assert (store.show("anna").num_utterances, store.show("anna").note) == (6, "new")
    store.enrol("berta", vectors(3), add=True)
    assert store.names() == ["anna", "berta"]


def test_a_name_is_one_however_its_accents_are_composed(store):
    store.enrol("Jose\u0301", vectors(0))
    assert store.names() == ["Jos\u00e9"]
    assert store.show("Jos\u00e9").name == store.show("Jose\u0301").name
    store.delete("Jose\u0301")
    assert len(store) == 0


@pytest.mark.parametrize(
    ("name", "plain"), [("\uff21nna", "Anna"), ("So\ufb01a", "Sofia"), ("Eve\u00b2", "Eve2"), ("\u2160van", "Ivan")]
)
def test_a_new_name_in_letters_that_look_like_others_is_refused(store, name, plain):
    """Full width, a ligature, a superscript, a Roman number; what another store holds is taken over as it is."""
    with pytest.raises(ValueError, match=f"name must not look like another one, got .*Enrol '{plain}' instead"):
        store.enrol(name, vectors(0))
    assert store.names() == []
    store.enrol(name, vectors(0), enrolled_at=datetime(2026, 1, 1, tzinfo=UTC))
    store.enrol(name, vectors(1), add=True)
    assert store.show(name).num_utterances == len(vectors(0)) + len(vectors(1))


@pytest.mark.parametrize("action", ["show", "delete"])
def test_an_unknown_name_is_refused(store, action):
    with pytest.raises(ValueError, match=r"name must be an enrolled one, got 'anna' for .*people\.store"):
        getattr(store, action)("anna")


@pytest.mark.parametrize(("model_digest", "dim"), [("b" * 64, DIM), (MODEL, DIM + 1)])
def test_embeddings_of_another_model_are_refused_with_the_way_out(path, model_digest, dim):
    opened(path).close()
    told = (
        rf"^store must be of the model {model_digest[:12]} with {dim} dimensions, got one of a{{12}} with 16 in (.*)"
        r"\. Embeddings of two models cannot be compared: make a store for this one with "
        r"`chns store re-embed \1 MODEL --out NEW_STORE`\.$"
    )
    with pytest.raises(ModelFileError, match=told):
        opened(path, model_digest=model_digest, dim=dim)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.ones(DIM), r"embeddings must have shape \(utterances, 16\), got \(16,\)"),
        (np.ones((2, DIM - 1)), r"embeddings must have shape \(utterances, 16\), got \(2, 15\)"),
        (np.ones((0, DIM)), r"embeddings must have shape \(utterances, 16\), got \(0, 16\)"),
        (np.zeros((1, DIM)), r"^embeddings must be finite and not zero, got one that is not\.$"),
        (np.full((1, DIM), np.nan), "embeddings must be finite and not zero"),
        (np.array([[1.0], [-1.0]]) * np.ones(DIM), "embeddings of a person must not cancel out"),
    ],
)
def test_embeddings_that_make_no_voiceprint_are_refused_and_nothing_is_stored(store, embeddings, message):
    with pytest.raises(ValueError, match=message):
        store.enrol("anna", embeddings)
    assert store.names() == []


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("", {}, "name must be 1 to 200 printable characters"),
        (" anna", {}, "name must be 1 to 200 printable characters"),
        ("an\x1b[2Jna", {}, "name must be 1 to 200 printable characters"),
        ("anna ", {}, "name must be 1 to 200 printable characters without space at the ends, got 'anna '"),
        ("a" * 201, {}, r"name must be 1 to 200 printable characters without space at the ends, got 'a{50}'\.$"),
        ("anna", {"note": "n" * 2_001}, "note must be 1 to 2000 printable characters"),
        ("anna", {"sources": ["s" * 4_097] * 3}, "source must be 1 to 4096 printable characters"),
        ("anna", {"note": "two\nlines"}, "note must be 1 to 2000 printable characters"),
        ("anna", {"sources": ["1.wav"]}, "sources must be one an embedding, got 1 for 3"),
        ("anna", {"sources": ["1.wav", "2.wav", "\udcff.wav"]}, "source must be 1 to 4096 printable characters"),
    ],
)
def test_texts_that_could_mislead_a_reader_are_refused(store, name, settings, message):
    with pytest.raises(ValueError, match=message):
        store.enrol(name, vectors(0), **settings)
    assert store.names() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim must be between 1 and 16384, got 0"),
        ({"dim": 16_385}, "dim must be between 1 and 16384, got 16385"),
        ({"model_digest": "a" * 201}, "model_digest must be 1 to 200 printable characters"),
        ({"model_digest": ""}, "model_digest must be 1 to 200 printable characters"),
    ],
)
def test_a_store_needs_the_identity_of_a_model(path, settings, message):
    with pytest.raises(ValueError, match=message):
        opened(path, **settings)
    assert not path.exists()


@pytest.mark.parametrize("embedding", [np.ones((1, DIM)), np.ones(DIM + 1)])
def test_an_embedding_of_another_shape_is_not_identified(store, embedding):
    with pytest.raises(ValueError, match=r"embeddings must have shape \(16,\)"):
        store.identify(embedding)


def test_top_is_at_least_one(store):
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        store.identify(np.ones(DIM), top=0)


def test_a_missing_store_is_made_only_if_that_is_wanted(path):
    with pytest.raises(FileNotFoundError, match=r"store must be a file, got .*people\.store\. `chns enrol` makes one"):
        opened(path, create=False)
    with pytest.raises(FileNotFoundError, match="store must be a file"):
        VoiceprintStore.open_existing(path)
    assert list(path.parent.iterdir()) == []
    opened(path).close()
    assert list(path.parent.iterdir()) == [path]


def test_a_store_that_was_spoilt_under_its_reader_is_named(store, path):
    other = sqlite3.connect(path)
    other.execute("ALTER TABLE enrolments RENAME TO gone")
    other.close()
    with pytest.raises(ModelFileError, match=rf"store must be an undamaged voiceprint store, got {path} \("):
        store.identify(vectors(0)[0])


def test_only_the_owner_may_read_a_store(store, path):
    store.enrol("anna", vectors(0))
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    assert len(list(path.parent.iterdir())) == 3


def test_a_store_that_another_process_keeps_locked_is_an_error_after_a_while(path, monkeypatch):
    with opened(path) as store:
        store.enrol("anna", vectors(0))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(store_file, "BUSY_SECONDS", 0.05)
    with opened(path) as store:
        for change in (lambda: store.enrol("berta", vectors(1)), lambda: store.delete("anna")):
            with pytest.raises(TimeoutError, match=r"store must be free within 0\.05 s, .*people\.store\. Try again"):
                change()
        assert (store.names(), len(store), store.show("anna").name, len(store.voiceprints())) == (
            ["anna"],
            1,
            "anna",
            1,
        )
        assert store.identify(vectors(0)[0])[0].name == "anna"
        with pytest.raises(ValueError, match="store must hold two people"):
            store.open_set_threshold(0.5)
        other.execute("ROLLBACK")
        store.delete("anna")
    other.close()


def test_a_full_disk_is_an_error_of_the_disk_and_nothing_is_stored(path):
    opened(path).close()
    code = f"""
import resource, sys, numpy as np
from chns.store.voiceprints import Match, VoiceprintStore, identified, lead_of
store = VoiceprintStore.open({str(path)!r}, model_digest={MODEL!r}, dim={DIM})
sys.dont_write_bytecode = True  # a module cut off by the limit would be broken for everybody
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    store.enrol("anna", np.random.default_rng(0).standard_normal((2_000, {DIM})))
except OSError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "store must be readable and writable, got an error in" in result.stdout
    with opened(path) as store:
        assert store.names() == []


def test_another_thread_must_open_the_store_itself(store):
    errors = []

    def use():
        try:
            store.names()
        except sqlite3.ProgrammingError as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert "same thread" in str(errors[0])


def test_the_store_needs_neither_torch_nor_faiss():
    code = "import sys, chns.store.voiceprints\nprint({'torch', 'faiss', 'pyarrow'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_person_scores_by_voiceprint_or_by_the_best_of_several_recordings(store):
    near, far = np.eye(DIM, dtype=np.float32)[:2]
    store.enrol("two-voiced", np.stack([near, far, far, far]))
    store.enrol("steady", np.stack([near + 0.5 * np.eye(DIM, dtype=np.float32)[2]] * 2))
    scores = {
        score_by: {match.name: match.score for match in store.identify(near, score_by=score_by)}
        for score_by in ("voiceprint", "mean", "max", "top-2")
    }
    expected = {"voiceprint": 1 / 10**0.5, "mean": 0.25, "max": 1, "top-2": 0.5}
    for score_by, score in expected.items():
        assert scores[score_by]["two-voiced"] == pytest.approx(score)
        assert scores[score_by]["steady"] == pytest.approx(1 / 1.25**0.5)
    assert store.identify(near, score_by="max")[0].name == "two-voiced"
    store.enrol("steady", near[None], add=True)
    assert {match.name for match in store.identify(near, score_by="max") if match.score > 0.999} == {
        "two-voiced",
        "steady",
    }
    store.delete("two-voiced")
    assert [match.name for match in store.identify(near, score_by="max")] == ["steady"]
    assert store.identify(near, score_by="top-999999")[0].name == "steady"
    for wrong in ("median", "max-3", "top-0", "top-", "top-x", "top--1", "top-\u00b2", "top-\u0663", "top-1000000"):
        with pytest.raises(ValueError, match="score_by must be voiceprint, mean, max or top-K"):
            store.identify(near, score_by=wrong)


@pytest.mark.parametrize("score_by", ["voiceprint", "mean", "max", "top-2"])
def test_the_open_set_threshold_lets_as_many_strangers_pass_as_was_asked_for(store, score_by):
    for person in range(40):
        store.enrol(f"p{person:02d}", vectors(person, 3) + 3 * vectors(1_000 + person, 1))
    best = []
    for person in range(40):
        for embedding in vectors(person, 3) + 3 * vectors(1_000 + person, 1):
            matches = store.identify(embedding, top=40, score_by=score_by)
            best.append(max(match.score for match in matches if match.name != f"p{person:02d}"))
    for rate in (0.01, 0.1, 0.5):
        threshold = store.open_set_threshold(rate, score_by=score_by)
        assert sum(score >= threshold for score in best) <= rate * len(best)
        assert sum(score >= threshold - 1e-5 for score in best) >= int(rate * len(best))
        assert sum(score >= threshold - 1e-5 for score in best) > rate * len(best) - 1


def test_what_a_store_cannot_show_is_no_open_set_threshold(store):
    for rate in (0, 1, float("nan")):
        with pytest.raises(ValueError, match="false_positive_rate must be between 0 and 1, both excluded"):
            store.open_set_threshold(rate)
    wanted = "store must hold two people and 100 utterances to show a false-positive rate of 0.01, got"
    with pytest.raises(ValueError, match=f"{wanted} 0 and 0"):
        store.open_set_threshold(0.01)
    store.enrol("anna", vectors(0, 200))
    with pytest.raises(ValueError, match=f"{wanted} 1 and 200"):
        store.open_set_threshold(0.01)
    store.delete("anna")
    for name, count in (("anna", 90), ("berta", 9)):
        store.enrol(name, vectors(count, count))
    with pytest.raises(ValueError, match=rf"{wanted} 2 and 99\. State a threshold\.$"):
        store.open_set_threshold(0.01)
    store.enrol("berta", vectors(0, 1), add=True)
    assert -1 < store.open_set_threshold(0.01) < 1
    with pytest.raises(ValueError, match="score_by must be voiceprint, mean, max or top-K"):
        store.open_set_threshold(0.01, score_by="median")


def test_of_many_utterances_some_play_the_strangers_taken_evenly(store, monkeypatch):
    for person in range(10):
        store.enrol(f"p{person}", vectors(person, 3) + 2 * vectors(1_000 + person, 1))
    monkeypatch.setattr("chns.store.voiceprints._MOST_STRANGERS", 8)
    best = []
    for row in (0, 4, 8, 12, 16, 20, 24, 29):
        embedding = (vectors(row // 3, 3) + 2 * vectors(1_000 + row // 3, 1))[row % 3]
        best.append(max(match.score for match in store.identify(embedding, top=10) if match.name != f"p{row // 3}"))
    for allowed in range(1, 8):
        threshold = store.open_set_threshold(allowed / 8 + 0.01)
        assert threshold == pytest.approx(sorted(best)[-allowed - 1], abs=1e-6)


def test_a_threshold_is_above_the_score_that_too_many_reach(store):
    """All sound alike: whatever the rate, no threshold up to 1 tells them apart."""
    for name in "ab":
        store.enrol(name, np.ones((1, DIM)))
    assert store.open_set_threshold(0.5) > 1


@pytest.mark.parametrize("end", [-1, 1])
def test_a_threshold_is_above_the_best_score_that_there_is_whatever_rounding_does(store, monkeypatch, end):
    for name in "ab":
        store.enrol(name, np.ones((1, DIM)))
    beyond = np.full(2, np.nextafter(np.float32(end), np.float32(2 * end)))
    monkeypatch.setattr(content.VoiceprintSearch, "scores", lambda *_: beyond.copy())
    assert store.open_set_threshold(0.5) == np.nextafter(end, 2)


def test_names_texts_and_models_may_be_as_long_as_is_said(tmp_path):
    with opened(tmp_path / "new" / "folder" / "people.store", dim=1, model_digest="d" * 200) as store:
        store.enrol("n" * 200, np.ones((1, 1)), note="o" * 2_000, sources=["s" * 4_096])
        person = store.show("n" * 200)
        assert (len(person.note), len(person.sources[0])) == (2_000, 4_096)
    with opened(tmp_path / "wide.store", dim=16_384) as store:
        store.enrol("a", vectors(0, 1, dim=16_384))
        assert store.identify(vectors(0, 1, dim=16_384)[0])[0].name == "a"


def test_lengths_that_float32_cannot_square_are_lengths(store):
    store.enrol("large", np.full((1, DIM), 1e30, np.float32))
    store.enrol("small", np.full((1, DIM), 1e-30, np.float32))
    assert unit_length(np.full(DIM, 1e30, np.float32), (DIM,)).dtype == np.float32
    np.testing.assert_allclose(store.show("large").vector, np.full(DIM, 0.25))
    np.testing.assert_allclose(store.show("small").vector, np.full(DIM, 0.25))


def test_the_time_of_an_enrolment_is_kept_to_the_second_in_utc(store, path):
    store.enrol("anna", vectors(0), enrolled_at=datetime(2026, 7, 1, 12, 0, 0, 999_999, timezone(timedelta(hours=2))))
    told = store.show("anna").enrolled_at
    assert told == datetime(2026, 7, 1, 10, 0, 0, tzinfo=UTC)
    assert told.tzinfo is UTC
    store.enrol("berta", vectors(1))
    raw = sqlite3.connect(path)
    times = [time for (time,) in raw.execute("SELECT enrolled_at FROM enrolments ORDER BY id")]
    raw.close()
    assert times[0] == "2026-07-01T12:00:00+02:00"
    assert times[1].endswith("+00:00")  # whatever the machine's time zone


def test_everybody_is_exported_to_one_table(store, tmp_path, pq):
    store.enrol("anna", vectors(0), note="consent", enrolled_at=datetime(2026, 7, 1, tzinfo=UTC))
    assert export_voiceprints(store, tmp_path / "one.parquet") == 1
    store.enrol("berta", vectors(1, 1))
    assert export_voiceprints(store, tmp_path / "all.parquet") == 2
    table = pq.read_table(tmp_path / "all.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "name": "string",
        "enrolled_at": "timestamp[ms, tz=UTC]",  # Parquet knows no seconds
        "note": "string",
        "num_utterances": "int64",
        "voiceprint": "fixed_size_list<element: float>[16]",
    }
    assert table.schema.metadata[b"model_digest"] == MODEL.encode()
    first, second = table.to_pylist()
    assert (first["name"], first["note"], first["num_utterances"]) == ("anna", "consent", 3)
    assert first["enrolled_at"] == datetime(2026, 7, 1, tzinfo=UTC)
    assert (second["name"], second["note"], second["num_utterances"]) == ("berta", None, 1)
    for row in (first, second):
        np.testing.assert_array_equal(np.array(row["voiceprint"], np.float32), store.show(row["name"]).vector)
    assert (tmp_path / "all.parquet").stat().st_mode & 0o777 == 0o600
    assert pq.read_metadata(tmp_path / "all.parquet").row_group(0).column(0).compression == "ZSTD"
    with pytest.raises(ValueError, match=r"^name of the export must end in \.parquet, got .*all\.csv\.$"):
        export_voiceprints(store, tmp_path / "all.csv")


def test_an_empty_store_is_exported_as_a_table_without_rows(store, tmp_path, pq):
    assert export_voiceprints(store, tmp_path / "none.parquet") == 0
    assert pq.read_table(tmp_path / "none.parquet").to_pylist() == []
    store.enrol("anna", vectors(0), note="consent")
    export_voiceprints(store, tmp_path / "one.parquet")
    assert pq.read_schema(tmp_path / "none.parquet").equals(pq.read_schema(tmp_path / "one.parquet"))


def test_nobody_is_identified_below_the_threshold_or_too_close_to_the_runner_up():
    matches = [Match("anna", 0.75), Match("bert", 0.5)]
    assert lead_of(matches) == 0.25
    assert identified(matches, threshold=0.75) == "anna"
    assert identified(matches, threshold=0.76) is None
    assert identified(matches, threshold=0.5, margin=0.25) == "anna"
    assert identified(matches, threshold=0.5, margin=0.26) is None
    assert identified(matches[:1], threshold=0.5, margin=0.9) == "anna"
    assert (identified([], threshold=-1), lead_of([])) == (None, None)
