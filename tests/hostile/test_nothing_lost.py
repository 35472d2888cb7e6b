"""Nothing of the user's is lost: what is in the way stays, inputs are never outputs, a full disk is an error."""

import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from foreign_models import speechbrain_state
from small_models import SMALL_ECAPA

from chns.bundle.bundle import load_bundle, save_bundle
from chns.cli import COMMANDS, main
from chns.core import atomic_folder, atomic_path, require_ours
from chns.store.content import export_voiceprints
from chns.store.voiceprints import VoiceprintStore


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["thesis.tex", "model.safetensors", "config.json"])
def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text('{"mine": 1}')
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match=f"got '{name}'.*would be lost"):
        save_bundle(folder, SMALL_ECAPA.build(), SMALL_ECAPA, training={}, metrics={})
    assert content(tmp_path) == before


def test_what_was_put_into_a_bundle_is_not_lost(bundle):
    (bundle / "notes").mkdir()
    with pytest.raises(FileExistsError, match="got 'notes' in"):
        save_bundle(bundle, SMALL_ECAPA.build(), SMALL_ECAPA, training={}, metrics={})


def test_what_comes_while_a_folder_is_written_is_not_lost(tmp_path):
    with pytest.raises(FileExistsError, match="got 'new' in"), atomic_folder(tmp_path / "a", ours=()):  # noqa: PT012
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "new").touch()
    assert (tmp_path / "a" / "new").exists()


def test_a_link_is_not_ours(tmp_path):
    (tmp_path / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match=r"got 'config.json' in"):
        require_ours(tmp_path, ("config.json",))


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError, match="must not be a file"), atomic_folder(tmp_path / "a", ours=()):
        pass
    assert (tmp_path / "a").read_text() == "mine"


FOLDERS = {
    "import": "import speechbrain {tmp}/embedding_model.ckpt --out {out}",
    "push": "push {tmp}/model me/voice --licence MIT --training-data none --dry-run {out}",
    "pack": "pack {manifest} --out {out}",
    "prepare": "prepare folder {corpus} --out {tmp}/m.parquet --convert wav --converted {out}",
    "convert kaldi": "convert {manifest} --to kaldi --out {out}",
    "train": "train --config chns --config tiny --data.train {manifest} --out {tmp}/run --train.epochs 1",
    "train, best": "train --config chns --config tiny --data.train {manifest} --out {tmp}/run --train.epochs 1",
}


@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize("inside", ["thesis.txt", "a folder"])
def test_a_folder_of_the_users_is_refused_by_every_command_that_would_fill_it(
    command, inside, bundle, hum_manifest, tmp_path, capsys
):
    torch.save(dict(speechbrain_state()), tmp_path / "embedding_model.ckpt")
    names = {"train": "run/model", "train, best": "run/best_model"}
    out = tmp_path / names.get(command, "theses")
    out.mkdir(parents=True)
    if inside == "a folder":
        (out / "mine").mkdir()
        (out / "mine" / "thesis.txt").write_text("years of work")
    else:
        (out / inside).write_text("years of work")
    words = FOLDERS[command].format(tmp=tmp_path, out=out, manifest=hum_manifest, corpus=hum_manifest.parent)
    assert main(words.split()) == 2
    assert ("mine" if inside == "a folder" else inside) in capsys.readouterr().err
    assert [path.read_text() for path in out.rglob("thesis.txt")] == ["years of work"]
    assert sum(path.is_file() for path in out.rglob("*")) == 1


