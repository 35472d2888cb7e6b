"""Streams in chunks of any size, against the same stream at once and against the verifier itself."""

import tracemalloc

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chns.bundle.bundle import Architecture, Bundle
from chns.core import AudioError
from chns.data.audio import read_audio
from chns.inference.streaming import StreamingIdentifier, StreamingVerifier
from chns.inference.verifier import Verifier
from chns.store.voiceprints import VoiceprintStore

RATE = 16_000


@pytest.fixture(scope="module")
def verifier():
    torch.manual_seed(0)
    encoder_settings = {"channels": 16, "aggregation_channels": 24, "embedding_dim": 8}
    architecture = Architecture(encoder="chns.encoders.EcapaTdnn", encoder_settings=encoder_settings)
    network = architecture.build()
    with torch.no_grad():
        network(torch.randn(8, 8_000))
    return Verifier(Bundle(network.eval(), architecture, "d" * 64, training={}, metrics={}), threshold=0.5)


def noise(seconds, seed=0, rate=RATE):
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def voice(seconds, pitch_hz, rate=RATE):
    times = np.arange(round(seconds * rate)) / rate
    waves = [np.sin(2 * np.pi * pitch_hz * number * times) / number for number in range(1, 12)]
    return (0.2 * np.sum(waves, axis=0) + noise(seconds, 9, rate) / 50).astype(np.float32)


def embedded(verifier, waveform):
    return verifier.embed(waveform, RATE).vector


def cut(signal, sizes):
    """The signal in chunks of these sizes, over and over."""
    first, number = 0, 0
    while first < len(signal):
        yield signal[first : first + sizes[number % len(sizes)]]
        first, number = first + sizes[number % len(sizes)], number + 1


chunk_sizes = st.lists(st.integers(0, 9_000), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 2_000)


@settings(max_examples=6, deadline=None)
@given(sizes=chunk_sizes, rate=st.sampled_from([8_000, 16_000, 44_100, 48_000]), channels=st.sampled_from([1, 2]))
def test_the_chunks_of_a_stream_do_not_matter(verifier, sizes, rate, channels):
    signal = np.concatenate([noise(0.7, 1, rate), np.zeros(rate, np.float32), voice(0.8, 150, rate)])
    if channels == 2:
        signal = np.stack([signal, signal[::-1]], axis=1)
    windows = {"sample_rate_hz": rate, "window_seconds": 0.4, "hop_seconds": 0.15}
    claimed = embedded(verifier, noise(1, 1))

    at_once = StreamingVerifier(verifier, claimed, **windows).feed(signal)
    stream = StreamingVerifier(verifier, claimed, **windows)
    assert [stream.feed(chunk) for chunk in cut(signal, sizes)][-1] == pytest.approx(at_once, abs=1e-5)

    people = {"noise": claimed, "hum": embedded(verifier, voice(1, 150))}
    all_heard = StreamingIdentifier(verifier, people, **windows).feed(signal)
    stream = StreamingIdentifier(verifier, people, **windows)
    heard = [window for chunk in cut(signal, sizes) for window in stream.feed(chunk)]
    assert [(one.start_seconds, one.end_seconds, one.speaker) for one in heard] == [
        (one.start_seconds, one.end_seconds, one.speaker) for one in all_heard
    ]
    assert [[match.name for match in one.matches] for one in heard] == [
        [match.name for match in one.matches] for one in all_heard
    ]


