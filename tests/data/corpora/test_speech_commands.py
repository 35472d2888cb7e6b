"""Speech Commands' folders of words."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from chns.core import ManifestError
from chns.data.corpora.any_folder import prepare_speech_commands


def record(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(16_000, np.int16), 16_000)


def test_the_speaker_is_what_comes_before_nohash(tmp_path):
    for name in ["bed/0a7c2a8d_nohash_0", "bed/0a7c2a8d_nohash_1", "cat/0a7c2a8d_nohash_0", "cat/x_y_nohash_12"]:
        record(tmp_path / f"{name}.wav")
    manifest = prepare_speech_commands(tmp_path).manifest
    assert manifest.speakers == ["0a7c2a8d", "x_y"]
    assert manifest.column("utterance")[0] == "bed/0a7c2a8d_nohash_0"
    assert "session" not in manifest.column_names


def test_background_noise_is_passed_over_and_other_names_are_rejected(tmp_path):
    for name in ["bed/a_nohash_0", "_background_noise_/pink_noise", "bed/other", "bed/a_nohash_x", "a_nohash_1"]:
        record(tmp_path / f"{name}.wav")
    result = prepare_speech_commands(tmp_path)
    assert result.manifest.column("utterance") == ["bed/a_nohash_0"]
    assert [path for path, _ in result.rejected] == ["a_nohash_1.wav", "bed/a_nohash_x.wav", "bed/other.wav"]
    assert {reason for _, reason in result.rejected} == {"path must be WORD/SPEAKER_nohash_N"}


@pytest.mark.parametrize("source", [".", "corpus/bed", "empty"])
def test_another_layout_is_explained(tmp_path, source):
    record(tmp_path / "corpus" / "bed" / "a_nohash_0.wav")
    (tmp_path / "empty").mkdir()
    found = "no recordings at all" if source == "empty" else "1 other recordings, as"
    with pytest.raises(ManifestError, match=rf"must hold WORD/SPEAKER_nohash_N\.wav, got {found} .*one folder a word"):
        prepare_speech_commands(tmp_path / source)


@pytest.mark.slow
def test_the_shared_corpus_is_complete(shared_data):
    result = prepare_speech_commands(shared_data / "speech-commands-mini")
    assert (len(result.manifest.speakers), len(result.manifest), result.rejected) == (1_734, 5_173, [])
    assert np.count_nonzero(np.bincount(result.manifest.speaker_labels) >= 2) == 1_470
