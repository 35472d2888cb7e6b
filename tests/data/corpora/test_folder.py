"""Folders of a user's own."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from chns.core.errors import ManifestError
from chns.data.corpora.any_folder import prepare_folder


def corpus(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(16_000, np.int16), 16_000)
    return root


def test_the_first_folder_is_the_speaker(tmp_path):
    corpus(tmp_path, "0001/1.wav", "0001/day 2/1.flac", "alice/1.ogg", "loose.wav")
    result = prepare_folder(tmp_path)
    assert result.manifest.speakers == ["0001", "alice"]
    assert result.manifest.column("utterance") == ["0001/1", "0001/day 2/1", "alice/1"]
    assert [path for path, _ in result.rejected] == ["loose.wav"]


@pytest.mark.parametrize("pattern", [r"(?P<speaker>[a-z]+)_\d+\.", r"([a-z]+)_\d+", r"(x/)?(?P<speaker>[a-z]+)_"])
def test_the_speaker_is_the_named_group_or_the_first(tmp_path, pattern):
    corpus(tmp_path, "x/alice_1.wav", "x/alice_2.wav", "x/bob_1.wav", "x/007.wav")
    result = prepare_folder(tmp_path, speaker_pattern=pattern)
    assert result.manifest.column("speaker") == ["alice", "alice", "bob"]
    assert result.rejected == [("x/007.wav", f"path must match {pattern} to name the speaker")]


@pytest.mark.parametrize("pattern", [r"(b)?1\.wav", r"(x*)1\.wav"])
def test_a_group_without_text_names_nobody(tmp_path, pattern):
    corpus(tmp_path, "b1.wav", "x1.wav")
    assert len(prepare_folder(tmp_path, speaker_pattern=pattern).rejected) == 1


def test_a_pattern_that_names_nobody_at_all_is_an_error(tmp_path):
    corpus(tmp_path, "a/1.wav")
    with pytest.raises(ManifestError, match=r"none of 1 .*a/1\.wav: path must match \(z\)"):
        prepare_folder(tmp_path, speaker_pattern="(z)")


def test_a_bad_pattern_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"speaker pattern must be a regular expression, got \(a "):
        prepare_folder(tmp_path, speaker_pattern="(a")
    with pytest.raises(ValueError, match=r"speaker pattern must have a group around the speaker's name, got a\+"):
        prepare_folder(tmp_path, speaker_pattern="a+")


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match=r"corpus must hold recordings in one of \.wav, .*got none in"):
        prepare_folder(tmp_path)