def test_the_running_score_is_that_of_the_mean_of_all_windows(verifier):
    signal, claimed = np.concatenate([noise(2), voice(2, 120)]), embedded(verifier, voice(1, 120))
    stream = StreamingVerifier(verifier, 7 * claimed, sample_rate_hz=RATE, window_seconds=1, hop_seconds=0.5)
    scores = [stream.feed(chunk) for chunk in cut(signal, [RATE // 2])]
    assert scores[0] is None
    total = np.zeros(8)
    for number, score in enumerate(scores[1:]):
        total += embedded(verifier, signal[number * RATE // 2 : number * RATE // 2 + RATE])
        assert score == pytest.approx(total @ claimed / np.linalg.norm(total), abs=1e-5)
    assert stream.score == scores[-1]
    assert stream.feed(np.empty(0, np.float32)) == scores[-1]


def test_a_stream_of_another_rate_scores_as_the_resampled_one(verifier):
    signal = soxr.resample(voice(3, 200), RATE, 48_000)
    stream = StreamingVerifier(verifier, embedded(verifier, noise(1)), sample_rate_hz=48_000, window_seconds=1)
    direct = StreamingVerifier(verifier, embedded(verifier, noise(1)), sample_rate_hz=RATE, window_seconds=1)
    assert stream.feed(signal) == pytest.approx(direct.feed(voice(3, 200)[: -RATE // 2]), abs=0.02)


def test_silence_says_nothing(verifier):
    claimed = embedded(verifier, noise(1))
    stream = StreamingVerifier(verifier, claimed, sample_rate_hz=RATE, window_seconds=0.5, hop_seconds=0.5)
    silence = np.zeros(5 * RATE, np.int16)
    assert stream.feed(silence) is None
    score = stream.feed(noise(1))
    assert stream.feed(silence) == score
    identifier = StreamingIdentifier(verifier, {"a": claimed}, sample_rate_hz=RATE, window_seconds=1, hop_seconds=1)
    assert [(heard.speaker, heard.matches) for heard in identifier.feed(silence)] == [(None, [])] * 5


def test_who_speaks_is_known_window_by_window(verifier):
    people = {"low": voice(2, 90), "high": voice(2, 350), "hiss": noise(2)}
    vectors = {name: embedded(verifier, waveform) for name, waveform in people.items()}
    identifier = StreamingIdentifier(verifier, vectors, sample_rate_hz=RATE, window_seconds=1, hop_seconds=1, top=2)
    heard = identifier.feed(np.concatenate([people["high"], people["hiss"], people["low"]]))
    assert [one.speaker for one in heard] == ["high", "high", "hiss", "hiss", "low", "low"]
    assert [(one.start_seconds, one.end_seconds) for one in heard] == [(start, start + 1) for start in range(6)]
    assert all(len(one.matches) == 2 and one.matches[0].score >= one.matches[1].score for one in heard)


def test_a_stranger_is_nobody(verifier):
    stranger = embedded(verifier, voice(2, 90))
    opposite = {"nobody like this": -stranger}
    [heard] = StreamingIdentifier(verifier, opposite, sample_rate_hz=RATE).feed(voice(3, 90))
    assert heard.speaker is None
    assert heard.matches[0].name == "nobody like this"


def test_a_store_is_searched_as_voiceprints_in_memory_are(verifier, tmp_path):
    vectors = {"low": embedded(verifier, voice(2, 90)), "hiss": embedded(verifier, noise(2))}
    with VoiceprintStore.open(tmp_path / "s", model_digest=verifier.model_digest, dim=verifier.dim) as store:
        empty = StreamingIdentifier(verifier, store, sample_rate_hz=RATE)
        assert [heard.matches for heard in empty.feed(noise(3))] == [[]]
        for name, vector in vectors.items():
            store.enrol(name, vector[None])
        [stored] = StreamingIdentifier(verifier, store, sample_rate_hz=RATE).feed(noise(3))
    [in_memory] = StreamingIdentifier(verifier, vectors, sample_rate_hz=RATE).feed(noise(3))
    assert stored.speaker == in_memory.speaker == "hiss"
    assert [match.name for match in stored.matches] == [match.name for match in in_memory.matches]


def test_memory_does_not_grow_with_the_stream(verifier):
    stream = StreamingVerifier(verifier, np.ones(8, np.float32), sample_rate_hz=RATE, window_seconds=1, hop_seconds=1)
    second = np.zeros(RATE, np.int16)
    stream.feed(second)
    tracemalloc.start()
    for _ in range(600):
        stream.feed(second)
    kept_bytes, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 2e5  # a window has 64 kB, the stream 38 MB
    assert peak_bytes < 2e6


def test_a_bad_chunk_is_refused_and_not_heard(verifier):
    stream = StreamingVerifier(verifier, np.ones(8, np.float32), sample_rate_hz=RATE, window_seconds=1)
    with pytest.raises(AudioError, match="samples must be finite"):
        stream.feed(np.full(2 * RATE, np.nan))
    with pytest.raises(ValueError, match="samples must be int16, or floating point"):
        stream.feed(np.zeros(2 * RATE, np.int64))
    direct = StreamingVerifier(verifier, np.ones(8, np.float32), sample_rate_hz=RATE, window_seconds=1)
    assert stream.feed(noise(1)) == pytest.approx(direct.feed(noise(1)), abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sample_rate_hz": 100}, "sample_rate_hz must be an integer between 4000 and 384000, got 100"),
        ({"window_seconds": 0.05}, "window_seconds must be 0.1 to 30, got 0.05"),
        ({"window_seconds": 31}, "window_seconds must be 0.1 to 30, got 31"),
        ({"window_seconds": float("nan")}, "window_seconds must be 0.1 to 30, got nan"),
        ({"hop_seconds": 0}, "hop_seconds must be 0.01 to window_seconds, 3, got 0"),
        ({"hop_seconds": 3.5}, "hop_seconds must be 0.01 to window_seconds, 3, got 3.5"),
    ],
)
def test_settings_out_of_range_are_refused(verifier, wrong, message):
    with pytest.raises(ValueError, match=message):
        StreamingVerifier(verifier, np.ones(8, np.float32), **{"sample_rate_hz": RATE, **wrong})
    with pytest.raises(ValueError, match=message):
        StreamingIdentifier(verifier, {"a": np.ones(8, np.float32)}, **{"sample_rate_hz": RATE, **wrong})


def test_voiceprints_that_are_none_are_refused(verifier):
    for vector in (np.ones(7, np.float32), np.zeros(8, np.float32), np.full(8, np.nan)):
        with pytest.raises(ValueError, match="embeddings must"):
            StreamingVerifier(verifier, vector, sample_rate_hz=RATE)
        with pytest.raises(ValueError, match="embeddings must"):
            StreamingIdentifier(verifier, {"a": vector}, sample_rate_hz=RATE)
    with pytest.raises(ValueError, match="speakers must hold at least one voiceprint, got none"):
        StreamingIdentifier(verifier, {}, sample_rate_hz=RATE)
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        StreamingIdentifier(verifier, {"a": np.ones(8)}, sample_rate_hz=RATE, top=0)


def test_a_real_voice_is_followed(verifier, shared_data):
    folders = sorted((shared_data / "speechocean762-train" / "WAVE").iterdir())
    one, other = (np.concatenate([read_audio(file) for file in sorted(folder.iterdir())[:4]]) for folder in folders[:2])
    claimed = embedded(verifier, one[: len(one) // 2])
    scores = []
    for speech in (one[len(one) // 2 :], other):
        stream = StreamingVerifier(verifier, claimed, sample_rate_hz=RATE)
        scores.append([stream.feed(chunk) for chunk in cut(speech, [1_600])][-1])
    assert scores[0] > scores[1]
