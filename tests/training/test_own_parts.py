"""Encoders, losses and batch samplers of a user's own: found, tried before the training, and trained with."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from chns.cli import main
from chns.core import ConfigError
from chns.core.factory import make
from chns.data import Manifest
from chns.encoders import SpeakerEncoder
from chns.features import LogMel
from chns.sampling import BatchShape, RandomSpeakerBatches
from chns.training.build import make_loss
from chns.training.folder import RunFolder, read_settings, strategy_name
from chns.training.own_parts import OwnBatches, try_encoder, try_loss
from chns.training.parsing import SettingsParser, add_settings
from chns.training.settings import BatchSettings, TrainSettings

TUTORIAL = Path(__file__).parents[2] / "docs" / "your_own_parts.md"
LABELS = np.repeat(np.arange(6), 4)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder that is the current one; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)


def settings_of(*words):
    parser = SettingsParser()
    add_settings(parser)
    parsed = parser.instantiate(parser.parse_args(list(words)))
    return TrainSettings(**{name: parsed[name] for name in TrainSettings.__dataclass_fields__})


def test_the_tutorial_trains_with_all_three_and_embeds_with_the_result(here, hum_manifest, caplog):
    caplog.set_level("INFO")
    (here / "my_parts.py").write_text("\n\n".join(blocks("python")))
    shutil.copy(hum_manifest, here / "train.parquet")
    for path in hum_manifest.parent.iterdir():
        if path.is_dir():
            (here / path.name).symlink_to(path)
    commands = [shlex.split(line.removeprefix("$ chns ")) for block in blocks("console") for line in block.splitlines()]
    for words in commands:
        own = ["--train.device", "cpu", "--data.held_out_speakers", "4"] if words[0] == "train" else []
        assert main([*words, *own]) == 0
    assert f"my_parts is taken from the current folder, {here}" in caplog.text
    run = RunFolder.open("runs/mine")
    assert run.steps_done() == 3 * 4
    settings = read_settings(run)
    assert settings.encoder.settings == {"width": 48}  # and nothing of tiny's ECAPA-TDNN
    assert strategy_name(settings) == "TripletLoss, batches of OneSessionBatches"
    [in_yaml] = map(yaml.safe_load, blocks("yaml"))
    assert in_yaml["encoder"] == {"factory": settings.encoder.factory, "settings": settings.encoder.settings}
    assert in_yaml["batches"]["settings"] == settings.batches.settings
    assert main(["embed", "runs/mine/model", "train.parquet", "--out", "no.parquet"]) == 2  # without trust


def test_an_installed_package_is_not_replaced_by_a_file_of_the_current_folder(here):
    for name in ("numpy", "chns_test_losses", "yaml"):
        (here / f"{name}.py").write_text("raise SystemExit('a stranger is here')")
    (here / "chns_own_package").mkdir()
    (here / "chns_own_package" / "parts.py").write_text("import numpy\nimport yaml\ndef part(a):\n    return [a]\n")
    assert make("chns_own_package.parts.part", {"a": 1}) == [1]
    assert type(make("chns_test_losses.Spoilt", {})).__name__ == "Spoilt"
    assert sys.path[-1] == str(here)


def test_nothing_is_looked_for_in_the_current_folder_until_somebody_names_it(here):
    before = list(sys.path)
    with pytest.raises(ConfigError, match=r"factory must be the import path of a class or function, got 'nobody\.X'"):
        make("nobody.X", {})
    make("chns.losses.SupConLoss", {})
    assert sys.path == before


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (("--config", "tiny", "--encoder.factory", "my.Encoder"), {}),
        (("--config", "tiny", "--encoder.settings.width", "64", "--encoder.factory=my.Encoder"), {"width": 64}),
        (("--config", "tiny", "--encoder.factory", "my.Encoder", "--encoder.settings.width", "64"), {"width": 64}),
        (("--config", "tiny", "--config", "{encoder: {factory: my.Encoder}}"), {}),
        (("--config", "tiny", "--config=own.yaml"), {"width": 5}),
        (("--config", "tiny", "--encoder", "{factory: my.Encoder, settings: {width: 7}}"), {"width": 7}),
        (("--config", "own.yaml", "--encoder.factory", "my.Encoder"), {"width": 5}),
        (("--config", "own.yaml", "--config", "{seed: 3}"), {"width": 5}),
    ],
)
def test_settings_of_another_factory_do_not_merge_in(here, words, settings):
    (here / "own.yaml").write_text("encoder: {factory: my.Encoder, settings: {width: 5}}\n")
    parsed = settings_of(*words)
    assert (parsed.encoder.factory, parsed.encoder.settings) == ("my.Encoder", settings)


def test_settings_of_the_same_factory_stay():
    parsed = settings_of("--config", "tiny", "--encoder.factory", "chns.encoders.EcapaTdnn")
    assert parsed.encoder.settings["channels"] == 32
    words = ("--config", "hscl", "--loss.factory", "chns.losses.SupConLoss")
    assert settings_of("--config", "hscl").loss.factory == "chns.losses.HSCLLoss"
    assert settings_of(*words).loss.settings == {}


class Encoder(nn.Module):
    """Returns whatever a test wants of the mean over the frames, shape (batch, 80)."""

    def __init__(self, result=lambda mean: mean, embedding_dim=None):
        super().__init__()
        self.result = result
        if embedding_dim is not None:
            self.embedding_dim = embedding_dim

    def forward(self, features, lengths=None):  # noqa: ARG002
        return self.result(features.mean(dim=1))


def test_an_encoder_that_fits_is_left_as_it_was():
    model = SpeakerEncoder(LogMel(), Encoder(embedding_dim=80))
    model.encoder.norm = nn.BatchNorm1d(80)
    model.encoder.result = lambda mean: model.encoder.norm(mean)
    state = torch.get_rng_state()
    assert try_encoder(model.train(), "my.Encoder") == 80
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.encoder.norm.num_batches_tracked == 0
    assert try_encoder(SpeakerEncoder(LogMel(), Encoder()), "my.Encoder") == 80


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (Encoder(nn.Linear(40, 8)), r"embed features of shape \(4, 9\d, 80\) .* without lengths, got .*4x80 and 40x8"),
        (Encoder(lambda mean: mean[:, None]), r"embeddings of shape \(4, dim\) for .*\(4, 9\d, 80\), got \(4, 1, 80\)"),
        (Encoder(embedding_dim=12), r"embeddings of shape \(4, 12\) for features of shape .*, got \(4, 80\)"),
        (Encoder(lambda mean: mean.sum(0)), r"embeddings of shape \(4, dim\) .*, got \(80,\)"),
        (Encoder(lambda mean: mean.sum()), r"embeddings of shape \(4, dim\) .*, got \(\)"),
        (Encoder(lambda mean: (mean, mean)), r"a tensor of floats .*, got tuple"),
        (Encoder(lambda mean: mean.long()), r"a tensor of floats .*, got shape \(4, 80\) of torch.int64"),
    ],
)
def test_an_encoder_that_does_not_fit_is_named_with_both_shapes(encoder, message):
    with pytest.raises(ConfigError, match=rf"encoder my\.Encoder must .*{message}"):
        try_encoder(SpeakerEncoder(LogMel(), encoder), "my.Encoder")


def test_an_encoder_that_takes_no_lengths_is_noticed_before_the_first_validation():
    class NoLengths(Encoder):
        def forward(self, features, lengths=None):
            assert lengths is None, "no lengths, please"
            return super().forward(features)

    with pytest.raises(
        ConfigError, match=r"with lengths \[\d+, \d+, \d+, \d+\], got an error \(AssertionError: no len"
    ):
        try_encoder(SpeakerEncoder(LogMel(), NoLengths()), "my.Encoder")


class Loss(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, embeddings, speaker_labels):  # noqa: ARG002
        self.calls += 1
        return self.result(embeddings)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (nn.Linear(7, 1), r"take embeddings of shape \(8, 5\) and speaker labels of shape \(8,\), got .*8x5 and 7x1"),
        (lambda embeddings: embeddings.sum(1), r"must return one number for .*, got shape \(8,\) of torch.float32"),
        (lambda embeddings: embeddings.sum().item(), r"must return one number for .*, got float"),
        (lambda embeddings: embeddings.detach().sum(), r"must have a gradient with respect to the embeddings"),
    ],
)
def test_a_loss_that_does_not_fit_is_named_with_both_shapes(result, message):
    with pytest.raises(ConfigError, match=rf"loss my\.Loss must .*{message}|loss my\.Loss {message}"):
        try_loss(Loss(result), "my.Loss", embedding_dim=5, num_speakers=20)


def test_a_loss_that_fits_is_left_as_it_was():
    loss = Loss(lambda embeddings: embeddings.square().mean())
    state = torch.get_rng_state()
    try_loss(loss, "my.Loss", embedding_dim=5, num_speakers=2)
    assert loss.calls == 0
    assert torch.equal(torch.get_rng_state(), state)


class Batches:
    """Two batches an epoch, or what a test wants."""

    def __init__(self, draw=None, steps=2):
        self.draw = draw or (lambda epoch, step: [4 * speaker + epoch % 4 for speaker in (0, 1, 2, step + 3)])
        self.steps, self.epoch = steps, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.steps

    def __iter__(self):
        return (self.draw(self.epoch, step) for step in range(2))


def own(sampler, **options):
    return OwnBatches(sampler, "my.Batches", LABELS, segments=4, **options)


def test_own_batches_are_those_of_the_epoch_from_any_step_on_and_each_process_gets_its_slice():
    batches = own(Batches())
    batches.go_to(3)
    assert list(batches) == [[3, 7, 11, 15], [3, 7, 11, 19]]
    batches.load_state_dict(batches.state_dict(step=1))
    assert list(batches) == [[3, 7, 11, 19]]
    batches.go_to(0)
    assert list(batches) == [[0, 4, 8, 12], [0, 4, 8, 16]]
    slices = [own(Batches(), rank=rank, world_size=2) for rank in range(2)]
    assert [next(iter(one)) for one in slices] == [[0, 4], [8, 12]]
    assert [one.first_place for one in slices] == [0, 2]


def test_our_own_samplers_are_batch_samplers_of_that_kind():
    shape = BatchShape(2, 2, steps_per_epoch=3, seed=1)
    batches = own(RandomSpeakerBatches(LABELS, shape))
    batches.go_to(2)
    assert list(batches) == [RandomSpeakerBatches(LABELS, shape).batch(2, step) for step in range(3)]


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ([[0, 1, 2, 3]], r"must make a batch sampler with set_epoch\(epoch\) and len\(\), got list"),
        (Batches(steps=0), r"must have a batch an epoch at least, got 0"),
        (Batches(lambda *_: [0, 4, 8]), r"must yield batches of 4 utterances \(batches\.speakers_per_batch x .* of 3"),
        (Batches(lambda *_: [0, 4, 8, 24]), r"must yield indices of training utterances, from 0 to 23, got 24"),
        (Batches(lambda *_: 7), r"must yield lists of utterance indices, got 7"),
        (Batches(lambda *_: np.random.default_rng().permutation(24)[:4]), r"must yield the same batches each time"),
    ],
)
def test_batches_that_do_not_fit_are_named(sampler, message):
    with pytest.raises(ConfigError, match=rf"batches\.factory my\.Batches {message}"):
        own(sampler)


def test_an_epoch_that_ends_too_soon_is_an_error_and_what_follows_len_is_left():
    with pytest.raises(ConfigError, match=r"must yield len\(\) = 3 batches, got 2"):
        list(own(Batches(steps=3)))
    assert len(list(own(Batches(steps=1)))) == 1


def test_own_batches_and_a_hard_phase_contradict_each_other(here, hum_manifest, capsys):
    (here / "my_parts.py").write_text("\n\n".join(blocks("python")))
    words = ["train", "--data.train", str(hum_manifest), "--out", "run", "--config", "chns", "--config", "tiny"]
    assert main([*words, "--batches.factory", "my_parts.OneSessionBatches"]) == 2
    assert "batches.kind must be left out with batches.factory, got 'clustered'" in capsys.readouterr().err


def test_losses_search_pairs_in_batches_of_a_users_own_whose_order_nobody_knows(hum_manifest):
    manifest = Manifest.read(hum_manifest)
    model = SpeakerEncoder(LogMel(), Encoder())
    ours, own = TrainSettings(), TrainSettings(batches=BatchSettings(factory="my.Batches"))
    assert make_loss(ours, model, manifest).utterances_per_speaker == 2
    assert make_loss(own, model, manifest).utterances_per_speaker is None
