"""Bundles on the Hub, against a stand-in that keeps repositories in folders."""

import inspect
import json
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from chns.checkpoint import Architecture, load_bundle, save_bundle
from chns.cli import main
from chns.errors import ChnsError, ModelFileError
from chns.evaluation.metrics import verification_metrics
from chns.inference.hub import load_bundle_from_hub, push_repository, write_repository
from chns.inference.model_card import Publication, eer_half_width, model_card

TINY = Architecture(
    encoder="chns.encoders.EcapaTdnn",
    encoder_settings={"channels": 16, "aggregation_channels": 24, "embedding_dim": 8},
)
PUBLICATION = Publication(licence="cc-by-4.0", training_data="Hums: made up, free to use.", language="en")
METRICS = {
    "validation": {"eer": 0.1, "min_dcf": {"0.01": 0.9, "0.05": 0.6}, "target_trials": 400, "nontarget_trials": 1_600}
}
FILES = ["README.md", "model.json", "model.safetensors"]


class FolderHub:
    """The three functions of huggingface_hub that are used, on folders ``root/owner/name/revision``."""

    def __init__(self, root):
        self.root = root
        self.private = {}
        self.fetched = []

    def create_repo(self, repo_id, *, private, exist_ok):
        (self.root / repo_id / "main").mkdir(parents=True, exist_ok=exist_ok)
        self.private.setdefault(repo_id, private)

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        assert commit_message
        for path in Path(folder_path).iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                (self.root / repo_id / "main" / path.name).write_bytes(path.read_bytes())
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def snapshot_download(self, repo_id, *, revision, allow_patterns):
        source = self.root / repo_id / (revision or "main")
        if not source.is_dir():
            raise OSError(f"404: no {repo_id} at {revision}")
        target = self.root.parent / "cache"
        target.mkdir(exist_ok=True)
        for path in source.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                (target / path.name).write_bytes(path.read_bytes())
                self.fetched.append(path.name)
        return str(target)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    stand_in = FolderHub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    return stand_in


@pytest.fixture
def bundle(tmp_path):
    torch.manual_seed(0)
    training = {"speakers": 1_694, "utterances": 7_213, "hours": 4.643}
    save_bundle(tmp_path / "model", TINY.build(), TINY, training=training, metrics=METRICS)
    return tmp_path / "model"


def pushed(bundle, tmp_path):
    write_repository(bundle, tmp_path / "out", repository="me/voice", publication=PUBLICATION)
    return push_repository(tmp_path / "out", repository="me/voice", private=True)


def test_what_is_pushed_comes_back(hub, bundle, tmp_path):
    assert pushed(bundle, tmp_path) == "https://hub/me/voice/commit/1"
    assert hub.private == {"me/voice": True}
    loaded = load_bundle_from_hub("hf://me/voice")
    assert loaded.digest == load_bundle(bundle).digest
    assert loaded.metrics == METRICS


def test_a_revision_is_asked_for_by_name(hub, bundle, tmp_path):
    pushed(bundle, tmp_path)
    (hub.root / "me/voice/main").rename(hub.root / "me/voice/v1.0")
    assert load_bundle_from_hub("hf://me/voice@v1.0").digest == load_bundle(bundle).digest
    with pytest.raises(OSError, match="404: no me/voice at None"):
        load_bundle_from_hub("hf://me/voice")


def test_only_the_two_files_of_a_bundle_are_fetched(hub, bundle, tmp_path):
    pushed(bundle, tmp_path)
    for name in ("weights.pkl", "setup.py", "model.json.exe", "xmodel.json"):
        (hub.root / "me/voice/main" / name).write_text("evil")
    load_bundle_from_hub("hf://me/voice")
    assert sorted(hub.fetched) == ["model.json", "model.safetensors"]


def test_only_the_bundle_and_its_readme_are_uploaded(hub, bundle, tmp_path):
    (bundle / "private.txt").write_text("secret")
    write_repository(bundle, tmp_path / "out", repository="me/voice", publication=PUBLICATION)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    (tmp_path / "out" / "private.txt").write_text("secret")
    push_repository(tmp_path / "out", repository="me/voice", private=False)
    assert sorted(path.name for path in (hub.root / "me/voice/main").iterdir()) == FILES


def test_a_downloaded_bundle_is_not_trusted(hub, bundle, tmp_path):
    pushed(bundle, tmp_path)
    description = hub.root / "me/voice/main/model.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "encoder": "os.system"}))
    with pytest.raises(ModelFileError, match=r"encoder must come from a trusted package, got 'os\.system'"):
        load_bundle_from_hub("hf://me/voice")


