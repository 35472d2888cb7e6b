"""Log-mel features against Kaldi's implementation and against a plain one in float64."""

import math

import kaldi_native_fbank
import numpy as np
import pytest
import soundfile
import torch

from chns.features import LogMel


def speech_like(seconds=1.0, seed=0):
    """A decaying spectrum with some level, so that every mel holds something."""
    rng = np.random.default_rng(seed)
    noise = np.cumsum(rng.normal(size=int(16_000 * seconds))) * 0.01 + rng.normal(size=int(16_000 * seconds))
    return (0.1 * noise / np.abs(noise).max()).astype(np.float32)


def kaldi_features(waveform, num_mels=80, window="povey"):
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = num_mels
    options.energy_floor = 0.0
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16_000, (waveform * 2.0**15).tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def plain_features(waveform):
    """The definition, frame by frame, with an FFT in float64."""

    def mel(hz):
        return 1127.0 * math.log(1.0 + hz / 700.0)

    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    edges = np.linspace(mel(20.0), mel(8000.0), 82)
    rows = []
    for start in range(0, len(waveform) - 399, 160):
        frame = waveform[start : start + 400].astype(np.float64) * 2.0**15
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, 512)) ** 2
        row = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            energy = 0.0
            for k in range(256):
                m = mel(k * 16_000 / 512)
                if low < m <= centre:
                    energy += power[k] * (m - low) / (centre - low)
                elif centre < m < high:
                    energy += power[k] * (high - m) / (high - centre)
            row.append(math.log(max(energy, np.finfo(np.float32).eps)))
        rows.append(row)
    return np.array(rows)


def test_agrees_with_the_plain_definition():
    waveform = speech_like(0.3)
    ours = LogMel(subtract_mean=False)(torch.from_numpy(waveform)[None])[0].numpy()
    np.testing.assert_allclose(ours, plain_features(waveform), atol=1e-3)


@pytest.mark.parametrize(("num_mels", "window"), [(40, "povey"), (80, "povey"), (80, "hamming")])
def test_agrees_with_kaldi(num_mels, window):
    waveform = speech_like()
    ours = LogMel(num_mels=num_mels, window=window, subtract_mean=False)(torch.from_numpy(waveform)[None])[0].numpy()
    np.testing.assert_allclose(ours, kaldi_features(waveform, num_mels, window), atol=1e-3)


def test_the_first_sample_of_a_frame_is_emphasised_against_itself():
    """Kaldi's rule, which a window that begins at zero hides."""
    frame = torch.zeros(1, 400, dtype=torch.float64)
    frame[0, 0] = 1.0
    spectrum = LogMel(window="hamming").spectrum.double()
    emphasised = frame[0] - frame[0].mean()
    emphasised = emphasised - 0.97 * torch.cat([emphasised[:1], emphasised[:-1]])
    window = 0.54 - 0.46 * torch.cos(2 * math.pi * torch.arange(400, dtype=torch.float64) / 399)
    expected = torch.fft.fft(emphasised * window * 2.0**15, 512)[:256]
    torch.testing.assert_close((frame @ spectrum)[0], torch.cat([expected.real, expected.imag]), atol=1e-2, rtol=0)


def test_agrees_with_kaldi_on_real_speech(shared_data):
    """Within 1e-3 wherever Kaldi's own float32 rounding allows: in a few silent bins it is off by more than that."""
    module = LogMel(subtract_mean=False)
    exact = LogMel(subtract_mean=False).double()
    differences = []
    for path in sorted((shared_data / "voxceleb2-mini").glob("*/*/*.flac"))[::40]:
        waveform, _ = soundfile.read(path, dtype="float32")
        ours = module(torch.from_numpy(waveform)[None])[0].numpy()
        reference = exact(torch.from_numpy(waveform)[None])[0].numpy()
        assert np.abs(ours - reference).max() < 1e-3
        kaldi = kaldi_features(waveform)
        off_itself = np.abs(kaldi - reference)
        differences.append(np.abs(ours - kaldi).ravel())
        assert (np.abs(ours - kaldi) < 1e-3 + off_itself).all()
    assert np.mean(np.concatenate(differences) < 1e-3) > 0.99999


def test_each_utterance_of_a_padded_batch_is_as_it_is_alone():
    module = LogMel()
    long, short = speech_like(1.0, seed=1), speech_like(0.4, seed=2)
    batch = torch.zeros(2, len(long))
    batch[0] = torch.from_numpy(long)
    batch[1, : len(short)] = torch.from_numpy(short)
    batch[1, len(short) :] = 0.3
    features = module(batch, torch.tensor([len(long), len(short)]))
    alone = module(torch.from_numpy(short)[None])[0]
    num_frames = int(module.frame_lengths(torch.tensor(len(short))))
    assert num_frames == len(alone)
    torch.testing.assert_close(features[1, :num_frames], alone, atol=1e-5, rtol=0)
    assert (features[1, num_frames:] == 0).all()
    torch.testing.assert_close(features[0], module(torch.from_numpy(long)[None])[0], atol=1e-5, rtol=0)


def test_padding_is_zero_also_without_mean_subtraction():
    module = LogMel(subtract_mean=False)
    features = module(torch.ones(1, 3200), torch.tensor([800]))
    assert (features[0, int(module.frame_lengths(torch.tensor(800))) :] == 0).all()


def test_the_mean_of_every_mel_is_zero():
    features = LogMel()(torch.from_numpy(speech_like())[None])
    torch.testing.assert_close(features.mean(1), torch.zeros(1, 80), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_samples", [400, 559, 560, 16_000])
def test_only_whole_frames_count(num_samples):
    module = LogMel()
    assert module(torch.randn(1, num_samples)).shape == (1, 1 + (num_samples - 400) // 160, 80)
    assert int(module.frame_lengths(torch.tensor(num_samples))) == 1 + (num_samples - 400) // 160


def test_is_differentiable():
    waveform = torch.from_numpy(speech_like(0.05)).double()[None].requires_grad_()
    module = LogMel(num_mels=4).double()
    assert torch.autograd.gradcheck(module, (waveform,), eps=1e-7, atol=1e-3)


def test_stays_in_float32_under_autocast():
    waveform = torch.from_numpy(speech_like())[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = LogMel()(waveform)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, LogMel()(waveform))


def test_silence_is_finite():
    assert torch.isfinite(LogMel()(torch.zeros(1, 16_000))).all()


@pytest.mark.parametrize("shape", [(16_000,), (1, 399), (1, 1, 16_000)])
def test_what_is_not_a_batch_of_waveforms_is_an_error(shape):
    with pytest.raises(ValueError, match=r"waveforms must have shape \(batch, samples\) with at least 400 samples"):
        LogMel()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low_hz": -1.0}, "low_hz and high_hz must rise within 0 and 8000"),
        ({"high_hz": 9000.0}, "low_hz and high_hz must rise within 0 and 8000"),
        ({"num_mels": 0}, "num_mels, frame_seconds and hop_seconds must be positive"),
        ({"hop_seconds": 0.0}, "num_mels, frame_seconds and hop_seconds must be positive"),
        ({"frame_seconds": 1.0}, "frame_seconds must give frames of at most 2048 samples"),
        ({"num_mels": 10**9}, "at most one mel a frequency"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LogMel(**settings)
