"""Models and run folders made to do harm: none of their code runs, and none of their thresholds is taken on trust."""

import importlib
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml

from chns.bundle.bundle import OUR_FACTORIES, load_bundle
from chns.cli import main
from chns.comparison.results import read_trial_lists, scored
from chns.comparison.runs import PlannedRun, TrialListSettings
from chns.core import ConfigError, ModelFileError, RunFolderError
from chns.data.audio import write_audio
from chns.inference.verifier import Verifier
from chns.training.build import starting_model
from chns.training.folder import RunFolder, read_settings
from chns.training.settings import ObjectSettings, TrainingSettings, TrainSettings


@pytest.fixture
def attack(bundle, tmp_path):
    """A bundle that, where ``chns`` is trusted as a package, runs the shell by way of our own command line."""
    proof = tmp_path / "proof"
    words = ["train", "--out", str(tmp_path / "inner"), "--encoder.factory", "subprocess.getoutput"]
    words += ["--encoder.settings", json.dumps({"cmd": f"touch {proof}"})]
    edited(bundle, encoder="chns.cli.main", encoder_settings={"argv": words})
    return bundle, proof


def edited(bundle, **changes):
    path = bundle / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return bundle


def test_a_training_from_a_strangers_model_runs_none_of_its_code(attack, hum_manifest, tmp_path, capsys):
    model, proof = attack
    words = ["train", "--data.train", str(hum_manifest), "--out", str(tmp_path / "run")]
    assert main([*words, "--train.device", "cpu", "--train.start_from", str(model)]) == 2
    assert not proof.exists()
    assert "encoder must come from a trusted package, got 'chns.cli.main'" in capsys.readouterr().err


def test_a_comparison_that_finds_a_strangers_finished_run_runs_none_of_its_code(attack, hum_manifest, tmp_path):
    model, proof = attack
    run = PlannedRun(strategy="chns", settings=TrainSettings(), folder=model.parent)
    (tmp_path / "trials.txt").write_text("1 s00/0 s00/1\n1 s01/0 s01/1\n0 s00/0 s01/0\n0 s02/0 s01/1\n")
    lists = read_trial_lists(
        {"few": TrialListSettings(manifest=str(hum_manifest), trials=str(tmp_path / "trials.txt"))}
    )
    with pytest.raises(ModelFileError, match=r"encoder must come from a trusted package, got 'chns\.cli\.main'"):
        scored(run, lists)
    assert not proof.exists()


HUGE = [10**9, 10**40, 1e308, ["x"] * 1_000, {"a": ["x"] * 1_000}, "9" * 5_000]
WRONG = [None, -1, 0, float("nan"), "x", [], {}, *HUGE]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("part", ["encoder_settings", "feature_settings"])
def test_hostile_settings_are_refused_in_few_words(bundle, part):
    names = {"encoder_settings": ("channels", "embedding_dim"), "feature_settings": ("num_mels", "hop_seconds")}[part]
    fitting = json.loads((bundle / "config.json").read_text())[part]
    for settings in [*({**fitting, name: value} for name in names for value in WRONG), {"x" * 9_000: 1}]:
        edited(bundle, **{part: settings})
        with pytest.raises(ModelFileError, match="weights must fit the described encoder") as refused:
            Verifier.load(bundle)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("command", ["verify", "push", "export", "cluster"])
def test_no_command_that_takes_a_model_runs_its_code(attack, hum_manifest, tmp_path, command, capsys):
    model, proof = attack
    words = {
        "verify": ("a.wav", "b.wav"),
        "push": ("me/voice", "--licence", "mit", "--training-data", "none", "--dry-run", str(tmp_path / "card")),
        "export": ("--format", "onnx", "--out", str(tmp_path / "model.onnx")),
        "cluster": (str(hum_manifest), "--num-clusters", "2", "--out", str(tmp_path / "c.safetensors")),
    }[command]
    assert main([command, str(model), *words]) == 2
    assert main([command, str(model), *words, "--trust", "chns"]) == 2
    assert not proof.exists()
    assert "trusted package must be one of your own, got 'chns'" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["encoder", "features"])
@pytest.mark.parametrize(
    "name",
    [
        "chns.cli.main",
        "chns.encoders.SpeakerEncoder",
        "chns.encoders.layers.frame_mask",
        "chns.encoders.ecapa_tdnn.torch.hub.load",
        "chns.features.mels.torch.load",
        "chns.core.factory.make",
        "chns",
        "",
        "subprocess.getoutput",
        "builtins.eval",
        ".chns.cli.main",
    ],
)
def test_only_the_closed_list_can_be_named(bundle, part, name):
    with pytest.raises(ModelFileError, match=f"{part} must come from a trusted package, got "):
        load_bundle(edited(bundle, **{part: name}), trusted_packages=["chns_test_encoders", ""])


def test_an_encoder_is_no_features_and_features_are_no_encoder(bundle):
    with pytest.raises(ModelFileError, match="features must come from a trusted package"):
        load_bundle(edited(bundle, features="chns.encoders.EcapaTdnn"))


@pytest.mark.parametrize("name", sorted({*OUR_FACTORIES["encoder"], *OUR_FACTORIES["features"]}))
def test_every_name_of_the_closed_list_is_there_and_is_ours(name):
    module, _, last = name.rpartition(".")
    assert getattr(importlib.import_module(module), last).__module__.startswith(module)


