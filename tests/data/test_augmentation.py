"""Augmented crops: the same for a seed in any number of workers; speakers at other speeds; masks on features."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from chns.bundle.bundle import Architecture
from chns.core import ManifestError
from chns.data.audio import write_audio
from chns.data.augmentation.background import (
    Babble,
    Background,
    ColouredNoise,
    Layer,
    RecordingFolder,
    TrainingUtterances,
)
from chns.data.augmentation.effects import (
    SPEED_COLUMN,
    Augmenter,
    Codec,
    Gain,
    Speed,
    speed_factors,
    with_speed_speakers,
)
from chns.data.augmentation.reverberation import ResponseFolder, Reverberation, SyntheticDecay
from chns.data.dataset import CropBatches, CropRequest, SpeakerCrops, WholeUtterances
from chns.data.manifest import Manifest, with_columns
from chns.losses import SupConLoss
from chns.training.augmenting import SpecAugment
from chns.training.step import TrainingStep

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def manifest(hum_manifest):
    return Manifest.read(hum_manifest)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two noises and two room responses, as MUSAN and RIRS_NOISES keep them."""
    root = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(1)
    for number in range(2):
        noise = 0.1 * rng.standard_normal(30_000).astype(np.float32)
        write_audio(root / "musan" / "noise" / "free-sound" / f"noise-{number}.wav", noise, sample_rate_hz=RATE_HZ)
        response = np.zeros(3_000, np.float32)
        response[[0, 700 + 500 * number]] = 0.9, 0.4
        write_audio(root / "rooms" / f"Room{number}" / "response.wav", response, sample_rate_hz=RATE_HZ)
    return root


def everything(manifest, folders=None):
    """All effects, each as often as not."""
    decay = {"min_reverberation_seconds": 0.1, "max_reverberation_seconds": 0.3}
    noise = ColouredNoise(sample_rate_hz=RATE_HZ)
    rooms = SyntheticDecay(sample_rate_hz=RATE_HZ, **decay)
    if folders is not None:
        noise = RecordingFolder(folders / "musan" / "noise", sample_rate_hz=RATE_HZ)
        rooms = ResponseFolder(folders / "rooms", sample_rate_hz=RATE_HZ)
    babble = Babble(TrainingUtterances(manifest, sample_rate_hz=RATE_HZ), min_voices=3, max_voices=7)
    return Augmenter(
        speed=Speed(probability=0.5, factors=[0.9, 1.1]),
        reverberation=Reverberation(rooms, probability=0.5),
        background=Background([Layer("noise", noise, 0.4, 0, 15), Layer("babble", babble, 0.4, 13, 20)]),
        codec=Codec(probability=0.5, kinds=["telephone", "gsm", "mp3", "opus"], sample_rate_hz=RATE_HZ),
        gain=Gain(probability=0.5, min_gain_db=-10, max_gain_db=6),
    )


def crops_of(manifest, augmenter=None, crop_seconds=0.5):
    return SpeakerCrops(manifest, crop_seconds=crop_seconds, sample_rate_hz=RATE_HZ, augmenter=augmenter)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["generated", "folders"])
def test_one_seed_gives_the_same_audio_in_any_number_of_workers_and_after_a_resume(manifest, folders, source):
    crops = crops_of(manifest, everything(manifest, folders if source == "folders" else None))
    steps = [[0, 7, 12], [3, 3, 9], [99, 1, 50], [4, 40, 44]]

    def loaded(num_workers, first_step=0):
        requests = CropBatches(steps[first_step:], seed=5, epoch=2, first_step=first_step)
        np.random.seed(num_workers)  # noqa: NPY002 - nobody may look at the global state
        return [waveforms for waveforms, _ in DataLoader(crops, batch_sampler=requests, num_workers=num_workers)]

    alone = loaded(0)
    for again in (loaded(0), loaded(1), loaded(2)):
        assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(alone[2:], loaded(2, first_step=2), strict=True))
    assert not torch.equal(alone[1][0], alone[1][1])


def test_every_crop_has_its_length_and_does_not_clip_and_says_what_was_done(manifest):
    crops = crops_of(manifest, everything(manifest))
    plain = crops_of(manifest)
    done = set()
    for number in range(60):
        request = CropRequest(number, (0, number))
        waveform, effects = crops.augmented(request)
        assert waveform.shape == (8_000,)
        assert waveform.dtype == np.float32
        assert np.abs(waveform).max() <= 1
        done |= {effect.split()[0] for effect in effects}
        order = [effect.split()[0] for effect in effects]
        places = ["speed", "reverb", "noise", "babble", "telephone", "gsm", "mp3", "opus", "gain"]
        assert order == sorted(order, key=places.index)
        assert (effects == ()) == np.array_equal(waveform, plain.augmented(request)[0])
    assert done == {"speed", "reverb", "noise", "babble", "telephone", "gsm", "mp3", "opus", "gain"}