PAIRS = [
    ("calibrate {model} {out} --trials {in}", "{model}/config.json"),
    ("check {in} --fix {out}", None),
    ("check {in} --report {out}", None),
    ("cluster {model} {in} --out {out}", None),
    ("cluster {model} {in} --out c.safetensors --table {out}", None),
    ("cluster {in} m.parquet --out {out}", None),
    ("convert {in} --to csv --out {out}", None),
    ("embed {model} {in} --out {out}", None),
    ("enrol {model} {out} anna {in}", None),
    ("enrol {model} {out} anna a.wav --key-file {in}", None),
    ("enrol {model} s --manifest {in} --report {out}", None),
    ("evaluate {model} {in} --trials t --scores {out}", None),
    ("evaluate {model} m.parquet --trials {in} --scores {out}", None),
    ("evaluate {model} m.parquet --trials t --scores {out} --enrolment-map {in}", None),
    ("evaluate {model} m.parquet --trials t --scores {out} --as-norm {in}", None),
    ("evaluate {model} m.parquet --trials t --scores {model}/config.json", "{model}/config.json"),
    ("export {model} --format onnx --out {out} --check {in}", None),
    ("export {model} --format onnx --out {out} --trials {in} --manifest m", None),
    ("export {model} --format onnx --out {out} --trials t --manifest {in}", None),
    ("identify {model} s --manifest {in} --out {out}", None),
    ("import speechbrain {out} --out {in}", None),
    ("merge a.parquet {in} --out {out}", None),
    ("metrics {in} --det {out}", None),
    ("metrics s --intervals {in} --det {out}", None),
    ("metrics s --intervals m --against {in} --det {out}", None),
    ("pack {in} --out {out}", None),
    ("pack m.parquet --out {out} --order cluster --clusters {in}", None),
    ("prepare csv {in} --out {out}", None),
    ("prepare lhotse s --supervisions {in} --out {out}", None),
    ("prepare voxceleb s --meta {in} --out {out}", None),
    ("prepare voxceleb s --md5 {in} --out {out}", None),
    ("prepare voxceleb s --trials {in} --out {out}", None),
    ("push {model} me/voice --licence MIT --training-data none --dry-run {model}", "{model}/config.json"),
    ("speech {in} --out {out}", None),
    ("split {in} --held-out 1 --out {out} b.parquet", None),
    ("split {in} --held-out 1 --out a.parquet {out}", None),
    ("store export {in} --out {out}", None),
    ("store export s --out {out} --key-file {in}", None),
    ("store re-embed {in} m --out {out}", None),
    ("train --train.start_from {model} --out {model}/..", "{model}/config.json"),
    ("trials {in} --out {out}", None),
]


@pytest.mark.parametrize("how", ["same", "dots", "symlink", "hard link"])
@pytest.mark.parametrize(("line", "precious"), PAIRS)
def test_no_output_is_an_input(bundle, tmp_path, capsys, monkeypatch, line, precious, how):
    monkeypatch.chdir(tmp_path)
    given = tmp_path / "in.parquet"
    given.write_bytes(b"precious")
    out = {"dots": tmp_path / "model" / ".." / given.name}.get(how, given)
    if how == "symlink":
        out = tmp_path / "out.parquet"
        out.symlink_to(given)
    elif how == "hard link":
        out = tmp_path / "out.parquet"
        out.hardlink_to(given)
    values = {"{in}": str(given), "{out}": str(out), "{model}": str(bundle)}
    words = line.split()
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    before = content(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "must be a file of its own" in error or (precious == "{model}/config.json" and "calibrate" in line)
    assert content(tmp_path) == before


def test_every_command_that_writes_is_in_the_table():
    tried = {line.split()[0] for line, _ in PAIRS}
    assert set(COMMANDS) - tried == {
        "augment-preview",
        "compare",
        "completion",
        "configs",
        "demo",
        "report",
        "serve",
        "verify",
    }


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from chns.data.audio import write_audio
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
wave = np.random.default_rng(0).uniform(-0.5, 0.5, 160_000)
path = Path(sys.argv[1])
write_audio(path, wave, sample_rate_hz=16_000)
size = path.stat().st_size
path.unlink()
sys.dont_write_bytecode = True  # a module cut off by the limit would be broken for everybody
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]) or size - 1,) * 2)
try:
    write_audio(path, wave, sample_rate_hz=16_000)
except OSError as error:
    print("told", error)
"""


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".opus"])
@pytest.mark.parametrize("limit", [8_192, 0])
def test_audio_on_a_full_disk_is_an_error_that_names_the_file(tmp_path, suffix, limit):
    """Of Opus only what is missing at the end is not told by its encoder: with 0 the last byte finds no room."""
    path = tmp_path / "disk" / f"a{suffix}"
    (tmp_path / "disk").mkdir()
    told = forked.told(FULL, tmp_path / "said", words=[path, limit], seconds=60)
    assert told.startswith("told")
    assert str(path) in told
    assert list(path.parent.iterdir()) == []


def test_a_folder_under_the_name_of_a_file_is_told(tmp_path):
    with pytest.raises(IsADirectoryError, match="must not be a folder"), atomic_path(tmp_path):
        pass


def test_what_a_killed_process_left_is_removed_and_what_lives_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".a.chns-tmp-{ended.pid}-01234567.pt").touch()
    (tmp_path / f".m.chns-tmp-{ended.pid}-01234567").mkdir()
    (tmp_path / f".model.chns-old-{ended.pid}-01234567").mkdir()
    (tmp_path / f".model.chns-old-{ended.pid}-01234567" / "config.json").touch()
    (tmp_path / ".a.chns-tmp-1-01234567.pt").touch()  # process 1 lives
    (tmp_path / ".a-01234567.pt").touch()  # not ours
    with atomic_path(tmp_path / "b") as temporary:
        temporary.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".a-01234567.pt",
        ".a.chns-tmp-1-01234567.pt",
        "b",
        "model",
    ]
    assert (tmp_path / "model" / "config.json").exists()


def test_both_files_of_a_bundle_have_the_mode_of_the_umask(bundle):
    assert {path.stat().st_mode & 0o777 for path in bundle.iterdir()} == {0o644}


def test_exported_voiceprints_are_for_their_owner(tmp_path):
    with VoiceprintStore.open(tmp_path / "s", model_digest="d", dim=4) as store:
        store.enrol("anna", np.ones((1, 4), np.float32))
        export_voiceprints(store, tmp_path / "e.parquet")
    assert (tmp_path / "e.parquet").stat().st_mode & 0o777 == 0o600


def test_a_store_that_can_only_be_read_is_searched(tmp_path, monkeypatch):
    path = tmp_path / "s"
    with VoiceprintStore.open(path, model_digest="d", dim=4) as store:
        store.enrol("anna", np.ones((1, 4), np.float32))
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    before = content(tmp_path)
    with VoiceprintStore.open_existing(path) as store:
        assert store.names() == ["anna"]
        assert store.identify(np.ones(4, np.float32))[0].name == "anna"
        with pytest.raises(OSError, match="readable and writable"):
            store.enrol("ben", np.ones((1, 4), np.float32))
    assert content(tmp_path) == before
    Path(f"{path}-wal").write_bytes(b"log")
    with pytest.raises(OSError, match="must be closed where it can only be read"):
        VoiceprintStore.open_existing(path)


UPDATES = """
import sys
from chns.bundle.bundle import add_metrics
for number in range(100):
    add_metrics(sys.argv[1], {f"{sys.argv[2]}-{number}": number}, digest=sys.argv[3])