@pytest.mark.parametrize(
    "address",
    ["me/voice", "hf://voice", "hf://me/voice/model", "hf://../voice", "hf://me/a..b", "hf://me/voice@", "hf://-me/v",
     "hf://me/voice@../../x", "hf://me/voice@--x", "https://me/voice", "hf://me/voice@a b", "hf://me/voice\n"],
)  # fmt: skip
def test_an_address_of_another_form_is_refused(hub, address):
    with pytest.raises(ValueError, match="address must read hf://owner/name or hf://owner/name@revision, got "):
        load_bundle_from_hub(address)


@pytest.mark.parametrize("repository", ["voice", "me/voice/model", "me/../voice", "/etc/passwd", "me/a..b", "me/"])
def test_a_repository_of_another_form_is_refused(hub, bundle, tmp_path, repository):
    with pytest.raises(ValueError, match="repository must read owner/name, got "):
        write_repository(bundle, tmp_path / "out", repository=repository, publication=PUBLICATION)
    with pytest.raises(ValueError, match="repository must read owner/name, got "):
        push_repository(bundle, repository=repository, private=False)


def test_a_missing_package_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ChnsError, match=r"huggingface_hub must be installed.*pip install 'chns\[hub\]'"):
        load_bundle_from_hub("hf://me/voice")


def test_the_card_says_licence_data_error_rates_with_interval_use_and_limits(bundle):
    card = model_card("me/voice", load_bundle(bundle), PUBLICATION)
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "license": "cc-by-4.0",
        "language": "en",
        "library_name": "chns",
        "tags": ["speaker-verification", "speaker-recognition", "speaker-embedding", "audio"],
        "metrics": ["eer"],
    }
    assert text.startswith("\n# voice\n")
    for title in ("How to use", "Intended use", "Training data", "Error rates", "Limits", "Model"):
        assert f"\n## {title}\n" in text
    assert "Hums: made up, free to use.\n\n1,694 speakers, 7,213 utterances, 4.643 hours." in text
    assert (
        "| validation | 10.00 % (8.36 to 11.64 %) | 0.900 (p_target 0.01), 0.600 (p_target 0.05) | 400 / 1,600 |"
        in text
    )
    assert 'load_bundle_from_hub("hf://me/voice")' in text
    assert load_bundle(bundle).digest in text


def test_the_interval_covers_the_rate_that_independent_trials_have():
    """Scores of two normal distributions with an EER of 15.87 %: 19 of 20 intervals should cover it."""
    rng = np.random.default_rng(0)
    is_target = np.arange(2_000) < 500
    covered = 0
    for _ in range(200):
        eer = verification_metrics(rng.normal(size=2_000) + 2 * is_target, is_target).eer
        covered += abs(eer - 0.158655) < eer_half_width(eer, 500, 1_500)
    assert 180 <= covered <= 200


def test_a_card_without_measurements_says_so(tmp_path):
    save_bundle(tmp_path / "model", TINY.build(), TINY, training={}, metrics={})
    card = model_card("me/voice", load_bundle(tmp_path / "model"), Publication(licence="other", training_data="Mine."))
    assert "## Error rates\n\nNone were measured." in card
    assert "## Training data\n\nMine.\n\n## Error rates" in card
    assert "language" not in card.split("---")[1]


def test_text_in_the_header_cannot_add_fields(bundle):
    card = model_card("me/voice", load_bundle(bundle), Publication(licence="mit\nextra: 1", training_data=""))
    assert yaml.safe_load(card.split("---\n", 2)[1])["license"] == "mit\nextra: 1"


def test_the_command_uploads_or_with_dry_run_only_writes(hub, bundle, tmp_path, capsys):
    words = [str(bundle), "me/voice", "--licence", "mit", "--training-data", "Hums.", "--intended-use", "Humming."]
    assert main(["push", *words, "--dry-run", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: nothing uploaded\n"
    assert not hub.root.exists()
    assert "## Intended use\n\nHumming.\n" in (tmp_path / "out/README.md").read_text()
    assert main(["push", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["commit"] == "https://hub/me/voice/commit/1"
    assert load_bundle_from_hub("hf://me/voice").digest == load_bundle(bundle).digest


def test_the_command_says_what_is_wrong_in_one_line(hub, bundle, capsys):
    assert main(["push", str(bundle), "voice", "--licence", "mit", "--training-data", "Hums."]) == 2
    assert capsys.readouterr().err == "chns: error: repository must read owner/name, got 'voice'.\n"


def test_the_real_functions_take_what_the_stand_in_is_given():
    real = pytest.importorskip("huggingface_hub")
    for name in ("create_repo", "upload_folder", "snapshot_download"):
        taken = inspect.signature(getattr(FolderHub, name)).parameters
        arguments = {parameter: None for parameter in taken if parameter != "self"}
        inspect.signature(getattr(real, name)).bind(**arguments)
