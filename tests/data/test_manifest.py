"""The utterance table: what it refuses, and what survives a round trip."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chns.core import ManifestError
from chns.data.manifest import Manifest, relative_name
from chns.data.manifest_file import manifest_suffix


def row(name: str = "a/1", **changes: object) -> dict[str, object]:
    return {
        "utterance": name,
        "speaker": name.split("/")[0],
        "path": f"{name}.wav",
        "offset_seconds": 0.0,
        "duration_seconds": 1.5,
        "sample_rate_hz": 16_000,
        **changes,
    }


def rows_of(speakers: int, utterances: int = 3) -> list[dict[str, object]]:
    return [row(f"{speaker:04d}/{number}") for speaker in range(speakers) for number in range(utterances)]


def manifest_of(*rows: dict[str, object], root: Path = Path("/audio")) -> Manifest:
    return Manifest.from_rows(rows or rows_of(4), root=root)


def assert_same(left: Manifest, right: Manifest) -> None:
    assert left.column_names == right.column_names
    assert list(left) == list(right)
    for name in left.column_names:
        assert left._table[name].to_pylist() == right._table[name].to_pylist()


# ----- what a manifest is


def test_speakers_are_numbered_by_sorted_name_whatever_the_order_of_rows():
    manifest = manifest_of(row("b/1"), row("a/1"), row("ä/1"), row("b/2"))
    assert manifest.speakers == ["a", "b", "ä"]
    assert manifest.speaker_labels.tolist() == [1, 0, 2, 1]
    assert manifest.speaker_labels.dtype == np.int64


def test_an_utterance_has_the_path_joined_to_the_root():
    utterance = manifest_of(row("a/1"), row("b/2", offset_seconds=0.25))[1]
    assert utterance == ("b/2", "b", Path("/audio/b/2.wav"), 0.25, 1.5, 16_000, None)


def test_iteration_ends_at_the_last_utterance():
    assert len(list(manifest_of())) == len(manifest_of()) == 12
    with pytest.raises(IndexError):
        manifest_of()[12]


def test_durations_are_the_column():
    assert manifest_of(row("a/1"), row("a/2", duration_seconds=2.0)).durations_seconds.tolist() == [1.5, 2.0]


def test_a_missing_optional_value_reads_as_empty_text():
    manifest = manifest_of(row("a/1", session="x"), row("a/2", session=None))
    assert manifest.column("session") == ["x", ""]


@pytest.mark.parametrize("name", ["session", "duration_seconds"])
def test_a_column_that_is_not_there_or_not_text_is_refused(name):
    with pytest.raises(ManifestError, match="column must be one of utterance, speaker, path, got"):
        manifest_of().column(name)


def test_without_rows_a_manifest_in_memory_is_empty():
    manifest = Manifest.from_rows([], root=Path("/audio"))
    assert (len(manifest), manifest.speakers, manifest.speaker_labels.tolist()) == (0, [], [])


def test_the_usual_name_is_the_path_without_the_last_suffix():
    assert relative_name(PurePosixPath("id1/a.b/00001.wav")) == "id1/a.b/00001"


# ----- what it refuses


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speaker": None}, "speaker must not be empty, got None in manifest, row 2"),
        ({"speaker": ""}, "speaker must not be empty, got '' in manifest, row 2"),
        ({"utterance": ""}, "utterance must not be empty"),
        ({"path": ""}, "path must not be empty"),
        ({"duration_seconds": None}, "duration_seconds must not be empty"),
        ({"duration_seconds": float("nan")}, "duration_seconds must be a positive number, got nan in manifest, row 2"),
        ({"duration_seconds": float("inf")}, "duration_seconds must be a positive number, got inf"),
        ({"duration_seconds": 0.0}, "duration_seconds must be a positive number, got 0.0"),
        ({"offset_seconds": -0.5}, "offset_seconds must be a number from 0, got -0.5 in manifest, row 2"),
        ({"offset_seconds": float("nan")}, "offset_seconds must be a number from 0, got nan"),
        ({"offset_seconds": float("inf")}, "offset_seconds must be a number from 0, got inf"),
        ({"sample_rate_hz": 0}, "sample_rate_hz must be positive, got 0 in manifest, row 2"),
        ({"sample_rate_hz": -16_000}, "sample_rate_hz must be positive, got -16000"),
        ({"utterance": "a/0"}, "utterance must be unique, got 'a/0' again in manifest, row 2"),
        ({"speaker": "a\nb"}, "speaker must hold no line break or other control character"),
    ],
)
def test_a_bad_value_is_named_with_its_row(change, message):
    with pytest.raises(ManifestError, match=message):
        manifest_of(row("a/0"), row(**change), row("a/2"))


@pytest.mark.parametrize(
    "path", ["../x.wav", "..", "/etc/passwd", "a/../../b.wav", "a/..", "a/../b.wav", "a\\b.wav", "..\\x", "C:\\x.wav"]
)
def test_a_path_never_leaves_the_root(path):
    with pytest.raises(ManifestError, match=r"path must be relative and stay inside the root, got .* row 2"):
        manifest_of(row("a/0"), row(path=path))


@pytest.mark.parametrize("path", ["a\0.wav", "a\n.wav", "a\x7f.wav"])
def test_a_path_has_no_control_characters(path):
    with pytest.raises(ManifestError, match="path must hold no line break or other control character"):
        manifest_of(row(path=path))


def test_a_control_character_in_a_further_column_is_refused_and_a_missing_value_is_not():
    with pytest.raises(ManifestError, match=r"session must hold no line break .* row 3"):
        manifest_of(row("a/1", session=None), row("a/2", session="x"), row("a/3", session="x\ty"))


@pytest.mark.parametrize("path", ["a..b/c..wav", "..a/b.wav", "a b/ü, 'x'.wav", "./a.wav"])
def test_an_odd_path_inside_the_root_is_accepted(path):
    assert manifest_of(row(path=path))[0].path == Path("/audio") / path


@pytest.mark.parametrize("missing", ["utterance", "speaker", "path", "offset_seconds", "duration_seconds"])
def test_a_missing_column_is_named(missing):
    table = manifest_of()._table.drop_columns([missing])
    with pytest.raises(ManifestError, match=f"columns must include .*; {missing} not found in manifest"):
        Manifest(table, root=Path("/audio"))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("duration_seconds", pa.array(["1.0", "one"]), "must be of type double, got 'one' in manifest, row 2"),
        ("sample_rate_hz", pa.array([8000.0, 8000.5]), "must be of type int32, got 8000.5 in manifest, row 2"),
        ("sample_rate_hz", pa.array([1, 2**40]), "must be of type int32, got 1099511627776 in manifest, row 2"),
        ("speaker", pa.array([b"a", b"\xff"]), r"must be of type string, got b'\\xff' in manifest, row 2"),
        ("speaker", pa.array([["a"], ["b"]]), r"must be of type string, got \['a'\] in manifest, row 1"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_row(name, values, message):
    table = manifest_of(row("a/1"), row("a/2"))._table
    table = table.set_column(table.column_names.index(name), name, values)
    with pytest.raises(ManifestError, match=f"{name} {message}"):
        Manifest(table, root=Path("/audio"))


def test_a_column_of_the_wrong_type_without_rows_is_refused():
    table = Manifest.from_rows([], root=Path("/audio"))._table.append_column(
        "session", pa.array([], pa.list_(pa.string()))
    )
    with pytest.raises(ManifestError, match="session must be of type string, got ListType"):
        Manifest(table, root=Path("/audio"))


@pytest.mark.slow
def test_the_first_of_a_million_bad_rows_is_found():
    durations = pa.array(["1"] * 700_001 + ["x"] * 300_000)
    size = len(durations)
    table = pa.table(
        {
            "utterance": pa.array(range(size)),
            "speaker": pa.array(["a"] * size),
            "path": pa.array(["a"] * size),
            "offset_seconds": pa.array([0.0] * size),
            "duration_seconds": durations,
            "sample_rate_hz": pa.array([1] * size),
        }
    )
    with pytest.raises(ManifestError, match="row 700002"):
        Manifest(table, root=Path("/audio"))


# ----- round trips


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_round_trip_changes_nothing(tmp_path, suffix):
    rows = [
        row("0001/1", session=None, gender="f", **{'odd, "name"': "1"}),
        row("0001/2", session="", gender="", **{'odd, "name"': 'x, "y"'}),
        row("0002/ü 3", session="s, 1", gender="007", duration_seconds=1 / 3, **{'odd, "name"': None}),
    ]
    manifest = manifest_of(*rows, root=tmp_path)
    manifest.write(tmp_path / f"m{suffix}")
    again = Manifest.read(tmp_path / f"m{suffix}")
    assert_same(again, manifest)
    assert again.speakers == ["0001", "0002"]
    assert [path.name for path in tmp_path.iterdir()] == [f"m{suffix}"]


def test_parquet_remembers_a_root_elsewhere(tmp_path):
    manifest = manifest_of(root=tmp_path / "audio")
    manifest.write(tmp_path / "other" / "m.parquet")
    assert Manifest.read(tmp_path / "other" / "m.parquet").root == tmp_path / "audio"


def test_a_corpus_that_is_moved_with_its_manifest_still_reads(tmp_path):
    manifest_of(root=tmp_path / "old" / "audio").write(tmp_path / "old" / "m.parquet")
    (tmp_path / "old").rename(tmp_path / "new")
    assert Manifest.read(tmp_path / "new" / "m.parquet")[0].path == tmp_path / "new" / "audio" / "0000" / "0.wav"


@pytest.mark.parametrize("manifest", ["lists/m.parquet", "lists/deep/m.parquet"])
def test_a_manifest_beside_its_audio_can_be_moved_with_it_and_is_read_from_anywhere(tmp_path, monkeypatch, manifest):
    (tmp_path / "old" / "audio").mkdir(parents=True)
    manifest_of(root=tmp_path / "old" / "audio").write(tmp_path / "old" / manifest)
    shutil.copytree(tmp_path / "old", tmp_path / "copy")
    assert Manifest.read(tmp_path / "copy" / manifest).root == tmp_path / "old" / "audio"  # as long as it is there
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert Manifest.read(tmp_path / "new" / manifest).root == tmp_path / "new" / "audio"
    monkeypatch.chdir(tmp_path / "new" / "lists")
    here = Path(manifest).relative_to("lists")
    assert Manifest.read(here).root == tmp_path / "new" / "audio"
    assert Manifest.read(here, root="../audio").root == Path("../audio")
    shutil.rmtree(tmp_path / "new" / "audio")
    assert Manifest.read(here).root == tmp_path / "old" / "audio"  # which an error will name


def test_a_csv_above_the_audio_has_paths_from_its_own_folder(tmp_path):
    manifest = manifest_of(root=tmp_path / "corpus" / "wav")
    manifest.write(tmp_path / "m.csv")
    again = Manifest.read(tmp_path / "m.csv")
    assert again.column("path")[0] == "corpus/wav/0000/0.wav"
    assert [utterance.path for utterance in again] == [utterance.path for utterance in manifest]


def test_a_csv_that_could_not_find_its_audio_is_not_written(tmp_path):
    with pytest.raises(ManifestError, match=r"CSV manifest must lie in a folder that holds its audio .*\.parquet"):
        manifest_of(root=tmp_path / "audio").write(tmp_path / "other" / "m.csv")
    assert not (tmp_path / "other").exists()


def test_the_callers_root_wins(tmp_path):
    manifest_of(root=tmp_path).write(tmp_path / "m.parquet")
    assert Manifest.read(str(tmp_path / "m.parquet"), root="/elsewhere").root == Path("/elsewhere")


@pytest.mark.parametrize("stored", [b"/etc", b"../../..", b"a\0b", b"\xff\xfe", b""])
def test_a_strangers_root_is_a_folder_that_the_caller_can_replace_and_paths_cannot_leave(tmp_path, stored):
    table = manifest_of()._table.replace_schema_metadata({b"chns.root": stored})
    pq.write_table(table, tmp_path / "m.parquet")
    believed = Manifest.read(tmp_path / "m.parquet")
    assert believed.root == tmp_path / os.fsdecode(stored)
    assert not believed[0].path.is_file()
    assert Manifest.read(tmp_path / "m.parquet", root=tmp_path)[0].path == tmp_path / "0000" / "0.wav"


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path):
    manifest_of().write(tmp_path / "gender=f" / "m.parquet")
    assert Manifest.read(tmp_path / "gender=f" / "m.parquet").column_names == manifest_of().column_names


@pytest.mark.parametrize("name", ["m.txt", "m", "m.PARQUET"])
def test_another_suffix_is_refused(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(ManifestError, match=r"manifest name must end in \.parquet or \.csv"):
        Manifest.read(tmp_path / name)
    with pytest.raises(ManifestError, match=r"manifest name must end in \.parquet or \.csv"):
        manifest_of().write(tmp_path / name)
    with pytest.raises(ManifestError, match=r"manifest name must end in \.parquet or \.csv"):
        manifest_suffix(tmp_path / name)


@pytest.mark.parametrize("name", ["m.parquet", "."])
def test_a_manifest_that_is_no_file_is_not_found(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"manifest must be a file, got .* `chns prepare`"):
        Manifest.read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_without_utterances_is_refused(tmp_path, suffix):
    Manifest.from_rows([], root=tmp_path).write(tmp_path / f"m{suffix}")
    with pytest.raises(ManifestError, match=r"manifest must hold at least one utterance, got none in .*m"):
        Manifest.read(tmp_path / f"m{suffix}")


@pytest.mark.parametrize("keep", [0, 1, 10, -1, -8])
def test_a_truncated_parquet_is_refused(tmp_path, keep):
    path = tmp_path / "m.parquet"
    manifest_of().write(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ManifestError, match=r"manifest must be a readable Parquet file, got .*m\.parquet"):
        Manifest.read(path)


@pytest.mark.slow
def test_parquet_with_damaged_pages_is_refused_or_reads_valid(tmp_path):
    path = tmp_path / "m.parquet"
    manifest_of(*rows_of(100)).write(path)
    good = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(good)
        damaged[generator.integers(4, len(good) - 4)] ^= 0xFF
        path.write_bytes(damaged)
        try:
            Manifest.read(path)
        except ManifestError:
            refused += 1
    assert refused > 40


# ----- CSV by hand

HEADER = "utterance,speaker,path,offset_seconds,duration_seconds,sample_rate_hz"


def csv_of(folder: Path, text: str | bytes) -> Path:
    path = folder / "m.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_columns_come_in_any_order_with_a_byte_order_mark_quotes_and_windows_line_ends(tmp_path):
    text = '\ufeff"speaker",utterance,"path",sample_rate_hz,duration_seconds,offset_seconds,"a, ""b"""\r\n'
    path = csv_of(tmp_path, text + '0001,u1,"x, y.wav",16000,1.5,0,"007, ""c"""\r\n')
    manifest = Manifest.read(path)
    assert manifest[0] == ("u1", "0001", tmp_path / "x, y.wav", 0.0, 1.5, 16_000, None)
    assert manifest.column('a, "b"') == ['007, "c"']


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["u1,a,a.wav,0,1,16000", "u2,a,a.wav,0,nan,16000"], r"duration_seconds must be .* got nan in .*m\.csv:3"),
        (["u1,a,a.wav,0,1,16000", "u2,a,a.wav,0,x,16000"], r"duration_seconds must be .* got 'x' in .*m\.csv:3"),
        (["u1,a,a.wav,0,1,16000.5"], r"sample_rate_hz must be of type int32, got '16000\.5' in .*m\.csv:2"),
        (["u1,a,a.wav,0,1,16000", "", "u2,a,../a.wav,0,1,16000"], r"path must be relative .*m\.csv:4"),
        (["u1,a,a.wav,0,1,16000", "u1,a,a.wav,0,1,16000"], r"utterance must be unique, got 'u1' again in .*m\.csv:3"),
        (["u1,a,a.wav,0,1,16000", "u2,a,a.wav,0,1"], r"manifest must be UTF-8 CSV .*m\.csv .*Row #3: Expected 6"),
        (['u1,"a\nb",a.wav,0,1,16000', "u2,a,../a.wav,0,1,16000"], r"speaker must hold no line break .*m\.csv:2"),
    ],
)
def test_an_error_in_csv_names_the_line(tmp_path, lines, message):
    with pytest.raises(ManifestError, match=message):
        Manifest.read(csv_of(tmp_path, "\n".join([HEADER, *lines]) + "\n"))


