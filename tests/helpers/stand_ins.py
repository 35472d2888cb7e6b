"""Everything that the commands of the documentation name, small: corpora, lists, runs, models, stores, recordings.

    python stand_ins.py FOLDER

Paths such as /data/voxceleb2 are made below the folder, at data/voxceleb2.
"""

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import lhotse
import numpy as np
import soundfile
import torch
from aac_files import write_aac
from datasets import Dataset
from foreign_models import speechbrain_state, wespeaker_resnet_state
from lhotse.shar import SharWriter
from made_corpus import RATE, voice
from voxceleb_archives import checksums, zipped

from chns.cli import main
from chns.data.audio import write_audio
from chns.data.corpora.lhotse import write_lhotse
from chns.data.corpora.list_formats import write_wespeaker
from chns.data.manifest import Manifest

SPEAKERS = [f"id1{number:04d}" for number in range(60)]
UTTERANCES = 4
SMALL = """
data: {crop_seconds: 0.5, num_workers: 0, held_out_speakers: 2}
batches: {speakers_per_batch: 4, steps_per_epoch: 2}
clusters: {start_epoch: 1, num_clusters: 3, utterances_per_centroid: 2, crop_seconds: 0.5}
train: {epochs: 2, device: cpu, log_every_steps: 2, validation_trials: 40}
"""
COMPARISON = """
base:
  data: {train: train.parquet, crop_seconds: 0.5, num_workers: 0, held_out_speakers: 0}
  encoder:
    factory: chns.encoders.EcapaTdnn
    settings: {channels: 16, aggregation_channels: 48, res2net_scale: 4, se_bottleneck: 8, attention_channels: 8}
  batches: {speakers_per_batch: 8, steps_per_epoch: 10}
  clusters: {start_epoch: 1, num_clusters: 3, crop_seconds: 0.5}
  optimizer: {learning_rate: 0.005}  # as much as makes targets score above non-targets, which calibration asks for
  train: {epochs: 2, device: cpu, log_every_steps: 10}
strategies: {supcon: {}, chns: {batches: {kind: clustered}}}
seeds: [0]
trial_lists: {test: {manifest: test.parquet, trials: trials.txt}}
"""


def run(*words: object) -> None:
    if code := main([str(word) for word in words]):
        raise SystemExit(f"exit code {code}: chns {' '.join(map(str, words))}")


def tone(speaker: int, seconds: float) -> np.ndarray:
    """By which speakers are told apart: pitch, and how often it swells."""
    times = np.arange(round(seconds * RATE)) / RATE
    swelling = 0.5 + 0.5 * np.sin(2 * np.pi * (2 + speaker % 5) * times)
    return (0.2 * swelling * np.sin(2 * np.pi * 200 * 1.03**speaker * times)).astype(np.float32)


