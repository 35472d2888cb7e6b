"""Publish a model bundle on the Hugging Face Hub, with a README made from what it knows."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any

import yaml

from chns.bundle import (
    BUNDLE_FILES,
    GRAPH_FILE,
    SCHEME,
    Bundle,
    bundle_folder,
    explained_hub_errors,
    load_bundle,
    require_hub,
    require_own_bundle,
    require_repository,
)
from chns.core import ModelFileError, atomic_folder, quoted
from chns.evaluation import is_number
from chns.inference.decision_rule import DecisionRule

_INTENDED_USE = """Comparing two recordings: the cosine of their embeddings says how likely one person speaks in both.
Also finding the most similar of several enrolled speakers, and grouping recordings by voice."""

_LIMITS = """- A score is not a proof of identity. Recorded, converted and synthetic voices of a person score like the
  person; nothing here detects them.
- Error rates hold for recordings like those they were measured on. Other languages, channels, ages, noise or very
  short recordings can be much worse, and can differ between groups of people.
- The threshold has to be chosen on recordings of the intended use.
- Voices are personal data: enrol people with their consent, and mind the law."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What only the publisher of a model knows.

    Attributes:
        licence: Identifier of the licence, as the Hugging Face Hub writes it: ``apache-2.0``, ``cc-by-4.0``, ``other``.
        training_data: Which recordings the model was trained on, and under which terms they may be used.
        intended_use: What it is for; by default what any speaker model is for.
        language: Code of the language it was trained on, such as ``en``.

    Examples:
        >>> from chns import Publication
        >>> Publication(licence="apache-2.0", training_data="VoxCeleb2 dev, for research").language is None
        True
    """

    licence: str
    training_data: str
    intended_use: str = _INTENDED_USE
    language: str | None = None


def model_card(repository: str, bundle: Bundle, publication: Publication) -> str:
    """The text of the README, with the YAML that the Hub reads in front.

    Args:
        repository: Where it is published, ``owner/name``.
        bundle: The model.
        publication: What the bundle does not know.

    Raises:
        ModelFileError: If the bundle's error rates, calibration or threshold are none.
    """
    header = {
        "license": publication.licence,
        **({"language": publication.language} if publication.language else {}),
        "library_name": "chns",
        "tags": ["speaker-verification", "speaker-recognition", "speaker-embedding", "audio"],
        "metrics": ["eer"],
    }
    sections = {
        "How to use": _how_to_use(repository),
        "Intended use": publication.intended_use,
        "Training data": "\n\n".join([publication.training_data, _training_facts(bundle.training)]).strip(),
        "Error rates": _error_rates(bundle.metrics),
        "Decisions": _decisions(bundle.metrics),
        "Limits": _LIMITS,
        "Licence": f"`{_cell(publication.licence)}`. The training data have terms of their own, see above.",
        "Model": _architecture(bundle),
    }
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in sections.items())
    title = repository.partition("/")[2]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n# {title}\n\n{text}\n"


def _how_to_use(repository: str) -> str:
    return (
        "```python\n"
        "from chns.inference.verifier import Verifier\n\n"
        f'verifier = Verifier.load("hf://{repository}")\n'
        'decision = verifier.verify("a.wav", "b.wav")  # score, threshold, accepted, quality warnings\n'
        "```\n\n"
        "```console\n"
        "$ pip install 'chns[hub]'\n"
        f"$ chns verify hf://{repository} a.wav b.wav\n"
        "```"
    )


def _training_facts(training: Mapping[str, Any]) -> str:
    facts = [
        f"{training[name]:,} {name}" for name in ("speakers", "utterances", "hours") if is_number(training.get(name))
    ]
    sentences = [f"{', '.join(facts)}."] if facts else []
    loss, batches = _setting(training, "loss", "factory"), _setting(training, "batches", "kind")
    if loss and batches:
        sentences.append(f"Loss: `{loss}`; batches: {batches}.")
    if isinstance(training.get("imported_from"), str):
        sentences.append(f"Weights taken over from a checkpoint of {training['imported_from']}.")
    return " ".join(sentences)


def _setting(training: Mapping[str, Any], section: str, name: str) -> str | None:
    settings = training.get("settings")
    values = settings.get(section) if isinstance(settings, Mapping) else None
    value = values.get(name) if isinstance(values, Mapping) else None
    return value if isinstance(value, str) else None


def _decisions(metrics: Mapping[str, Any]) -> str:
    """Where scores are accepted by default, and on what that rests."""
    rule = DecisionRule.of_bundle(metrics, threshold=None)
    if rule.score_threshold is None:
        return "The model states no threshold: choose one with `chns calibrate` on recordings of the intended use."
    threshold = f"By default a score is accepted from {rule.score_threshold:.3f} on, "
    if rule.calibration is None:
        return (
            threshold
            + "the point where the validation misses as often as it accepts falsely. Scores are not calibrated."
        )
    counts = _trial_counts(metrics["calibration"])
    trials = f" of {counts[0]:,} target and {counts[1]:,} non-target trials" if counts else ""
    return threshold + f"as its calibration{trials} says; decisions come with a log-likelihood ratio."


def _error_rates(metrics: Mapping[str, Any]) -> str:
    measured = {name: rates for name, rates in metrics.items() if isinstance(rates, Mapping) and "eer" in rates}
    if not measured:
        return "None were measured."
    head = "| measured on | EER | minDCF | target / non-target trials |\n|---|---|---|---|"
    note = "In brackets 95 % intervals. minDCF is normalised, with both costs 1."
    if any(not _interval(rates, "eer") for rates in measured.values()):
        note += (
            " An interval marked * takes trials for independent. They share speakers, so the true one is wider; "
            "those without come from resampled speakers."
        )
    return "\n".join([head, *(_row(name, rates) for name, rates in measured.items()), "", note])


def _row(name: str, rates: Mapping[str, Any]) -> str:
    eer, counts = _fraction(rates["eer"], name), _trial_counts(rates)
    interval, mark = _interval(rates, "eer"), ""
    if interval is None and counts is not None:
        half = eer_half_width(eer, *counts)
        interval, mark = (max(0.0, eer - half), min(1.0, eer + half)), "*"
    text = f"{100 * eer:.2f} %" + (f" [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]{mark}" if interval else "")
    trials = " / ".join(f"{count:,}" for count in counts) if counts else "unknown"
    return f"| {_cell(name)} | {text} | {_costs(rates) or 'unknown'} | {trials} |"


def _costs(rates: Mapping[str, Any]) -> str:
    costs = rates.get("min_dcf")
    found = []
    for p_target, cost in costs.items() if isinstance(costs, Mapping) else ():
        interval = _interval(rates, f"min_dcf_{p_target}")
        bounds = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        found.append(f"{cost:.3f}{bounds} (p_target {_cell(p_target)})" if is_number(cost) else "unknown")
    return ", ".join(found)


def _interval(rates: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """That of a metric as ``chns metrics --intervals --json`` prints it, if the bundle has it."""
    intervals = rates.get("intervals")
    bounds = intervals.get(metric) if isinstance(intervals, Mapping) else None
    if not isinstance(bounds, Mapping) or not (is_number(bounds.get("low")) and is_number(bounds.get("high"))):
        return None
    return bounds["low"], bounds["high"]


def _trial_counts(rates: Mapping[str, Any]) -> tuple[int, int] | None:
    targets, nontargets = (rates.get(kind) for kind in ("target_trials", "nontarget_trials"))
    if type(targets) is int and type(nontargets) is int and targets > 0 and nontargets > 0:
        return targets, nontargets
    return None


def _fraction(value: Any, name: str) -> float:
    if not is_number(value) or not 0 <= value <= 1:
        raise ModelFileError(
            f"eer must be a fraction between 0 and 1, got {short_repr(value)} in metrics of {quoted(name)}."
        )
    return float(value)


def _cell(text: str) -> str:
    """A name from the bundle as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def eer_half_width(eer: float, num_targets: int, num_nontargets: int) -> float:
    """Half of the 95 % interval of an EER, if trials were independent.

    The EER is a mean of a miss and a false-alarm rate, each a share of its own trials.
    """
    return 1.96 * math.sqrt(eer * (1 - eer) * (1 / num_targets + 1 / num_nontargets)) / 2


def _architecture(bundle: Bundle) -> str:
    millions = sum(parameter.numel() for parameter in bundle.model.parameters()) / 1e6
    return (
        f"`{bundle.architecture.encoder}`, {millions:.2f} M parameters, {bundle.model.features.num_mels} mels of "
        f"`{bundle.architecture.features}`, "
        f"{bundle.model.sample_rate_hz} Hz. SHA-256 of the weights: `{bundle.digest}`."
    )


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


def push_to_hub(
    model: Path | str,
    repository: str,
    publication: Publication,
    *,
    private: bool = False,
    trusted_packages: Collection[str] = (),
) -> str:
    """Publish a bundle with a README: `write_repository`, then `push_repository`; see there for arguments and errors.

    Returns:
        Address of the commit.

    Examples:
        >>> from chns import Publication, push_to_hub
        >>> publication = Publication(licence="apache-2.0", training_data="VoxCeleb2 dev, for research")
        >>> address = push_to_hub("runs/chns/model", "me/voices", publication, private=True)
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        write_repository(
            model, folder, repository=repository, publication=publication, trusted_packages=trusted_packages
        )
        return push_repository(folder, repository=repository, private=private)
