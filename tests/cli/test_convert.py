"""``chns convert`` and the formats of ``chns prepare``, as a user types them."""

import csv
import json
import re
import shlex

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chns.cli import main
from chns.cli.manifest_commands import convert_parser
from chns.cli.prepare_command import prepare_parser
from chns.data.manifest import Manifest


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


@pytest.mark.parametrize(
    ("form", "again"),
    [
        ("kaldi", ["kaldi", "out"]),
        ("lhotse", ["lhotse", "out/cuts.jsonl.gz"]),
        ("lhotse", ["lhotse", "out/recordings.jsonl.gz", "--supervisions", "out/supervisions.jsonl.gz"]),
        ("wespeaker", ["wespeaker", "out"]),
        ("csv", ["csv", "out"]),
    ],
)
def test_a_manifest_goes_out_and_comes_in_again(hum_manifest, tmp_path, monkeypatch, capsys, form, again):
    monkeypatch.chdir(tmp_path)
    summary = json.loads(run(capsys, "convert", hum_manifest, "--to", form, "--out", "out", "--json"))
    assert summary == {"out": "out", "format": form, "speakers": 20, "utterances": 100}
    root = Manifest.read(hum_manifest).root
    run(capsys, "prepare", *again, "--root", root, "--out", "again.parquet")
    assert list(Manifest.read("again.parquet")) == list(Manifest.read(hum_manifest))


def test_people_read_what_was_written(hum_manifest, tmp_path, capsys):
    text = run(capsys, "convert", hum_manifest, "--to", "csv", "--out", tmp_path / "o.csv")
    assert text == f"{tmp_path / 'o.csv'}: 20 speakers, 100 utterances as csv\n"


def test_an_error_is_one_line(hum_manifest, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert main(["convert", str(hum_manifest), "--to", "kaldi", "--out", str(tmp_path / "full")]) == 2
    assert "chns: error: folder to write must be new, empty or of an earlier run" in capsys.readouterr().err


def test_the_columns_of_a_table_are_named(hum_manifest, tmp_path, capsys):
    root = Manifest.read(hum_manifest).root
    table = tmp_path / "t.csv"
    table.write_text("who|file|name|from|length|day\ns00|s00/0.flac|u|0.1|0.6|monday\n")
    names = {
        "path": "file",
        "speaker": "who",
        "utterance": "name",
        "offset": "from",
        "duration": "length",
        "session": "day",
    }
    options = [word for name, column in names.items() for word in (f"--{name}-column", column)]
    run(capsys, "prepare", "csv", table, "--root", root, "--delimiter", "|", *options, "--out", tmp_path / "m.parquet")
    manifest = Manifest.read(tmp_path / "m.parquet")
    assert manifest[0] == ("u", "s00", root / "s00/0.flac", 0.1, 0.6, 16_000, None)
    assert manifest.column("session") == ["monday"]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("nemo", json.dumps({"audio_filepath": "s00/0.flac", "offset": 0.1, "duration": 0.6, "label": "s00"})),
        ("speechbrain", "ID,duration,wav,start,stop,spk_id\ns00/0,1,$data_root/s00/0.flac,1600,11200,s00\n"),
    ],
)
def test_lists_with_parts_are_prepared(hum_manifest, tmp_path, capsys, form, text):
    root = Manifest.read(hum_manifest).root
    (tmp_path / "list").write_text(text)
    run(capsys, "prepare", form, tmp_path / "list", "--root", root, "--out", tmp_path / "m.parquet")
    assert Manifest.read(tmp_path / "m.parquet")[0] == ("s00/0", "s00", root / "s00/0.flac", 0.1, 0.6, 16_000, None)


def test_a_list_without_root_counts_from_its_own_folder(hum_manifest, tmp_path, capsys):
    root = Manifest.read(hum_manifest).root
    (root / "list.csv").write_text("path,speaker\ns00/0.flac,a\n")
    run(capsys, "prepare", "csv", root / "list.csv", "--out", tmp_path / "m.parquet")
    assert Manifest.read(tmp_path / "m.parquet")[0].path == root / "s00/0.flac"
    (root / "list.csv").unlink()


def test_embedded_audio_goes_beside_the_manifest(hum_manifest, tmp_path, capsys):
    audio = {"bytes": Manifest.read(hum_manifest)[0].path.read_bytes(), "path": "x.flac"}
    features = datasets.Features(
        {
            "audio": datasets.Audio(decode=False),
            "who": datasets.ClassLabel(names=["anna"]),
            "id": datasets.Value("string"),
        }
    )
    table = pa.Table.from_pydict({"audio": [audio], "who": [0], "id": ["u"]}, schema=features.arrow_schema)
    pq.write_table(table, tmp_path / "t.parquet")
    words = ["prepare", "hugging-face", tmp_path / "t.parquet", "--speaker-column", "who", "--utterance-column", "id"]
    run(capsys, *words, "--out", tmp_path / "m.parquet")
    utterance = Manifest.read(tmp_path / "m.parquet")[0]
    assert utterance[:3] == ("u", "anna", tmp_path / "m-recordings/00000/00000000.flac")
    run(capsys, *words, "--recordings", tmp_path / "here", "--out", tmp_path / "n.parquet")
    assert Manifest.read(tmp_path / "n.parquet")[0].path == tmp_path / "here/00000/00000000.flac"


def test_the_evaluation_of_cnceleb_is_prepared_and_its_lists_are_checked(hum_manifest, tmp_path, capsys):
    recording = Manifest.read(hum_manifest)[0].path.read_bytes()
    for name in ("data/id00000/singing-01-001", "eval/enroll/id00800-enroll", "eval/test/id00800-singing-01-005"):
        path = tmp_path / "cn" / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(recording)
    lists = tmp_path / "cn" / "eval" / "lists"
    lists.mkdir()
    (lists / "enroll.lst").write_text("id00800-enroll enroll/id00800-enroll.wav\n")
    (lists / "trials.lst").write_text(
        "id00800-enroll test/id00800-singing-01-005.wav 1\nid00800-enroll test/id00801-singing-01-005.wav 0\n"
    )
    words = ["prepare", "cnceleb", tmp_path / "cn", "--json", "--out"]
    assert json.loads(run(capsys, *words, tmp_path / "dev.parquet"))["utterances"] == 1
    summary = json.loads(run(capsys, *words, tmp_path / "eval.parquet", "--subset", "eval"))
    assert (summary["utterances"], summary["rejected"]) == (2, 1)
    with (tmp_path / "eval.rejected.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["test/id00801-singing-01-005.wav"]


def test_every_format_has_an_example_that_parses():
    parser = prepare_parser()
    examples = re.findall(r"^  chns prepare ((?:.*\\\n)*.*)$", parser.epilog, re.MULTILINE)
    commands = [re.split(r"\s{3,}", re.sub(r"\s*\\\n\s*", " ", example))[0] for example in examples]
    shown = {parser.parse_args(shlex.split(command)).corpus for command in commands}
    (corpora,) = [action for action in parser._actions if action.dest == "corpus"]
    assert shown == set(corpora.choices)


def test_every_example_of_convert_parses():
    parser = convert_parser()
    examples = re.findall(r"^  chns convert (.*)$", parser.epilog, re.MULTILINE)
    forms = [parser.parse_args(re.split(r"\s{3,}", example)[0].split()).to for example in examples]
    assert forms == ["kaldi", "lhotse", "wespeaker", "csv"]