def test_without_effects_the_crops_are_those_of_a_training_without_augmentation(manifest):
    request = CropRequest(3, (1, 2, 3, 4))
    assert torch.equal(crops_of(manifest, Augmenter())[request][0], crops_of(manifest)[request][0])


def test_switching_an_effect_on_leaves_what_the_others_draw(manifest):
    waveform = np.full(4_000, 0.1, np.float32)
    background = Background([Layer("noise", ColouredNoise(sample_rate_hz=RATE_HZ), 1.0, 0, 20)])
    gain = Gain(probability=1.0, min_gain_db=-10, max_gain_db=-1)
    _, only_background = Augmenter(background=background)(waveform, (1, 2))
    _, only_gain = Augmenter(gain=gain)(waveform, (1, 2))
    _, both = Augmenter(background=background, gain=gain)(waveform, (1, 2))
    assert both == only_background + only_gain


def test_no_two_effects_draw_the_same():
    def drawn(waveform, rng):
        return waveform, str(rng.random())

    effects = dict.fromkeys(("reverberation", "background", "codec", "gain"), drawn)
    words = [w for seed in ((1, 2), (1, 3)) for w in Augmenter(**effects)(np.zeros(10, np.float32), seed)[1]]
    assert len(set(words)) == 8


def test_threads_that_read_a_batch_draw_the_speeds_that_one_would():
    augmenter = Augmenter(speed=Speed(probability=0.5, factors=[0.8, 0.9, 1.1, 1.2]))
    seeds = [(3, number) for number in range(2_000)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            speeds = list(pool.map(augmenter.speed_of, seeds, chunksize=20))
    finally:
        sys.setswitchinterval(interval)
    assert speeds == [augmenter.speed_of(seed) for seed in seeds]


def test_a_faster_crop_holds_more_of_the_recording(tmp_path):
    """A rising tone: its pitch tells the time."""
    times = np.arange(4 * RATE_HZ) / RATE_HZ
    sweep = (0.5 * np.sin(2 * np.pi * (500 + 250 * times) * times)).astype(np.float32)  # 500 + 500 t Hz
    write_audio(tmp_path / "sweep.wav", sweep, sample_rate_hz=RATE_HZ)
    row = {"utterance": "u", "speaker": "s", "path": "sweep.wav", "offset_seconds": 0.0, "duration_seconds": 4.0}
    manifest = Manifest.from_rows([row | {"sample_rate_hz": RATE_HZ}], root=tmp_path)

    def pitch_hz(waveform):
        return np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))).argmax() * RATE_HZ / len(waveform)

    for factor in (0.8, 1.25):
        crops = crops_of(manifest, Augmenter(speed=Speed(probability=1.0, factors=[factor])), crop_seconds=2.0)
        waveform, effects = crops.augmented(CropRequest(0, (0,)))
        assert effects == (f"speed {factor:g}",)
        rise_hz = pitch_hz(waveform[-4_000:]) - pitch_hz(waveform[:4_000])
        assert rise_hz == pytest.approx(500 * 1.75 * factor**2, rel=0.04)


def test_speeds_make_new_speakers_with_labels_of_their_own(manifest):
    tripled = with_speed_speakers(manifest, [0.9, 1.1])
    assert len(tripled) == 3 * len(manifest)
    assert len(tripled.speakers) == 3 * len(manifest.speakers)
    assert set(tripled.speakers) >= set(manifest.speakers)
    assert {f"{name}@0.9" for name in manifest.speakers} < set(tripled.speakers)
    assert np.unique(tripled.speaker_labels).tolist() == list(range(60))
    assert tripled.column("utterance")[: len(manifest)] == manifest.column("utterance")
    assert tripled[100].path.samefile(manifest[0].path)
    assert speed_factors(tripled).tolist() == [1.0] * 100 + [0.9] * 100 + [1.1] * 100
    assert with_speed_speakers(manifest, []) is manifest


def test_the_new_speakers_are_played_at_their_speed_wherever_they_are_read(manifest, tmp_path):
    with_speed_speakers(manifest, [1.25]).write(tmp_path / "more.parquet")
    doubled = Manifest.read(tmp_path / "more.parquet")
    whole = WholeUtterances(doubled, max_seconds=9.0, sample_rate_hz=RATE_HZ, min_samples=400)
    assert len(whole[100]) == pytest.approx(len(whole[0]) / 1.25, abs=1)
    crops, plain = crops_of(doubled), crops_of(manifest)
    for utterance in (0, 100):
        request = CropRequest(utterance, (7,))
        waveform, effects = crops.augmented(request)
        assert effects == (() if utterance == 0 else ("speed 1.25",))
        assert np.array_equal(waveform, plain.augmented(CropRequest(0, (7,)))[0]) == (utterance == 0)
        assert crops[request][1] == doubled.speaker_labels[utterance]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([1.0], "speeds of new speakers must be different, and other than 1, got 1.0"),
        ([0.9, 0.9], "speeds of new speakers must be different"),
        ([3.0], "speed factor must be between 0.5 and 2.0, got 3.0"),
    ],
)
def test_speeds_of_new_speakers_are_sensible(manifest, factors, message):
    with pytest.raises(ValueError, match=message):
        with_speed_speakers(manifest, factors)


