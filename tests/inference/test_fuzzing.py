"""Damaged recordings and bundles: an error of ours or a result, never a crash, a hang or memory beyond 1 GiB.

    pytest tests/inference/test_fuzzing.py -m slow --log-cli-level info

uses 1,000 recordings and 200 bundles and says what came of them.
"""

import io
import logging

import mutations
import numpy as np
import pytest
import soundfile
import torch
from fuzz_worker import TINY
from fuzzing import outcomes

from chns.bundle.bundle import save_bundle

FORMATS = {
    ".wav": {"format": "WAV", "subtype": "PCM_16"},
    ".flac": {"format": "FLAC"},
    ".ogg": {"format": "OGG", "subtype": "VORBIS"},
    ".opus": {"format": "OGG", "subtype": "OPUS"},
    ".mp3": {"format": "MP3"},
}
CALIBRATION = {
    "scale": 20.0,
    "offset": -5.0,
    "quality": {"duration": {"smaller": 0.5, "larger": 0.1, "lowest": 0.5, "highest": 60.0}},
    "threshold": 2.2,
    "score_threshold": 0.36,
    "target_trials": 300,
    "nontarget_trials": 4_000,
}
RATES = {"eer": 0.1, "min_dcf": {"0.05": 0.6}, "threshold": 0.3, "target_trials": 400, "nontarget_trials": 1_600}


@pytest.fixture(scope="module")
def recordings():
    """One undamaged file a format, by suffix."""
    sound = (0.1 * np.random.default_rng(0).normal(size=24_000)).astype(np.float32)
    files = {}
    for suffix, form in FORMATS.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, sound, 16_000, **form)
        files[suffix] = buffer.getvalue()
    return {**files, **_aac(sound)}


def _aac(sound):
    av = pytest.importorskip("av")
    files = {}
    for suffix, container in ((".m4a", "mp4"), (".aac", "adts")):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container) as output:
            stream = output.add_stream("aac", rate=16_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.sample_rate = 16_000
            for packet in (*stream.encode(frame), *stream.encode(None)):
                output.mux(packet)
        files[suffix] = buffer.getvalue()
    return files


def damaged_recordings(recordings, folder, *, count, seed):
    rng = np.random.default_rng(seed)
    suffixes = list(recordings)
    for number in range(count):
        suffix = suffixes[number % len(suffixes)]
        content = mutations.damaged_bytes(rng, recordings[suffix])
        if rng.random() < 0.05:  # a file of another kind, under a wrong name
            suffix = suffixes[rng.integers(len(suffixes))]
        path = folder / f"{number}{suffix}"
        path.write_bytes(content)
        yield path.name, path
        path.unlink()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bundle") / "model"
    metrics = {"validation": RATES, "calibration": CALIBRATION}
    settings = {"loss": {"factory": "chns.losses.SupConLoss"}, "batches": {"kind": "random"}}
    save_bundle(folder, TINY.build(), TINY, training={"speakers": 7, "settings": settings}, metrics=metrics)
    return folder


def damaged_bundles(bundle, folder, *, count, seed):
    rng = np.random.default_rng(seed)
    for number in range(count):
        copy = mutations.fresh_copy(bundle, folder / "model")
        yield f"{number} ({mutations.damage_bundle(rng, copy)})", copy


@pytest.mark.slow
def test_a_thousand_damaged_recordings_give_a_result_or_an_error_of_ours(recordings, tmp_path):
    whole = [tmp_path / f"whole{suffix}" for suffix in recordings]
    for path, content in zip(whole, recordings.values(), strict=True):
        path.write_bytes(content)
    assert len(whole) == 7
    found = outcomes("audio", damaged_recordings(recordings, tmp_path, count=1_000, seed=2), undamaged=whole)
    logging.info("1,000 recordings: %s", dict(found.counts))
    assert found.violations == []
    assert found.counts["result"] > 50
    assert found.counts["error"] > 50


@pytest.mark.slow
def test_two_hundred_damaged_bundles_give_a_result_or_an_error_of_ours(bundle, tmp_path):
    found = outcomes("bundle", damaged_bundles(bundle, tmp_path, count=200, seed=2), undamaged=[bundle])
    logging.info("200 bundles: %s", dict(found.counts))
    assert found.violations == []
    assert found.counts["error"] > 100


@pytest.mark.slow
def test_the_judge_sees_what_must_not_happen():
    verdicts = {
        "hang": "a hang of more than 2 s",
        "crash": "a crash, exit code -6",
        "refused memory": "MemoryError",
        "granted memory": "MiB of memory",
        "foreign error": "ZeroDivisionError",
    }
    found = outcomes("fault", [(name, name) for name in (*verdicts, "error", "result")], seconds=2)
    assert found.counts == {"violation": 5, "error": 1, "result": 1}
    for (name, verdict), violation in zip(verdicts.items(), found.violations, strict=True):
        assert violation.startswith(f"{name}: ")
        assert verdict in violation