@pytest.mark.parametrize("trusted", ["borrowed", "borrowed.inside"])
def test_what_a_trusted_package_only_imports_is_not_its_own(bundle, trusted, tmp_path, monkeypatch):
    package = tmp_path / "borrowed"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inside.py").write_text("from subprocess import getoutput\nfrom chns.cli import main\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, home in (("getoutput", "subprocess"), ("main", r"chns\.cli")):
        with pytest.raises(ModelFileError, match=f"encoder must be defined in a trusted package, got .*is of '{home}'"):
            load_bundle(edited(bundle, encoder=f"borrowed.inside.{name}"), trusted_packages=[trusted])


def test_a_package_whose_name_only_begins_like_a_trusted_one_is_another(bundle):
    with pytest.raises(ModelFileError, match="encoder must come from a trusted package"):
        load_bundle(edited(bundle, encoder="subprocess.getoutput"), trusted_packages=["sub", "subprocess.get"])


def test_a_configured_encoder_is_trusted_by_its_name_and_not_its_package(bundle):
    own = ObjectSettings(factory="chns_test_encoders.Plain")
    settings = TrainSettings(encoder=own, train=TrainingSettings(start_from=str(bundle)))
    edited(bundle, encoder="chns_test_encoders.torch", encoder_settings={})
    with pytest.raises(ModelFileError, match=r"encoder must come .* got 'chns_test_encoders\.torch'"):
        starting_model(settings)


def test_an_encoder_of_ours_that_no_bundle_may_name_is_refused_before_it_is_trained():
    settings = replace(TrainSettings(), encoder=ObjectSettings(factory="chns.encoders.ecapa_tdnn.ecapa_tdnn_mobile"))
    with pytest.raises(ConfigError, match=r"encoder\.factory must be your own or one of chns\.encoders\.CamPlusPlus, "):
        starting_model(settings)


@pytest.mark.parametrize("where", [("encoder", "settings", "x"), ("loss", "settings", "x"), ("features", "x")])
def test_a_run_folder_cannot_have_a_module_imported(where, tmp_path, monkeypatch):
    (tmp_path / "smuggled.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = asdict(TrainSettings())
    inner = settings
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = {"class_path": "smuggled.Thing", "init_args": {}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(RunFolderError, match=r"config\.yaml must .*class_path"):
        read_settings(RunFolder.open(tmp_path))
    assert not (tmp_path / "proof").exists()


METRICS = {
    "threshold -1": ({"validation": {"threshold": -1.0}}, "accepts scores from -1 on"),
    "threshold 0": ({"validation": {"threshold": 0.0}}, "accepts scores from 0 on"),
    "offset": ({"calibration": {"scale": 1.0, "offset": 1e8}}, "accepts scores from -1e+08 on"),
    "slope": ({"calibration": {"scale": 1e-8, "offset": 1.0}}, "accepts scores from -1e+08 on"),
    "calibrated threshold": (
        {"calibration": {"scale": 9.0, "offset": -4.0, "threshold": -99.0, "score_threshold": -9.0}},
        "accepts scores from -9 on",
    ),
    "ratios only": (
        {"calibration": {"scale": 1.0, "offset": 1e8, "threshold": 1.0, "score_threshold": 0.5}},
        "calibration takes a score of 0",
    ),
}


@pytest.fixture
def sounds(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for path in paths:
        write_audio(path, (0.1 * rng.normal(size=16_000)).astype(np.float32), sample_rate_hz=16_000)
    return list(map(str, paths))


@pytest.mark.parametrize("case", METRICS)
def test_a_model_that_lets_everybody_pass_is_warned_of_and_not_published(case, bundle, sounds, tmp_path, capsys):
    metrics, message = METRICS[case]
    edited(bundle, metrics=metrics)
    main(["verify", str(bundle), *sounds])
    assert message in capsys.readouterr().out
    store = str(tmp_path / "people.store")
    assert main(["enrol", str(bundle), store, "anna", sounds[0]]) == 0
    capsys.readouterr()
    main(["identify", str(bundle), store, sounds[1], "--json"])
    assert message in " ".join(json.loads(capsys.readouterr().out)["warnings"])
    words = ["--licence", "mit", "--training-data", "none", "--dry-run", str(tmp_path / "card")]
    assert main(["push", str(bundle), "me/voice", *words]) == 2
    assert "model must not let nearly everybody pass, to be published" in capsys.readouterr().err


@pytest.mark.parametrize(
    "metrics", [{"calibration": {"scale": -1.0, "offset": 0.0}}, {"validation": {"threshold": 1e400}}]
)
def test_a_slope_or_threshold_that_is_none_is_refused(metrics, bundle, sounds, capsys):
    assert main(["verify", str(edited(bundle, metrics=metrics)), *sounds]) == 2
    assert "must" in capsys.readouterr().err


def test_quality_terms_that_let_short_recordings_pass_are_warned_of(bundle):
    term = {"smaller": 1e6, "larger": 0.0, "lowest": 1.5, "highest": 9.0}
    calibration = {
        "scale": 9.0,
        "offset": -4.0,
        "quality": {"duration": term},
        "threshold": 0.0,
        "score_threshold": 0.4,
    }
    verifier = Verifier.load(edited(bundle, metrics={"calibration": calibration}))
    sound = verifier.embed((0.1 * np.random.default_rng(0).normal(size=16_000)).astype(np.float32), 16_000)
    assert verifier.warnings == ()
    assert len(verifier.verify(sound, sound).warnings) == 2


def test_a_sensible_model_and_a_threshold_of_the_callers_own_are_not_warned_of(bundle):
    sensible = {"calibration": {"scale": 9.0, "offset": -4.0}, "validation": {"threshold": 0.4}}
    assert Verifier.load(edited(bundle, metrics=sensible)).warnings == ()
    assert Verifier.load(edited(bundle, metrics={"validation": {"threshold": -1.0}}), threshold=-0.5).warnings == ()