def test_csv_that_is_not_utf8_names_column_and_line(tmp_path):
    text = f"{HEADER}\nu1,a,a.wav,0,1,16000\nu2,caf\xe9,a.wav,0,1,16000\n".encode("latin-1")
    with pytest.raises(ManifestError, match=r"speaker must be of type string, got b'caf\\xe9' in .*m\.csv:3"):
        Manifest.read(csv_of(tmp_path, text))


@pytest.mark.parametrize("text", [b"", b"\xff\xfe\x00", b"\xff,b\n1,2\n", b"PAR1"])
def test_csv_without_a_sensible_header_is_refused(tmp_path, text):
    with pytest.raises(ManifestError, match=r"(manifest must be UTF-8 CSV|columns must include) .*m\.csv"):
        Manifest.read(csv_of(tmp_path, text))


def test_doubled_columns_are_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"columns must have different names, got .* in .*m\.csv"):
        Manifest.read(csv_of(tmp_path, f"{HEADER},path\nu1,a,a.wav,0,1,16000,b.wav\n"))


# ----- parts and wholes


def test_taking_keeps_order_root_and_further_columns():
    manifest = manifest_of(*[row(name, session=name) for name in ("a/1", "b/1", "c/1")])
    part = manifest.take([2, 0])
    assert part.column("session") == ["c/1", "a/1"]
    assert part.speakers == ["a", "c"]
    assert part.speaker_labels.tolist() == [1, 0]
    assert part.root == manifest.root


