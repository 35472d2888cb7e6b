"""Crops and whole utterances for the loader."""

import multiprocessing
import os

import numpy as np
import pytest
import torch
from made_corpus import MadeCorpus, voice
from torch.utils.data import DataLoader

from chns.core import AudioError
from chns.data.audio import read_audio, write_audio
from chns.data.dataset import (
    CropBatches,
    CropFeed,
    CropRequest,
    SpeakerCrops,
    WholeUtterances,
    as_floats,
    collation_for,
    pad_waveforms,
)
from chns.data.manifest import Manifest
from chns.sampling import BatchShape, RandomSpeakerBatches


@pytest.fixture
def ramp(tmp_path):
    """One utterance of 2 s inside a file of 4 s whose samples tell their time; one of 0.25 s."""
    samples = np.linspace(0, 0.8, 64_000, dtype=np.float32)
    write_audio(tmp_path / "long.wav", samples, sample_rate_hz=16_000)
    write_audio(tmp_path / "short.wav", samples[:4_000] + 0.1, sample_rate_hz=16_000)
    common = {"sample_rate_hz": 16_000}
    rows = [
        {"utterance": "a", "speaker": "s1", "path": "long.wav", "offset_seconds": 1.0, "duration_seconds": 2.0}
        | common,
        {"utterance": "b", "speaker": "s0", "path": "short.wav", "offset_seconds": 0.0, "duration_seconds": 0.25}
        | common,
    ]
    return Manifest.from_rows(rows, root=tmp_path)


def test_crops_lie_inside_the_utterance_and_reach_all_of_it(ramp):
    crops = SpeakerCrops(ramp, crop_seconds=0.5, sample_rate_hz=16_000)
    starts = []
    for seed in range(400):
        waveform, label = crops[CropRequest(0, (seed,))]
        assert waveform.shape == (8_000,)
        assert waveform.dtype == torch.float32
        assert label == 1
        starts.append(float(waveform[0]) / 0.8 * 4)
    assert min(starts) >= 1.0 - 1e-3
    assert max(starts) <= 2.5 + 1e-3
    assert min(starts) < 1.05
    assert max(starts) > 2.45
    assert min(np.histogram(starts, 5)[0]) > 55  # 80 each, if all places are equally likely


def test_the_seed_decides_the_crop(ramp):
    crops = SpeakerCrops(ramp, crop_seconds=0.5, sample_rate_hz=16_000)
    first, again, other = (crops[CropRequest(0, seed)][0] for seed in [(0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 4)])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_short_utterance_is_repeated(ramp):
    waveform, label = SpeakerCrops(ramp, crop_seconds=0.6, sample_rate_hz=16_000)[CropRequest(1, (0,))]
    assert label == 0
    assert waveform.shape == (9_600,)
    assert torch.equal(waveform[:4_000], waveform[4_000:8_000])


def test_every_crop_is_resampled_to_the_models_rate(ramp):
    waveform, _ = SpeakerCrops(ramp, crop_seconds=0.5, sample_rate_hz=8_000)[CropRequest(0, (0,))]
    assert waveform.shape == (4_000,)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_workers_do_not_change_the_crops(hum_manifest, num_workers):
    crops = SpeakerCrops(Manifest.read(hum_manifest), crop_seconds=0.4, sample_rate_hz=16_000)
    batches = CropBatches([[0, 7], [3, 3], [99, 1]], seed=5, epoch=2)
    loader = DataLoader(crops, batch_sampler=batches, num_workers=num_workers)
    expected = [
        [crops[CropRequest(index, (5, 2, step, place))][0] for place, index in enumerate(batch)]
        for step, batch in enumerate([[0, 7], [3, 3], [99, 1]])
    ]
    for (waveforms, _), wanted in zip(loader, expected, strict=True):
        assert torch.equal(waveforms, torch.stack(wanted))
    assert not torch.equal(expected[1][0], expected[1][1])


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_plain_indices_are_cropped_anew_each_time_and_alike_under_one_torch_seed(ramp, num_workers):
    def epochs():
        torch.manual_seed(3)
        loader = DataLoader(
            SpeakerCrops(ramp, crop_seconds=0.5, sample_rate_hz=16_000),
            batch_sampler=[[0, 0], [0, 1]],
            num_workers=num_workers,
        )
        return [torch.stack([waveforms for waveforms, _ in loader]) for _ in range(2)]

    first, second = epochs()
    assert len({float(start) for start in torch.cat([first[:, 0], second[:, 0], first[:1, 1]])[:, 0]}) == 5
    torch.testing.assert_close(torch.stack(epochs()), torch.stack([first, second]), rtol=0, atol=0)
    crops = SpeakerCrops(ramp, crop_seconds=0.5, sample_rate_hz=16_000)
    assert [label for _, label in (crops[0], crops[np.int64(1)])] == [1, 0]


class Faulty(SpeakerCrops):
    """An error that no recording is to blame for."""

    def __getitems__(self, requests):
        return 1 / 0


