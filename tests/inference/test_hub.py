"""Bundles on the Hub: the real ``huggingface_hub`` against a server that answers as the Hub does."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from chns.bundle.bundle import Architecture, add_metrics, load_bundle, save_bundle
from chns.bundle.download import HubError
from chns.cli import main
from chns.core import ChnsError, ModelFileError
from chns.data.audio import write_audio
from chns.inference.publish import Publication, push_repository, push_to_hub, write_repository
from chns.inference.verifier import Verifier

pytest.importorskip("huggingface_hub")

TINY = Architecture(
    encoder="chns.encoders.EcapaTdnn", encoder_settings={"channels": 16, "aggregation_channels": 24, "embedding_dim": 8}
)
PUBLICATION = Publication(licence="cc-by-4.0", training_data="Hums: made up, free to use.", language="en")
METRICS = {"validation": {"eer": 0.1, "threshold": 0.3, "target_trials": 400, "nontarget_trials": 1_600}}
FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_bundle(folder, TINY.build(), TINY, training={}, metrics=METRICS)
    return folder


@pytest.fixture
def bundle(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def published(hub, bundle):
    """The repository ``me/voice``, with files besides that nobody asked for."""
    files = {name: (bundle / name).read_bytes() for name in ("config.json", "model.safetensors")}
    repository = hub.repository("me/voice")
    repository.commit({**files, "weights.pkl": b"evil", "setup.py": b"evil", "sub/config.json": b"evil"})
    return repository


@pytest.fixture
def recording(tmp_path):
    sound = (0.1 * np.random.default_rng(0).normal(size=40_000)).astype(np.float32)
    write_audio(tmp_path / "a.wav", sound, sample_rate_hz=16_000)
    return tmp_path / "a.wav"


def changed(repository, **description):
    files = dict(repository.commits[repository.names["main"]])
    files["config.json"] = json.dumps({**json.loads(files["config.json"]), **description}).encode()
    return repository.commit(files)


def test_what_is_pushed_comes_back_in_one_call(hub, bundle):
    commit = push_to_hub(bundle, "me/voice", PUBLICATION, private=True)
    assert commit.endswith(f"/me/voice/commit/{hub.repositories['me/voice'].names['main']}")
    assert hub.repositories["me/voice"].private
    loaded = load_bundle("hf://me/voice")
    assert Verifier.from_pretrained("hf://me/voice").model_digest == loaded.digest
    assert loaded.digest == load_bundle(bundle).digest == Verifier.load("hf://me/voice").model_digest
    assert loaded.metrics == METRICS


def test_only_the_bundle_and_its_readme_are_uploaded(hub, bundle, tmp_path):
    (bundle / "private.txt").write_text("secret")
    write_repository(bundle, tmp_path / "out", repository="me/voice", publication=PUBLICATION)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    (tmp_path / "out" / "private.txt").write_text("secret")
    push_repository(tmp_path / "out", repository="me/voice", private=False)
    repository = hub.repositories["me/voice"]
    assert sorted(repository.commits[repository.names["main"]]) == FILES


def test_only_the_two_files_of_a_bundle_are_fetched_and_only_once(hub, published):
    for _ in range(2):
        load_bundle("hf://me/voice")
    assert hub.fetched() == ["config.json", "model.safetensors"]


def test_what_was_downloaded_works_without_a_network_and_when_the_hub_is_down(hub, published, bundle, out_of_reach):
    digest = load_bundle("hf://me/voice").digest
    hub.status = 503
    assert load_bundle("hf://me/voice").digest == digest
    out_of_reach()
    assert load_bundle("hf://me/voice").digest == digest


def test_a_commit_that_was_downloaded_is_not_asked_for_again(hub, published, bundle):
    address = f"hf://me/voice@{published.names['main']}"
    digest = load_bundle(address).digest
    hub.requests.clear()
    assert load_bundle(address).digest == digest
    assert hub.requests == []


def test_a_model_that_was_published_anew_is_fetched_anew(published):
    assert load_bundle("hf://me/voice").training == {}
    changed(published, training={"version": 2})
    assert load_bundle("hf://me/voice").training == {"version": 2}


def test_a_revision_is_asked_for_by_name(published, bundle):
    published.names["v1.0"] = published.names["main"]
    changed(published, training={"version": 2})
    assert load_bundle("hf://me/voice@v1.0").training == {}
    with pytest.raises(HubError, match=r"revision must be a branch, a tag or a commit .* got hf://me/voice@v2, which"):
        load_bundle("hf://me/voice@v2")


@pytest.mark.parametrize(("name", "size"), [("config.json", 2**20 + 1), ("model.safetensors", 2**31 + 1)])
def test_a_file_beyond_all_measure_is_not_fetched(hub, published, monkeypatch, name, size):
    content = type("Huge", (bytes,), {"__len__": lambda _: size})()
    published.commits[published.names["main"]][name] = content
    with pytest.raises(ModelFileError, match=rf"{name} must be at most [\d,]+ bytes, got {size:,} in hf://me/voice"):
        load_bundle("hf://me/voice")
    assert hub.fetched() == []


def test_a_repository_without_a_bundle_is_named(hub):
    hub.repository("me/voice").commit({"config.json": b"{}", "weights.pkl": b"evil"})
    with pytest.raises(
        ModelFileError,
        match=r"a model of chns \(config\.json and model\.safetensors\) or as published by .*got config\.json, we",
    ):
        load_bundle("hf://me/voice")
    assert hub.fetched() == []


def test_a_repository_that_is_not_there_is_named(hub):
    with pytest.raises(
        HubError, match=r"model must be a repository that you may use, got hf://me/voice, which the Hub"
    ):
        load_bundle("hf://me/voice")


def test_a_gated_repository_says_how_to_get_access(hub, published):
    published.is_gated = True
    with pytest.raises(
        HubError, match=r"model must be open to you, got hf://me/voice, which is gated\. Ask for access"
    ):
        load_bundle("hf://me/voice")


def test_without_network_and_cache_the_error_is_one_clear_line(server, out_of_reach, recording, capsys):
    out_of_reach()
    with pytest.raises(HubError, match=r"Hub must answer for hf://me/voice, got: .*Check the network"):
        load_bundle("hf://me/voice")
    assert main(["verify", "hf://me/voice", str(recording), str(recording)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("chns: error: Hub must answer for hf://me/voice, got: ")
    assert printed.count("\n") == 1


def test_a_downloaded_bundle_is_not_trusted(published):
    changed(published, encoder="os.system")
    with pytest.raises(ModelFileError, match=r"encoder must come from a trusted package, got 'os\.system'"):
        load_bundle("hf://me/voice")


@pytest.mark.parametrize(
    "address",
    ["hf://voice", "hf://me/voice/model", "hf://../voice", "hf://me/a..b", "hf://me/voice@", "hf://-me/v",
     "hf://me/voice@../../x", "hf://me/voice@--x", "hf://me/voice@a b", "hf://me/voice\n"],
)  # fmt: skip
def test_an_address_of_another_form_is_refused(hub, address):
    with pytest.raises(ValueError, match="address must read hf://owner/name or hf://owner/name@revision, got "):
        load_bundle(address)
    assert hub.requests == []


@pytest.mark.parametrize("repository", ["voice", "me/voice/model", "me/../voice", "/etc/passwd", "me/a..b", "me/"])
def test_a_repository_of_another_form_is_refused(hub, bundle, tmp_path, repository):
    with pytest.raises(ValueError, match="repository must read owner/name, got "):
        write_repository(bundle, tmp_path / "out", repository=repository, publication=PUBLICATION)
    with pytest.raises(ValueError, match="repository must read owner/name, got "):
        push_repository(bundle, repository=repository, private=False)


def test_metrics_are_not_written_into_what_others_published(hub, published):
    with pytest.raises(
        ValueError, match=r"must be a folder of chns, .* got hf://me/voice\. Make one with `chns import hf://me/voice "
    ):
        add_metrics("hf://me/voice", {}, digest="")


def test_a_missing_package_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ChnsError, match=r"huggingface_hub must be installed.*pip install 'chns\[hub\]'"):
        load_bundle("hf://me/voice")


def test_a_local_model_needs_no_hub(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert Verifier.load(bundle).threshold == 0.3


@pytest.mark.slow
def test_commands_take_the_address_in_place_of_a_folder(published, recording, hum_manifest, tmp_path, capsys):
    files = [str(recording)] * 2
    store, out = str(tmp_path / "people.store"), str(tmp_path / "out")
    for words in (
        ["verify", "hf://me/voice", *files],
        ["enrol", "hf://me/voice", store, "anna", *files],
        ["identify", "hf://me/voice", store, files[0]],
        ["embed", "hf://me/voice", str(hum_manifest), "--out", f"{out}.parquet", "--workers", "0"],
        ["push", "hf://me/voice", "you/voice", "--licence", "mit", "--training-data", "Hums.", "--dry-run", out],
    ):
        assert main(words) == 0, capsys.readouterr().err
    assert load_bundle(out).metrics == METRICS


@pytest.mark.slow
def test_a_process_of_its_own_finds_hub_and_cache_by_the_environment(server, published, recording, tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.address,
        "HF_HUB_CACHE": str(tmp_path / "cache of its own"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    words = [sys.executable, "-m", "chns", "verify", "hf://me/voice", str(recording), str(recording), "--json"]
    done = subprocess.run(words, env=environment, capture_output=True, check=True)
    assert json.loads(done.stdout)["score"] == pytest.approx(1)
    assert (tmp_path / "cache of its own").is_dir()


def test_the_command_uploads_or_with_dry_run_only_writes(hub, bundle, tmp_path, capsys):
    words = [str(bundle), "me/voice", "--licence", "mit", "--training-data", "Hums.", "--intended-use", "Humming."]
    assert main(["push", *words, "--dry-run", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: nothing uploaded\n"
    assert hub.requests == []
    assert "## Intended use\n\nHumming.\n" in (tmp_path / "out/README.md").read_text()
    assert main(["push", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["commit"].rpartition("/")[0].endswith("me/voice/commit")
    assert load_bundle("hf://me/voice").digest == load_bundle(bundle).digest


def test_the_command_says_what_is_wrong_in_one_line(hub, bundle, capsys):
    words = ["--licence", "mit", "--training-data", "Hums."]
    assert main(["push", str(bundle), "voice", *words]) == 2
    assert capsys.readouterr().err == "chns: error: repository must read owner/name, got 'voice'.\n"
    hub.status = 403
    assert main(["push", str(bundle), "me/voice", *words]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("chns: error: Hub must answer for hf://me/voice, got: 403 Forbidden")
    assert printed.count("\n") == 1