def test_taking_nothing_gives_nothing():
    assert len(manifest_of().take([])) == 0


def test_a_mask_is_not_taken_for_indices():
    with pytest.raises(ValueError, match=r"indices must be integers, got bool.*flatnonzero"):
        manifest_of(row("a/1"), row("a/2")).take(np.array([True, False]))


def test_taking_beyond_the_end_is_an_error():
    with pytest.raises(IndexError):
        manifest_of(row("a/1")).take([1])


def test_taking_an_utterance_twice_is_an_error():
    with pytest.raises(ManifestError, match="utterance must be unique"):
        manifest_of(row("a/1")).take([0, 0])


def test_a_split_is_disjoint_complete_and_the_same_for_a_seed():
    manifest = manifest_of(*rows_of(20))
    rest, held_out = manifest.split_speakers(5, seed=3)
    assert len(held_out.speakers) == 5
    assert not set(rest.speakers) & set(held_out.speakers)
    assert sorted(rest.column("utterance") + held_out.column("utterance")) == manifest.column("utterance")
    shuffled = manifest.take(np.random.default_rng(0).permutation(len(manifest)))
    assert shuffled.split_speakers(5, seed=3)[1].speakers == held_out.speakers
    assert manifest.split_speakers(5, seed=4)[1].speakers != held_out.speakers


