"""Publish a model bundle on the Hugging Face Hub; `chns.checkpoint.load_bundle` reads it from there.

A repository holds the bundle's files and a generated README, and nothing else of the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from chns.checkpoint import BUNDLE_FILES, GRAPH_FILE, bundle_folder, load_bundle, require_own_bundle
from chns.errors import ModelFileError
from chns.files import atomic_folder
from chns.hub_download import SCHEME, explained_hub_errors, require_hub, require_repository
from chns.inference.decision_rule import DecisionRule
from chns.inference.model_card import Publication, model_card

_CARD = "README.md"


def write_repository(
    model: Path | str,
    folder: Path,
    *,
    repository: str,
    publication: Publication,
    trusted_packages: Collection[str] = (),
) -> None:
    """Put what a repository on the Hub holds into a local folder: the bundle and its README.

    Args:
        model: The bundle's folder, or ``hf://owner/name[@revision]``.
        folder: Where to; one that exists is replaced if it holds a bundle and its README, and nothing else.
        repository: ``owner/name``.
        publication: What the README says that the bundle does not know.
        trusted_packages: Further packages whose encoders may be built.

    Raises:
        ValueError: If the repository's name is not of that form.
        FileNotFoundError, HubError: If there is no bundle.
        FileExistsError: If the folder holds anything else.
        ModelFileError: If the bundle cannot be loaded, or its threshold or calibration lets nearly everybody pass.
    """
    require_repository(repository)
    require_own_bundle(folder, card=_CARD)
    source = bundle_folder(model)
    bundle = load_bundle(source, trusted_packages=trusted_packages)
    rule = DecisionRule.of_bundle(bundle.metrics, threshold=None)
    warnings = () if rule.score_threshold is None else rule.warnings(rule.score_threshold)
    if warnings:
        raise ModelFileError(f"model must not let nearly everybody pass, to be published, got {source}: {warnings[0]}.")
    with atomic_folder(folder, ours=(*BUNDLE_FILES, GRAPH_FILE, _CARD)) as temporary:
        for name in (*BUNDLE_FILES, *([GRAPH_FILE] if (source / GRAPH_FILE).is_file() else [])):
            shutil.copyfile(source / name, temporary / name)
        (temporary / _CARD).write_text(model_card(repository, bundle, publication), encoding="utf-8")


def push_repository(folder: Path, *, repository: str, private: bool) -> str:
    """Upload what `write_repository` wrote; the repository is made if there is none.

    Args:
        folder: Only the bundle's files and the README in it are uploaded.
        repository: ``owner/name``.
        private: Whether a new repository is only for its owner.

    Returns:
        Address of the commit.

    Raises:
        ValueError: If the repository's name is not of that form.
        ChnsError: If ``huggingface_hub`` is missing.
        HubError: If the Hub cannot be reached or refuses.
    """
    require_repository(repository)
    hub = require_hub()
    with explained_hub_errors(hub, SCHEME + repository):
        hub.HfApi().create_repo(repository, private=private, exist_ok=True)
        commit = hub.HfApi().upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[*BUNDLE_FILES, GRAPH_FILE, _CARD],
            commit_message="Model bundle of chns",
        )
    return str(commit.commit_url)