def test_workers_end_with_whatever_error_one_of_them_raises(hum_manifest):
    crops = Faulty(Manifest.read(hum_manifest), crop_seconds=0.4, sample_rate_hz=16_000)
    others = multiprocessing.active_children()
    with (
        CropFeed(crops, num_workers=2, device=torch.device("cpu"), start_worker=lambda _: None) as feed,
        pytest.raises(ZeroDivisionError),
    ):
        next(feed.batches([[CropRequest(0, (0,))]]))
    assert multiprocessing.active_children() == others


class Told(SpeakerCrops):
    """Crops of whose labels the first is the process that cut them, for a loader that asks for one at a time."""

    def __getitems__(self, requests):
        return [(crop, os.getpid()) for crop, _ in super().__getitems__(requests)]


def requests(epoch: int, *, steps: int = 4) -> CropBatches:
    return CropBatches([[step, step + 1] for step in range(steps)], seed=0, epoch=epoch)


def test_workers_stay_from_epoch_to_epoch_and_end_with_the_feed(hum_manifest):
    crops = Told(Manifest.read(hum_manifest), crop_seconds=0.5, sample_rate_hz=16_000)
    started = []
    settings = {"num_workers": 2, "device": torch.device("cpu"), "start_worker": started.append}
    with CropFeed(crops, **settings) as feed:
        first, second = ({int(pids[0]) for _, pids in feed.batches(requests(epoch))} for epoch in range(2))
    assert first == second
    assert len(first - {os.getpid()}) == 2
    for pid in first:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_has_its_own_crops_also_after_one_that_was_broken_off(hum_manifest, num_workers):
    crops = SpeakerCrops(Manifest.read(hum_manifest), crop_seconds=0.5, sample_rate_hz=16_000)
    settings = {"num_workers": num_workers, "device": torch.device("cpu"), "start_worker": lambda _: None}
    with CropFeed(crops, **settings) as feed:
        next(iter(feed.batches(requests(0))))
        found = [waveforms for waveforms, _ in feed.batches(requests(1))]
    expected = [torch.stack([crops[request][0] for request in step]) for step in requests(1)]
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


def test_crop_requests_go_on_where_the_steps_do():
    everything = list(CropBatches([[1, 2], [3, 4], [5, 6]], seed=0, epoch=1))
    assert list(CropBatches([[5, 6]], seed=0, epoch=1, first_step=2)) == everything[2:]
    assert list(CropBatches([[4]], seed=0, epoch=1, first_step=1, first_place=1)) == [everything[1][1:]]


def test_crop_requests_follow_the_epochs_of_a_sampler():
    batches = RandomSpeakerBatches(np.arange(8).repeat(3), BatchShape(4, steps_per_epoch=2))
    requests = CropBatches(batches, seed=7)
    for epoch in range(3):
        assert [request.seed[:3] for batch in requests for request in batch] == [
            (7, epoch, s) for s in (0,) * 8 + (1,) * 8
        ]


def test_whole_utterances_are_read_up_to_the_limit(ramp, tmp_path):
    whole = WholeUtterances(ramp, max_seconds=9.0, sample_rate_hz=16_000, min_samples=400)
    expected = read_audio(tmp_path / "long.wav", offset_seconds=1.0, duration_seconds=2.0)
    assert torch.equal(whole[0], torch.from_numpy(expected))
    limited = WholeUtterances(ramp, max_seconds=0.5, sample_rate_hz=16_000, min_samples=400)
    assert torch.equal(limited[0], torch.from_numpy(expected[:8_000]))
    assert len(limited) == 2


def test_too_short_to_embed_is_an_error_that_names_the_file(ramp):
    whole = WholeUtterances(ramp, max_seconds=9.0, sample_rate_hz=16_000, min_samples=5_000)
    with pytest.raises(AudioError, match=r"utterance must hold at least 0\.3125 s, got 0\.25 s in .*short\.wav"):
        whole[1]


def test_padding_keeps_the_lengths():
    waveforms, lengths = pad_waveforms([torch.ones(3), torch.ones(5)])
    assert waveforms.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert lengths.tolist() == [3, 5]


@pytest.mark.parametrize("peak", [1.0, -1.0])
@pytest.mark.parametrize(("subtype", "sent"), [("PCM_16", torch.int16), ("FLOAT", torch.float32)])
def test_crops_travel_to_another_device_as_16_bits_where_that_loses_nothing(tmp_path, subtype, sent, peak):
    corpus = MadeCorpus(tmp_path)
    for number in range(4):
        samples = voice(number)
        samples[::7] = peak  # the largest that 16 bits hold is a little below 1
        corpus.add(f"s{number % 2}/{number}", samples, suffix=".wav", subtype=subtype)
    crops = SpeakerCrops(corpus.manifest, crop_seconds=1.0, sample_rate_hz=16_000)
    loaded = {}
    for device in ("cpu", "meta"):
        collation = collation_for(torch.device(device))
        [loaded[device]] = DataLoader(
            crops, batch_sampler=[[CropRequest(n, (n,)) for n in range(4)]], collate_fn=collation
        )
    assert loaded["cpu"][0].dtype == torch.float32
    assert loaded["meta"][0].dtype == sent
    assert torch.equal(as_floats(loaded["meta"][0]), loaded["cpu"][0])
    assert torch.equal(loaded["meta"][1], loaded["cpu"][1])