@pytest.mark.parametrize("num_held_out", [0, 4, -1])
def test_both_sides_of_a_split_have_speakers(num_held_out):
    with pytest.raises(ValueError, match="num_held_out must be between 1 and 3"):
        manifest_of(*rows_of(4)).split_speakers(num_held_out, seed=0)


def test_merged_manifests_read_the_same_files(tmp_path):
    left = manifest_of(row("a/1"), root=tmp_path / "x" / "left")
    right = manifest_of(row("b/1"), root=tmp_path / "x" / "right" / "wav")
    merged = Manifest.merge([left, right])
    assert merged.root == tmp_path / "x"
    assert [utterance.path for utterance in merged] == [left[0].path, right[0].path]


def test_a_merged_root_may_be_inside_the_other(tmp_path):
    merged = Manifest.merge([manifest_of(row("a/1"), root=tmp_path), manifest_of(row("b/1"), root=tmp_path / "x")])
    assert merged.column("path") == ["a/1.wav", "x/b/1.wav"]


def test_a_column_that_one_manifest_lacks_is_empty_there():
    left, right = manifest_of(row("a/1", session="s")), manifest_of(row("b/1", gender="f"))
    merged = Manifest.merge([left, right, manifest_of(row("c/1", session=None, gender=None))])
    assert merged.column("session") == ["s", "", ""]
    assert merged.column("gender") == ["", "f", ""]