def test_speakers_are_not_multiplied_twice_nor_given_the_name_of_another(manifest):
    tripled = with_speed_speakers(manifest, [0.9])
    with pytest.raises(
        ManifestError, match="manifest must hold speakers at their own speed, got a column speed_factor"
    ):
        with_speed_speakers(tripled, [1.1])
    names = ["s00", "s00@0.9", *manifest.column("speaker")[2:]]
    with pytest.raises(ManifestError, match=r"speaker must be in one manifest only, got 's00@0\.9'"):
        with_speed_speakers(with_columns(manifest, {"speaker": names}), [0.9])


@pytest.mark.parametrize("text", ["fast", "5", "nan"])
def test_a_speed_that_is_none_is_an_error(manifest, text):
    wrong = with_columns(manifest, {SPEED_COLUMN: [text] + ["1"] * 99})
    with pytest.raises(ManifestError, match=r"speed_factor must be a number between 0\.5 and 2\.0"):
        crops_of(wrong)


def masking(**changes):
    settings = {"probability": 1.0, "time_masks": 1, "max_mask_frames": 10, "mel_masks": 1, "max_mask_mels": 8}
    return SpecAugment(**settings | changes)


def test_masks_hide_stripes_no_wider_than_asked_with_the_mean_of_each_mel():
    torch.manual_seed(0)
    features = torch.randn(200, 90, 40)
    hidden = masking()(features) != features
    in_time, in_mels = hidden.all(dim=2).sum(dim=1), hidden.all(dim=1).sum(dim=1)
    assert int(in_time.min()) == 0
    assert int(in_time.max()) == 10
    assert int(in_mels.min()) == 0
    assert int(in_mels.max()) == 8
    first_hidden = hidden.all(dim=2).float().argmax(dim=1)
    assert int(first_hidden.max()) > 75
    assert torch.equal(hidden, hidden.all(dim=2, keepdim=True) | hidden.all(dim=1, keepdim=True))


def test_what_is_hidden_is_the_mean():
    features = torch.randn(50, 30, 20)
    masked = masking(max_mask_frames=5)(features)
    hidden = masked != features
    assert hidden.any()
    assert torch.equal(masked[hidden], features.mean(1, keepdim=True).expand_as(features)[hidden])


def test_masks_come_as_often_as_asked_and_may_be_wider_than_the_features():
    features = torch.randn(1_000, 12, 6)
    changed = (masking(probability=0.3, max_mask_frames=100, max_mask_mels=100)(features) != features).any(2).any(1)
    assert 200 < int(changed.sum()) < 350
    assert torch.equal(masking(probability=0.0)(features), features)
    assert torch.equal(masking(time_masks=0, mel_masks=0)(features), features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probability": 1.5}, "spec_augment probability must be between 0 and 1, got 1.5"),
        ({"time_masks": -1}, "time_masks, max_mask_frames, .* must be at least 0, got -1, 10, 1 and 8"),
    ],
)
def test_masks_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        masking(**changes)


def test_only_training_masks_and_neither_weights_nor_graph_know_of_it():
    torch.manual_seed(0)
    model = Architecture(encoder="chns_test_encoders.Plain", encoder_settings={}).build()
    waveforms = 0.1 * torch.randn(4, 8_000)
    names = list(model.state_dict())
    plain = model.train()(waveforms)
    model.masking = masking(max_mask_frames=40)
    assert list(model.state_dict()) == names
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outputs.append(model(waveforms))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.allclose(outputs[0], plain)
    assert torch.equal(model.eval()(waveforms), plain)
    exported = torch.export.export(model, (waveforms,))
    assert not any("rand" in str(node.target) for node in exported.graph.nodes)


def test_masks_are_the_same_in_both_passes_of_a_chunk_and_others_for_the_next():
    class Seen(torch.nn.Module):
        masks = masking()

        def forward(self, features):
            seen.append(self.masks(features))
            return seen[-1]

    seen = []
    model = Architecture(encoder="chns_test_encoders.Plain", encoder_settings={}).build()
    model.masking = Seen()
    fabric = Fabric(accelerator="cpu", devices=1)
    step = TrainingStep(fabric, fabric.setup_module(model), SupConLoss(), chunk_size=2, seed=0)
    same = (0.1 * torch.randn(1, 8_000)).repeat(4, 1)
    for number in (0, 1):
        step(same, torch.tensor([0, 0, 1, 1]), step=number)
    first, second, first_again, second_again, later = seen[:5]
    assert torch.equal(first, first_again)
    assert torch.equal(second, second_again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, later)