def rows(folder: Path, speakers: list[str], *, first: int = 0) -> list[dict]:
    """Recordings SPEAKER/VIDEO/NUMBER.wav, two videos each, and their rows."""
    made = []
    for number, speaker in enumerate(speakers):
        for utterance in range(UTTERANCES):
            name = f"{speaker}/v{utterance % 2}/{utterance:05d}"
            seconds = 1.0 + 0.1 * utterance
            sound = voice((first + number, utterance), seconds) + tone(first + number, seconds)
            write_audio(folder / f"{name}.wav", sound, sample_rate_hz=RATE)
            row = {"utterance": f"{name}.wav", "speaker": speaker, "path": f"{name}.wav", "offset_seconds": 0.0}
            row |= {"duration_seconds": seconds, "sample_rate_hz": RATE, "session": f"{speaker}/v{utterance % 2}"}
            row |= {"gender": "fm"[number % 2], "nationality": "xy"[number // 2 % 2], "language": "uv"[number % 2]}
            made.append(row | {"family": f"f{number // 6}"})
    return made


def corpora() -> dict[str, Manifest]:
    """Manifests by name, and folders of corpora as they are found."""
    trained = rows(Path("data/voxceleb2/dev/wav"), SPEAKERS)
    others = rows(Path("data/voxceleb1/wav"), [name.replace("id1", "id2") for name in SPEAKERS[:24]], first=60)
    manifests = {
        "vox2": Manifest.from_rows(trained, root=Path("data/voxceleb2/dev/wav")),
        "vox1": Manifest.from_rows(others, root=Path("data/voxceleb1/wav")),
    }
    manifests |= dict.fromkeys(("train", "vox", "all", "manifest", "part1", "moved/vox2"), manifests["vox2"])
    manifests |= dict.fromkeys(("test", "dev", "cnceleb", "own", "mine", "commands"), manifests["vox1"])
    manifests["part1"] = manifests["vox2"].take(range(0, 240, 2))
    manifests["part2"] = manifests["vox2"].take(range(1, 240, 2))
    manifests |= {"a/train": manifests["vox2"], "b/train": manifests["vox1"], "vox2.clean": manifests["vox1"]}
    manifests |= dict.fromkeys(("people", "calls", "recordings"), manifests["vox1"].take(range(12)))
    for name, manifest in manifests.items():
        manifest.write(Path(f"{name}.parquet"))
    run("prepare", "synthetic", "voices", "--speakers", 4, "--utterances", 3, "--families", 2)  # which holds speech
    manifests["mine"] = Manifest.read("voices/manifest.parquet")
    manifests["mine"].write(Path("mine.parquet"))
    run("pack", "vox2.parquet", "--out", "data/vox2-shards")
    for number, source in enumerate(sorted(Path("data/voxceleb1/wav").rglob("*.wav"))[:40]):
        for target in (f"recordings/s{number // 4}/{number}.wav", f"flat/{'abcdefghij'[number // 4]}_{number}.wav",
                       f"data/speech_commands/word{number % 3}/{number // 4:08x}_nohash_{number % 4}.wav"):  # fmt: skip
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return manifests


def lists(manifests: dict[str, Manifest]) -> None:
    """The same corpus in the formats of other tools, and trial lists."""
    few = manifests["vox1"]
    here = f"{Path('data').resolve()}/"  # commands run elsewhere, so that lists name files below --root
    run("convert", "test.parquet", "--to", "kaldi", "--out", "data/train")
    shutil.copytree("data/voxceleb1/wav", "data/audio")
    scp = Path("data/train/wav.scp")
    scp.write_text(scp.read_text().replace(f"{here}voxceleb1/wav/", ""))
    write_lhotse(few, Path("lhotse"))
    for name in ("recordings", "supervisions", "cuts"):
        entries = gzip.decompress(Path(f"lhotse/{name}.jsonl.gz").read_bytes()).decode()
        Path(f"{name}.jsonl.gz").write_bytes(gzip.compress(entries.replace(here, "").encode()))
    write_wespeaker(few, Path("raw.list"))
    Path("raw.list").write_text(Path("raw.list").read_text().replace(here, ""))
    utterances = [(few[row], few.table["path"][row].as_py()) for row in range(len(few))]
    Path("train.csv").write_text(
        "ID,duration,wav,start,stop,spk_id\n"
        + "".join(f"{u.name},{u.duration_seconds},$data_root/voxceleb1/wav/{p},,,{u.speaker}\n" for u, p in utterances)
    )
    Path("people.csv").write_text(
        "file,who\n" + "".join(f"data/voxceleb1/wav/{p},{u.speaker}\n" for u, p in utterances)
    )
    entries = [
        {"audio_filepath": f"voxceleb1/wav/{p}", "duration": u.duration_seconds, "label": u.speaker}
        for u, p in utterances
    ]
    Path("train.json").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    data_set = {"audio": [{"path": None, "bytes": u.path.read_bytes()} for u, _ in utterances]}
    Dataset.from_dict(data_set | {"speaker_id": [u.speaker for u, _ in utterances]}).to_parquet(
        "data/train/train.parquet"
    )
    run(
        "trials", "vox1.parquet", "--out", "veri_test2.txt", "--targets", 3, "--nontargets", 200, "--format", "voxceleb"
    )
    for name in ("list_test_hard2", "list_test_all2", "trials", "dev", "test", "hard", "random"):
        shutil.copyfile("veri_test2.txt", f"{name}.txt")
    pairs = [line.split() for line in Path("veri_test2.txt").read_text().splitlines()]
    Path("trials.lst").write_text("".join(f"{enrol}-e {test} {label}\n" for label, enrol, test in pairs))
    Path("enroll.map").write_text("".join(f"{enrol}-e {enrol}\n" for enrol in {enrol for _, enrol, _ in pairs}))
    for subset, speakers in (("dev", few.speakers[:4]), ("eval", few.speakers[4:8])):
        _cnceleb(Path("CN-Celeb_flac"), subset, speakers)


def tars(few: Manifest) -> None:
    """Tars that other tools have packed: of WebDataset, WeSpeaker and Lhotse."""
    samples = [few[row] for row in range(12)]
    for path, suffix in (("emilia/0.tar", "json"), ("tars/0.tar", "json"), ("data/0.tar", "spk")):
        Path(path).parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as shard:
            for number, one in enumerate(samples):
                told = json.dumps({"speaker": one.speaker}) if suffix == "json" else one.speaker
                for ending, content in ((suffix, told.encode()), ("wav", one.path.read_bytes())):
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
    Path("shard.list").write_text("0.tar\n")
    cuts = lhotse.CutSet.from_jsonl("lhotse/cuts.jsonl.gz").subset(first=12)
    Path("shar").mkdir()
    with SharWriter("shar", fields={"recording": "wav"}, shard_size=6) as writer:
        for cut in cuts:
            writer.write(cut)


def _cnceleb(root: Path, subset: str, speakers: list[str]) -> None:
    own = [f"id0{number:04d}" for number in range(len(speakers) * (2 if subset == "eval" else 1))][-len(speakers) :]
    for number, speaker in enumerate(own):
        for kind, utterance in (("enroll", "enroll"), ("test", "singing-01-001"), ("data", "singing-01-002")):
            name = f"{kind}/{speaker}/{utterance}" if kind == "data" else f"eval/{kind}/{speaker}-{utterance}"
            if (kind == "data") == (subset == "dev"):
                write_audio(root / f"{name}.flac", voice((number, 9), 1.5), sample_rate_hz=RATE)
    if subset == "dev":
        (root / "dev").mkdir()
        (root / "dev/dev.lst").write_text("".join(f"{speaker}\n" for speaker in own))
        return
    (root / "eval/lists").mkdir()
    (root / "eval/lists/enroll.map").write_text("".join(f"{s}-enroll {s}/singing-01-001.wav\n" for s in own))
    (root / "eval/lists/enroll.lst").write_text("".join(f"{s}-enroll enroll/{s}-enroll.wav\n" for s in own))
    (root / "eval/lists/trials.lst").write_text(
        "".join(f"{own[0]}-enroll test/{s}-singing-01-001.wav {int(s == own[0])}\n" for s in own)
    )


def downloads() -> None:
    """VoxCeleb2 as it is downloaded: archives of AAC, their checksums, the table."""
    files = {}
    for speaker in ("id00012", "id00015"):
        for number in range(2):
            path = write_aac(Path("one.m4a"), voice((int(speaker[2:]), number), 1.5), RATE)
            files[f"dev/aac/{speaker}/v{number}/00001.m4a"] = path.read_bytes()
    Path("one.m4a").unlink()
    for folder in ("downloads", "downloads/vox2"):
        checksums(Path("vox2.md5"), [zipped(Path(folder) / "vox2_dev_aac.zip", files)])
    shutil.copyfile("vox2.md5", "downloads/vox2.md5")
    table = "VoxCeleb2 ID \tVGGFace2 ID \tGender \tSet \nid00012 \tn0 \tf \tdev \nid00015 \tn1 \tm \tdev \n"
    Path("vox2_meta.csv").write_text(table)


def models() -> None:
    """Weights of other toolkits, trained runs, a comparison, scores and stores."""
    torch.manual_seed(0)
    for name, state in (
        ("embedding_model.ckpt", speechbrain_state()),
        ("avg_model.pt", wespeaker_resnet_state(channels=4)),
    ):
        torch.save(dict(state), name)
    run("import", "speechbrain", "embedding_model.ckpt", "--out", "ecapa")
    Path("compare.yaml").write_text(COMPARISON)
    Path("small.yaml").write_text(SMALL)
    run("compare", "compare.yaml", "--out", "runs/comparison")
    for name, strategy in (("supcon", "supcon"), ("chns", "chns"), ("tuned", "chns"), ("new", "supcon")):
        shutil.copytree(f"runs/comparison/{strategy}/seed-0", f"runs/{name}")
    shutil.copyfile("runs/chns/clusters/epoch-0001.safetensors", "runs/chns/clusters/epoch-0002.safetensors")
    run("calibrate", "runs/chns/model", "dev.parquet", "--trials", "dev.txt", "--false-alarm", 0.1)
    for name in ("MODEL", "models/ecapa"):
        shutil.copytree("runs/chns/model", name)
    run("evaluate", "runs/chns/model", "vox1.parquet", "--trials", "veri_test2.txt", "--out", "scores.txt")
    for name in ("new", "old", "other", "calibrated"):
        shutil.copyfile("scores.txt", f"{name}.txt")
    Path("musan/noise").mkdir(parents=True)
    write_audio(Path("musan/noise/n.wav"), voice(99, 3.0), sample_rate_hz=RATE)


def people() -> None:
    """Recordings of a few people, and stores of their voiceprints."""
    sources = sorted(Path("data/voxceleb1/wav").rglob("*.wav"))
    for name, source in zip(("a", "b", "anna-1", "anna-2", "anna-3", "who"), sources, strict=False):
        shutil.copyfile(source, f"{name}.wav")
    soundfile.write("somebody.mp3", voice(7, 2.0), RATE)
    Path("key.txt").write_text("a long enough key of a store\n")
    Path("keys.txt").write_text(f"me {'k' * 32}\n")
    run("enrol", "runs/chns/model", "people.store", "--manifest", "vox2.parquet")
    run("enrol", "runs/chns/model", "people.store", "anna", "anna-1.wav")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    manifests = corpora()
    lists(manifests)
    tars(manifests["vox1"])
    downloads()
    models()
    people()