def test_prefixes_keep_equal_names_apart():
    merged = Manifest.merge([manifest_of(row("a/1")), manifest_of(row("a/1"))], prefixes=["x", "."])
    assert merged.speakers == ["./a", "x/a"]
    assert merged.column("utterance") == ["x/a/1", "./a/1"]
    assert merged.column("path") == ["a/1.wav", "a/1.wav"]


def test_a_speaker_in_two_manifests_must_be_meant():
    manifests = [manifest_of(row("a/1"), row("b/1")), manifest_of(row("a/2"), row("b/2"))]
    with pytest.raises(ManifestError, match=r"speaker must be in one manifest only, got 'a' and 1 more .* --prefix"):
        Manifest.merge(manifests)
    assert Manifest.merge(manifests, same_speakers=True).speakers == ["a", "b"]


def test_an_utterance_in_two_manifests_is_an_error():
    with pytest.raises(ManifestError, match="utterance must be unique, got 'a/1' again in merged manifest, row 2"):
        Manifest.merge([manifest_of(row("a/1")), manifest_of(row("a/1"))], same_speakers=True)


def test_merging_needs_manifests_and_one_prefix_each():
    with pytest.raises(ValueError, match="manifests must be at least one, got none"):
        Manifest.merge([])
    with pytest.raises(ValueError, match="prefixes must be one for each of 1 manifests, got 2"):
        Manifest.merge([manifest_of()], prefixes=["a", "b"])