"""


@pytest.mark.slow
def test_concurrent_updates_of_metrics_are_all_kept(bundle):
    digest = load_bundle(bundle).digest
    writers = [subprocess.Popen([sys.executable, "-c", UPDATES, str(bundle), str(n), digest]) for n in range(3)]
    assert [writer.wait(300) for writer in writers] == [0, 0, 0]
    assert len(load_bundle(bundle).metrics) == 300


WRITERS = """
import resource, signal, sys
from pathlib import Path
import numpy as np
import pyarrow as pa
import torch
from chns.bundle.bundle import Architecture, save_bundle
from chns.data.manifest import Manifest
from chns.evaluation.embedder import write_embeddings
from chns.evaluation.scoring import write_scores
from chns.evaluation.trials import Trials, write_trials
from chns.training.log import RunLog
from chns.training.state import save_training

folder = Path(sys.argv[1])
names = [f"{number * 7919 % 10**9:09d}" for number in range(9_000)]
row = {"speaker": "s", "path": "a.wav", "offset_seconds": 0.0, "duration_seconds": 1.0, "sample_rate_hz": 16_000}
manifest = Manifest.from_rows([{"utterance": name, **row} for name in names], root=folder)
trials = Trials(names, names, np.ones(len(names), bool))
tiny = Architecture(
    encoder="chns.encoders.EcapaTdnn",
    encoder_settings={"channels": 16, "aggregation_channels": 24, "embedding_dim": 8},
    feature_settings={"num_mels": 40},
)
model = tiny.build()

def log():
    with RunLog(folder, first_step=0) as lines:
        for step in range(1_000):
            lines.write(step, 0, {"loss": 1.0})

writers = {
    "m.parquet": lambda path: manifest.write(path),
    "m.csv": lambda path: manifest.write(path),
    "e.parquet": lambda path: write_embeddings(path, manifest, np.random.rand(9_000, 8).astype(np.float32)),
    "scores.txt": lambda path: write_scores(path, trials, np.random.rand(9_000)),
    "trials.txt": lambda path: write_trials(path, trials),
    "training.pt": lambda path: save_training(path, {"model": model, "loss": model}, step=1, num_steps=2),
    "model": lambda path: save_bundle(path, model, tiny, training={}, metrics={}),
    "log.csv": lambda path: log(),
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.dont_write_bytecode = True  # a module cut off by the limit would be broken for everybody
resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, 8_192))
for name, write in writers.items():
    try:
        write(folder / name)
        print(name, "WRITTEN")
    except OSError as error:
        print(name, error)
    except BaseException as error:
        print(name, "OTHER", repr(error))
"""


def test_every_file_on_a_full_disk_is_an_error_that_names_it(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    told = forked.told(WRITERS, tmp_path / "said", words=[folder]).splitlines()
    names = ["m.parquet", "m.csv", "e.parquet", "scores.txt", "trials.txt", "training.pt", "model", "log.csv"]
    assert [line.partition(" ")[0] for line in told] == names
    for name, line in zip(names, told, strict=True):
        rule = "written file must fit on the disk and be allowed there"
        assert f"{rule}, got 'File too large' for {folder / name}" in line
    assert [path.name for path in folder.iterdir()] == ["log.csv"]
