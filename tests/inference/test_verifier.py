"""Embedding and verifying with small random models, on hums and on real speech."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from chns.bundle.bundle import Architecture, Bundle, load_bundle, save_bundle
from chns.core import AudioError, ModelFileError
from chns.data.audio import read_audio, write_audio
from chns.inference.verifier import Verifier
from chns.store.voiceprints import VoiceprintStore

RATE = 16_000
CALIBRATED = {"scale": 10, "offset": -4.0, "threshold": 3.0, "score_threshold": 0.7}
DURATION = {"duration": {"smaller": -2.0, "larger": 0.5, "lowest": 0.1, "highest": 100.0}}


@pytest.fixture(scope="module")
def bundle():
    torch.manual_seed(0)
    settings = {"channels": 16, "aggregation_channels": 24, "embedding_dim": 8}
    architecture = Architecture(encoder="chns.encoders.EcapaTdnn", encoder_settings=settings)
    network = architecture.build()
    with torch.no_grad():
        network(torch.randn(8, 8_000))
    return Bundle(network.eval(), architecture, "d" * 64, training={}, metrics={"validation": {"threshold": 0.25}})


@pytest.fixture(scope="module")
def verifier(bundle):
    return Verifier(bundle)


@pytest.fixture(scope="module")
def hums(hum_manifest):
    return sorted(hum_manifest.parent.rglob("*.flac"))


def noise(seconds, seed=0, level=0.1):
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def cosine(one, other):
    return float(one.vector @ other.vector)


def test_an_embedding_is_the_models_at_unit_length(bundle, verifier, hums):
    embedding = verifier.embed(hums[0])
    with torch.no_grad():
        expected = bundle.model(torch.from_numpy(read_audio(hums[0]))[None])[0].numpy()
    np.testing.assert_allclose(embedding.vector, expected / np.linalg.norm(expected), atol=1e-6)
    assert embedding.magnitude == pytest.approx(np.linalg.norm(expected))
    assert embedding.vector.dtype == np.float32
    assert embedding.vector.shape == (verifier.dim,) == (8,)
    assert (verifier.sample_rate_hz, verifier.model_digest) == (RATE, "d" * 64)


@pytest.mark.parametrize("form", [np.int16, np.float32, np.float64])
def test_an_array_is_embedded_as_the_file_it_was_read_from(verifier, hums, form):
    samples, rate = soundfile.read(hums[0], dtype=np.dtype(form).name)
    np.testing.assert_allclose(verifier.embed(samples, rate).vector, verifier.embed(str(hums[0])).vector, atol=1e-6)
    stereo = np.stack([samples, samples], axis=1)
    np.testing.assert_allclose(verifier.embed(stereo, rate).vector, verifier.embed(hums[0]).vector, atol=1e-5)


def test_another_rate_changes_a_real_voice_little(verifier, shared_data):
    file = min((shared_data / "voxceleb2-mini").rglob("*.flac"))
    faster = read_audio(file, sample_rate_hz=44_100)
    assert cosine(verifier.embed(faster, 44_100), verifier.embed(file)) > 0.999


def test_a_long_recording_is_the_mean_of_its_windows(verifier, tmp_path):
    first, second = noise(20, 1), np.convolve(noise(20, 2), np.ones(4), "same")
    whole = verifier.embed(np.concatenate([first, second]), RATE)
    parts = [verifier.embed(part, RATE) for part in (first, second)]
    mean = parts[0].vector + parts[1].vector
    np.testing.assert_allclose(whole.vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert whole.magnitude == pytest.approx((parts[0].magnitude + parts[1].magnitude) / 2)
    assert whole.quality.duration_seconds == 40
    write_audio(tmp_path / "long.flac", np.concatenate([first, second]), sample_rate_hz=RATE)
    assert cosine(verifier.embed(tmp_path / "long.flac"), whole) > 0.9999


def test_silent_windows_do_not_count(verifier):
    speech = noise(30)
    padded = verifier.embed(np.concatenate([speech, np.zeros(60 * RATE, np.float32)]), RATE)
    np.testing.assert_allclose(padded.vector, verifier.embed(speech, RATE).vector, atol=1e-6)
    assert padded.quality.silent_share == pytest.approx(2 / 3)


@pytest.mark.slow
def test_an_hour_takes_little_more_memory_than_a_minute(verifier, tmp_path):
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", RATE, 1) as file:
        for _ in range(60):
            file.write(np.zeros(60 * RATE, np.float32))
        file.write(noise(29))
    tracemalloc.start()
    embedding = verifier.embed(tmp_path / "hour.flac")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert embedding.quality.duration_seconds == pytest.approx(3_629, abs=0.1)
    assert 2e6 < peak_bytes < 2e7  # a window has 1.9 MB, the hour 232 MB


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.empty(0, np.float32), "recording must hold at least 0.1 s, got 0.000 s in an array"),
        (noise(0.099), "recording must hold at least 0.1 s, got 0.099 s in an array"),
        (np.zeros(RATE, np.float32), r"recording must hold sound, got silence \(-100 dBFS\) in an array"),
        (noise(40, level=1e-4), r"recording must hold sound, got silence \(-80 dBFS\) in an array"),
    ],
)
def test_too_little_to_embed_is_a_clear_error(verifier, tmp_path, samples, message):
    with pytest.raises(AudioError, match=message):
        verifier.embed(samples, RATE)
    if len(samples):
        soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
        with pytest.raises(AudioError, match=message.replace("an array", r".*a\.wav")):
            verifier.embed(tmp_path / "a.wav")


@pytest.mark.parametrize("encoder", ["ecapa_tdnn_mobile", "thin_resnet34"])
def test_every_encoder_embeds_the_shortest_recording(encoder):
    architecture = Architecture(encoder=f"chns.encoders.{encoder}")
    embedding = Verifier(Bundle(architecture.build().eval(), architecture, "", {}, {})).embed(noise(0.1), RATE)
    assert np.linalg.norm(embedding.vector) == pytest.approx(1)
    assert embedding.quality.warnings == ("0.1 s of sound; less than 2 s is unreliable",)


def test_the_rate_belongs_to_arrays(verifier, hums):
    with pytest.raises(ValueError, match="sample_rate_hz must be given for an array, got None"):
        verifier.embed(noise(1))
    with pytest.raises(ValueError, match="sample_rate_hz must be left out for a file, got 16000"):
        verifier.embed(hums[0], RATE)
    with pytest.raises(ValueError, match="recording must be a file or an Embedding, got an array"):
        verifier.verify(hums[0], noise(1))


def test_one_bad_file_does_not_lose_the_others(verifier, hums, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    write_audio(tmp_path / "silent.wav", np.zeros(RATE, np.float32), sample_rate_hz=RATE)
    bad = [tmp_path / "text.wav", tmp_path / "silent.wav", tmp_path / "missing.wav"]
    embeddings, failures = verifier.embed_files([hums[0], *bad, str(hums[1])])
    assert list(embeddings) == [hums[0], hums[1]]
    np.testing.assert_array_equal(embeddings[hums[1]].vector, verifier.embed(hums[1]).vector)
    assert {path: type(error) for path, error in failures.items()} == dict(
        zip(bad, [AudioError, AudioError, FileNotFoundError], strict=True)
    )


def test_a_decision_is_the_cosine_against_the_threshold(verifier, hums):
    one, other = verifier.embed(hums[0]), verifier.embed(hums[7])
    decision = verifier.verify(hums[0], other)
    assert decision.score == pytest.approx(cosine(one, other), abs=1e-6)
    assert decision.threshold == 0.25
    assert decision.accepted == (decision.score >= 0.25)
    assert decision.log_likelihood_ratio is None
    assert decision.quality == (one.quality, other.quality)
    assert json.loads(json.dumps(decision.to_json()))["quality"][1]["warnings"] == list(other.quality.warnings)
    assert verifier.verify(other, hums[0]).score == pytest.approx(decision.score, abs=1e-6)
    assert verifier.verify(one, one).accepted


def test_a_score_at_the_threshold_is_accepted(bundle, hums):
    score = Verifier(bundle).verify(hums[0], hums[7]).score
    assert Verifier(bundle, threshold=score).verify(hums[0], hums[7]).accepted
    assert not Verifier(bundle, threshold=np.nextafter(score, 2)).verify(hums[0], hums[7]).accepted


def test_a_calibration_gives_the_ratio_and_a_threshold_where_there_is_no_other(bundle, hums):
    calibration = {"scale": 10, "offset": -4.0}
    calibrated = Verifier(bundle._replace(metrics={"calibration": calibration}))
    assert calibrated.threshold == pytest.approx(0.4)
    decision = calibrated.verify(hums[0], hums[7])
    assert decision.log_likelihood_ratio == pytest.approx(10 * decision.score - 4)
    assert decision.accepted == (decision.log_likelihood_ratio >= 0)
    both = Verifier(bundle._replace(metrics={**bundle.metrics, "calibration": calibration}))
    assert both.threshold == 0.25
    assert both.verify(hums[0], hums[7]).log_likelihood_ratio == decision.log_likelihood_ratio


def test_of_several_thresholds_the_callers_decides_then_the_calibrations_then_the_validations(bundle, hums):
    metrics = {**bundle.metrics, "calibration": CALIBRATED}
    given = Verifier(bundle._replace(metrics=metrics), threshold=0.5)
    calibrated = Verifier(bundle._replace(metrics=metrics))
    assert (given.threshold, calibrated.threshold, Verifier(bundle).threshold) == (0.5, 0.7, 0.25)
    decisions = [verifier.verify(hums[0], hums[7]) for verifier in (given, calibrated)]
    assert [decision.threshold for decision in decisions] == [0.5, 0.7]
    assert decisions[0].log_likelihood_ratio == decisions[1].log_likelihood_ratio is not None


def test_a_calibration_for_duration_gives_every_pair_its_own_threshold(bundle, hums):
    calibration = {**CALIBRATED, "quality": DURATION}
    verifier = Verifier(bundle._replace(metrics={"calibration": calibration}))
    one, other = verifier.embed(hums[0]), verifier.embed(np.tile(soundfile.read(hums[7])[0], 10), RATE)
    for pair in ((one, other), (other, one)):
        decision = verifier.verify(*pair)
        shorter, longer = one.quality.duration_seconds, other.quality.duration_seconds
        expected = 10 * decision.score - 4 - 2 * np.log(shorter) + 0.5 * np.log(longer)
        assert decision.log_likelihood_ratio == pytest.approx(expected)
        assert decision.threshold == pytest.approx(decision.score + (3 - expected) / 10)
        assert decision.accepted == (expected >= 3)
    assert verifier.threshold == 0.7
    fixed = Verifier(bundle._replace(metrics={"calibration": calibration}), threshold=0.5).verify(one, other)
    assert fixed.threshold == 0.5
    assert fixed.log_likelihood_ratio == pytest.approx(expected)


def test_a_calibration_for_magnitude_uses_the_length_of_the_raw_embeddings(bundle, hums):
    term = {"smaller": 0.3, "larger": -0.1, "lowest": 1e-3, "highest": 1e3}
    calibration = {"scale": 10, "offset": -4.0, "quality": {"magnitude": term}}
    verifier = Verifier(bundle._replace(metrics={"calibration": calibration}))
    decision = verifier.verify(hums[0], hums[7])
    smaller, larger = sorted(verifier.embed(file).magnitude for file in (hums[0], hums[7]))
    assert decision.log_likelihood_ratio == pytest.approx(10 * decision.score - 4 + 0.3 * smaller - 0.1 * larger)
    assert decision.accepted == (decision.log_likelihood_ratio >= 0)


@pytest.mark.parametrize(
    "changed",
    [{"threshold": None}, {"threshold": "3"}, {"threshold": float("nan")}, {"score_threshold": 10**400},
     {"score_threshold": None}],
)  # fmt: skip
def test_a_calibrations_thresholds_that_are_no_numbers_are_refused(bundle, changed):
    with pytest.raises(ModelFileError, match="threshold and score_threshold must be finite numbers, got"):
        Verifier(bundle._replace(metrics={"calibration": {**CALIBRATED, **changed}}))


def test_without_any_threshold_verifying_is_an_error_and_embedding_is_not(bundle, hums):
    for metrics in ({}, {"validation": None}, {"validation": {"eer": 0.1}}):
        uncertain = Verifier(bundle._replace(metrics=metrics))
        with pytest.raises(
            ValueError,
            match=r"threshold must be given for a model without one, .*, got None\. Choose one \(--threshold T\)",
        ):
            uncertain.verify(hums[0], hums[1])
        assert uncertain.embed(hums[0]).vector.shape == (8,)


@pytest.mark.parametrize("threshold", [-1.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_cosine_is_refused(bundle, threshold):
    with pytest.raises(ValueError, match=f"threshold must be a cosine, between -1 and 1, got {threshold}"):
        Verifier(bundle, threshold=threshold)


@pytest.mark.parametrize("threshold", ["0.5", True, None, 2, float("nan"), 10**400])
def test_a_bundles_threshold_that_is_no_cosine_is_refused(bundle, threshold):
    with pytest.raises(ModelFileError, match=r"threshold must be a cosine, between -1 and 1, got .* in the metrics"):
        Verifier(bundle._replace(metrics={"validation": {"threshold": threshold}}))


@pytest.mark.parametrize(
    "calibration",
    [
        7,
        {},
        {"scale": 1.0},
        {"scale": -1.0, "offset": 0},
        {"scale": float("nan"), "offset": 0},
        {"scale": 1, "offset": "0"},
        {"scale": 1e-300, "offset": 1},
        {"scale": 10**400, "offset": 1},
    ],
)
def test_a_bundles_calibration_that_is_none_is_refused(bundle, calibration):
    with pytest.raises(ModelFileError, match="calibration must have a positive scale and an offset"):
        Verifier(bundle._replace(metrics={"calibration": calibration}))


def test_a_model_that_gives_nonsense_is_refused(bundle):
    network = bundle.architecture.build().eval()
    torch.nn.init.constant_(network.encoder.embedding.weight, float("nan"))
    with pytest.raises(ModelFileError, match="embedding must be finite and not zero, got length nan"):
        Verifier(bundle._replace(model=network)).embed(noise(1), RATE)


def test_a_device_that_is_not_there_is_refused(bundle):
    with pytest.raises(ValueError, match="device must be one that this machine has, got 'abacus'"):
        Verifier(bundle, device="abacus")


def test_enrolled_speakers_are_identified(verifier, hums, tmp_path):
    by_speaker = {f"s{number:02d}": hums[5 * number : 5 * number + 5] for number in range(3)}
    store_path = tmp_path / "people.store"
    with VoiceprintStore.open(store_path, model_digest=verifier.model_digest, dim=verifier.dim) as store:
        for name, files in by_speaker.items():
            enrolled = verifier.enrol(store, name, [files[0], verifier.embed(files[1])], note="said yes")
            assert [embedding.quality.duration_seconds > 0.7 for embedding in enrolled] == [True, True]
        verifier.enrol(store, "s01", by_speaker["s01"][2:4], add=True)
        assert [(person.name, person.num_utterances, person.note) for person in store.voiceprints()] == [
            ("s00", 2, "said yes"),
            ("s01", 4, "said yes"),
            ("s02", 2, "said yes"),
        ]
        files = [str(file) for file in by_speaker["s01"][2:4]]
        assert [person.sources for person in store.voiceprints()] == [(None,) * 2, (None, None, *files), (None,) * 2]
        matches = verifier.identify(store, by_speaker["s01"][3], top=2)
        assert matches == store.identify(verifier.embed(by_speaker["s01"][3]).vector, top=2)
        assert len(matches) == 2


def test_a_saved_bundle_is_loaded_and_only_trusted_code_is_run(bundle, tmp_path, hums):
    save_bundle(tmp_path / "m", bundle.model, bundle.architecture, training={}, metrics=bundle.metrics)
    loaded = Verifier.load(tmp_path / "m")
    assert loaded.model_digest == load_bundle(tmp_path / "m").digest
    assert loaded.threshold == 0.25
    assert Verifier.load(str(tmp_path / "m"), threshold=0.5).threshold == 0.5
    np.testing.assert_allclose(loaded.embed(hums[0]).vector, Verifier(bundle).embed(hums[0]).vector, atol=1e-6)
    description = json.loads((tmp_path / "m" / "config.json").read_text())
    description["encoder"] = "chns_test_encoders.Plain"
    (tmp_path / "m" / "config.json").write_text(json.dumps(description))
    with pytest.raises(ModelFileError, match="encoder must come from a trusted package"):
        Verifier.load(tmp_path / "m")
    with pytest.raises(ModelFileError, match="weights must fit the described encoder"):
        Verifier.load(tmp_path / "m", trusted_packages=["chns_test_encoders"])


@pytest.mark.slow
def test_verifying_imports_neither_the_training_nor_faiss_nor_pyarrow_nor_scipy(bundle, tmp_path, hums):
    save_bundle(tmp_path / "m", bundle.model, bundle.architecture, training={}, metrics={"calibration": CALIBRATED})
    code = (
        "import sys\n"
        "unwanted = {'lightning_fabric', 'faiss', 'pyarrow', 'scipy', 'jsonargparse', 'chns.training.loop'}\n"
        "from chns.cli import main\n"
        f"code = main(['verify', {str(tmp_path / 'm')!r}, {str(hums[0])!r}, {str(hums[1])!r}])\n"
        "print(code, sorted(unwanted & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home())
    decision, *_, last = done.stdout.splitlines()
    assert decision.startswith(("same speaker: score ", "different speakers: score "))
    assert last in {"0 []", "1 []"}


@pytest.mark.slow
def test_one_persons_recordings_score_higher_than_two_persons_even_untrained(verifier, shared_data):
    """A random network still tells microphones and voices apart: a check of the whole path on real speech."""
    files = sorted((shared_data / "speechocean762-train" / "WAVE").rglob("*.opus"))
    speakers = sorted({file.parent for file in files})[:12]
    embedded = [[verifier.embed(file).vector for file in sorted(folder.iterdir())[:4]] for folder in speakers]
    vectors = np.array(embedded)
    scores = np.einsum("aid,bjd->abij", vectors, vectors)
    own = scores[np.arange(12), np.arange(12)][:, ~np.eye(4, dtype=bool)].mean()
    others = scores[~np.eye(12, dtype=bool)].mean()
    assert own > others
