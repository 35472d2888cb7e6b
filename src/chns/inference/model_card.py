"""The README of a published model, made from what its bundle knows and what its publisher says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from chns.checkpoint import Bundle

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
        "Limits": _LIMITS,
        "Model": _architecture(bundle),
    }
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in sections.items())
    title = repository.partition("/")[2]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n# {title}\n\n{text}\n"


def _how_to_use(repository: str) -> str:
    return (
        "```python\n"
        "from chns.inference.hub import load_bundle_from_hub\n\n"
        f'bundle = load_bundle_from_hub("hf://{repository}")\n'
        "embeddings = bundle.model(waveforms)  # (batch, samples) in [-1, 1] to (batch, dim)\n"
        "```"
    )


def _training_facts(training: Mapping[str, Any]) -> str:
    facts = [f"{training[name]:,} {name}" for name in ("speakers", "utterances", "hours") if _is_number(training, name)]
    return f"{', '.join(facts)}." if facts else ""


def _error_rates(metrics: Mapping[str, Any]) -> str:
    rows = [_row(name, rates) for name, rates in metrics.items() if isinstance(rates, Mapping) and "eer" in rates]
    if not rows:
        return "None were measured."
    head = "| measured on | EER (95 % interval) | minDCF | target / non-target trials |\n|---|---|---|---|"
    return "\n".join([head, *rows]) + (
        "\n\nThe interval takes trials for independent. They share speakers, so the true one is wider. "
        "minDCF is normalised, with both costs 1."
    )


def _row(name: str, rates: Mapping[str, Any]) -> str:
    eer = float(rates["eer"])
    counts = [rates.get(kind) for kind in ("target_trials", "nontarget_trials")]
    known = [count for count in counts if isinstance(count, int) and count > 0]
    interval, trials = "", "unknown"
    if len(known) == 2:
        half = eer_half_width(eer, *known)
        interval = f" ({100 * max(0.0, eer - half):.2f} to {100 * min(1.0, eer + half):.2f} %)"
        trials = " / ".join(f"{count:,}" for count in known)
    costs = ", ".join(f"{cost:.3f} (p_target {p})" for p, cost in rates.get("min_dcf", {}).items())
    return f"| {name} | {100 * eer:.2f} %{interval} | {costs or 'unknown'} | {trials} |"


def eer_half_width(eer: float, num_targets: int, num_nontargets: int) -> float:
    """Half of the 95 % interval of an EER, if trials were independent.

    The EER is a mean of a miss and a false-alarm rate, each a share of its own trials.
    """
    return 1.96 * math.sqrt(eer * (1 - eer) * (1 / num_targets + 1 / num_nontargets)) / 2


def _architecture(bundle: Bundle) -> str:
    millions = sum(parameter.numel() for parameter in bundle.model.parameters()) / 1e6
    return (
        f"`{bundle.architecture.encoder}`, {millions:.2f} M parameters, {bundle.model.features.num_mels} log-mels, "
        f"{bundle.model.sample_rate_hz} Hz. SHA-256 of the weights: `{bundle.digest}`."
    )


def _is_number(training: Mapping[str, Any], name: str) -> bool:
    return isinstance(training.get(name), (int, float))