# ----- a million rows and workers


def test_a_manifest_travels_to_another_process_as_its_table_once():
    manifest = manifest_of(*(row(f"{number:06d}/{number:020d}") for number in range(2_000)))
    sent = pickle.dumps(manifest)
    assert len(sent) < 1.3 * len(pickle.dumps((manifest.table, manifest.speakers, manifest.speaker_labels)))
    assert list(pickle.loads(sent)) == list(manifest)


# In a process of its own: what else the interpreter holds is copied, too, where the child touches it.
FORKED = """
import os
from pathlib import Path
import numpy as np
import pyarrow as pa
from chns.data.manifest import Manifest

def private_bytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

size = 300_000
names = [f"id{number // 200:06d}/a-video-name/{number:08d}" for number in range(size)]
columns = {"utterance": names, "speaker": [name[:8] for name in names], "path": names}
columns |= {"offset_seconds": np.zeros(size), "duration_seconds": np.ones(size)}
manifest = Manifest(pa.table({**columns, "sample_rate_hz": np.full(size, 16_000)}), root=Path("/audio"))
del names, columns
print(manifest._table.nbytes + manifest.speaker_labels.nbytes, flush=True)
if os.fork() == 0:
    before = private_bytes()
    for index in range(0, size, 10):
        assert manifest[index].duration_seconds == 1.0
    print(private_bytes() - before, flush=True)
    os._exit(0)
assert os.wait()[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's memory accounting")
def test_forked_workers_share_the_columns():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    size_bytes, grown = map(int, done.stdout.split())
    assert size_bytes > 30e6
    assert grown < size_bytes / 3
