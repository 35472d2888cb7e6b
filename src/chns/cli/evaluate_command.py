"""``chns evaluate``: score a trial list with a model."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from chns.cli import command_parser
from chns.cli.options import add_model_options, add_root_option, load_embedder, sweep_path
from chns.core import counted

if TYPE_CHECKING:
    from chns.core import Float32Array, IntArray
    from chns.data import Manifest
    from chns.evaluation import CohortNormalisation, Condition, EnrolmentModels, Kind, Sweep, Trials

_KINDS: tuple[Kind, ...] = ("z", "t", "s", "as")
_TOP_K = 300
_AVERAGES = ("average-embeddings", "average-scores")

_EXAMPLES = """  chns evaluate runs/chns/model vox1.parquet --trials veri_test2.txt --out scores.txt
  chns evaluate runs/chns/model test.parquet --trials trials.txt --out scores.txt --json
  chns evaluate runs/chns/model vox1.parquet --trials veri_test2.txt --out as.txt --as-norm vox2.parquet
  chns evaluate runs/chns/model cnceleb.parquet --trials trials.lst --out scores.txt --enrolment-map enroll.map
  chns evaluate MODEL vox1.parquet --trials veri_test2.txt --out s.txt --noise musan/noise --sweep \
      duration=1,2,3,5 snr=20,10,5,0 codec=telephone,opus
  chns evaluate runs/chns/model test.parquet --gallery 10,100,1000 --out runs/chns/scores/gallery.json

The score is the cosine of whole-utterance embeddings. Trial lists:
  voxceleb    1 ENROL TEST
  kaldi       ENROL TEST target
  cnceleb     ENROL TEST 1
  unlabelled  ENROL TEST           scores without error rates
Names are utterances or paths of the manifest; the suffix may differ.

Normalisation measures each score in standard deviations from the mean of the scores that a side of the trial gets
against a cohort: other speakers than those of the trials, like the training speakers.
  --z-norm    the enrolment's side            --s-norm    the average of both
  --t-norm    the test utterance's side       --as-norm   that, with the most similar of the cohort alone
Results are comparable only with the same kind, cohort, --cohort-of, --top-k and --subtract-mean. WeSpeaker's choices
are `--as-norm VOX2-DEV --subtract-mean`, with the default top 300 of the speakers.

--gallery enrols one utterance of each of so many speakers, drawn ten times; their other utterances are to be found, and
at most 1 % of those of all other speakers. One needs many more speakers than the largest gallery.

--sweep scores the same trials again with the test utterances changed, one condition at a time, the enrolment as
recorded: a part of so many seconds (all of a shorter one), noise so many decibels below the speech, a line (telephone,
gsm, mp3, opus). An utterance is always changed in the same way, whatever the list and the model.

With an enrolment map, trials name a model. A line reads MODEL UTTERANCE UTTERANCE ...: CN-Celeb's enroll.map or
enroll.lst, Kaldi's spk2utt."""


def evaluate_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("evaluate", examples=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model: a folder, or hf://owner/name")
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="where the utterances of the trials are")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--trials", type=Path, metavar="TRIALS", help="the trial list")
    task.add_argument(
        "--gallery",
        type=_sizes,
        metavar="N,N,...",
        help="instead of trials, open-set identification: FNIR at a FPIR of 1 %% with so many speakers enrolled",
    )
    parser.add_argument(
        "--out",
        "--scores",
        dest="scores",
        type=Path,
        required=True,
        metavar="OUT",
        help="where the scores go; with --gallery the rates, as JSON",
    )
    parser.add_argument(
        "--format",
        choices=["auto", "voxceleb", "kaldi", "cnceleb", "unlabelled"],
        default="auto",
        help="how the trial list reads (default: %(default)s)",
    )
    _add_enrolment_options(parser)
    _add_normalisation_options(parser)
    _add_sweep_options(parser)
    add_root_option(parser)
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary and the metrics as JSON")
    return parser


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("worse conditions")
    group.add_argument(
        "--sweep",
        nargs="+",
        default=[],
        metavar="AXIS=VALUES",
        help="the same trials with the test utterances changed, like duration=1,2 snr=20,10 codec=telephone,opus; "
        "writes OUT.sweep.json beside the scores, which are those as recorded",
    )
    group.add_argument(
        "--noise", type=Path, metavar="DIR", help="recordings to take the noise of snr from (default: it is generated)"
    )


def _add_enrolment_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("enrolment from several utterances")
    group.add_argument("--enrolment-map", type=Path, metavar="MAP", help="the utterances of each enrolment model")
    group.add_argument(
        "--enrolment",
        choices=_AVERAGES,
        help=f"what is averaged over them: length-normalised embeddings, or scores (default: {_AVERAGES[0]})",
    )


def _add_normalisation_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("score normalisation")
    kinds = group.add_mutually_exclusive_group()
    for kind in _KINDS:
        kinds.add_argument(
            f"--{kind}-norm",
            dest="cohort",
            type=partial(_Cohort, kind),
            metavar="C.parquet",
            help=f"{kind.upper()}-norm with this cohort",
        )
    group.add_argument(
        "--top-k", type=int, metavar="K", help=f"most similar of the cohort that --as-norm takes (default: {_TOP_K})"
    )
    group.add_argument(
        "--cohort-of",
        choices=["speakers", "utterances"],
        help="compare with the mean of each speaker's length-normalised embeddings, or with every utterance "
        "(default: speakers)",
    )
    group.add_argument(
        "--subtract-mean", action="store_true", help="first subtract the mean of the cohort from all embeddings"
    )


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Embed the utterances of the trials, write their scores, and print the metrics if there are labels."""
    from chns.core import shown
    from chns.data import Manifest
    from chns.evaluation import read_trials, verification_metrics, write_scores

    _require_consistent(arguments)
    if arguments.gallery is not None:
        _identify(arguments)
        return
    trials = read_trials(arguments.trials, form=arguments.format)
    if arguments.sweep and trials.is_target is None:
        raise ValueError(f"--sweep must have trials with labels, got none in {arguments.trials}.")
    manifest = Manifest.read(arguments.manifest, root=arguments.root)
    rows = _Rows.of(trials, manifest, arguments.enrolment_map)
    for sentence in rows.contradictions(trials, manifest):
        print(shown(sentence), file=sys.stderr)
    normalisation = _normalisation(arguments)

    from chns.evaluation import score_conditions

    embedder, bundle = load_embedder(arguments.model, arguments)
    conditions = _conditions(arguments, bundle.model.sample_rate_hz)
    scores, *others = score_conditions(
        embedder,
        manifest,
        rows.enrolment,
        rows.test,
        conditions,
        enrolment_models=rows.models,
        averaged="scores" if arguments.enrolment == "average-scores" else "embeddings",
        normalisation=normalisation,
    )
    write_scores(arguments.scores, trials, scores)
    metrics = None if trials.is_target is None else verification_metrics(scores, trials.is_target)
    sweep = _sweep(arguments, trials, manifest, rows, conditions, [scores, *others]) if conditions else None
    if arguments.json:
        summary = {
            "model": str(arguments.model),
            "manifest": str(arguments.manifest),
            "trials": str(arguments.trials),
            "scores": str(arguments.scores),
        }
        settings = _settings_json(arguments, rows, normalisation)
        content: dict[str, object] = {**summary, **settings, **(metrics.to_json() if metrics else {})}
        print(json.dumps({**content, **(sweep.to_json() if sweep else {})}))
        return
    print(f"{arguments.scores}: {counted(len(trials), 'score')}")
    for line in _settings_lines(arguments, rows, normalisation):
        print(line)
    print(metrics or "The trial list has no labels, so there are no error rates.")
    if sweep is not None:
        print(sweep)
        print(f"{sweep_path(arguments.scores)}: the same for programs and `chns report`")


def _sizes(text: str) -> list[int]:
    """Sizes of galleries between commas."""
    if not re.fullmatch("[0-9]{1,9}(,[0-9]{1,9})*", text):
        raise argparse.ArgumentTypeError(f"must be whole numbers between commas, got {text!r}")
    return [int(size) for size in text.split(",")]


def _identify(arguments: argparse.Namespace) -> None:
    """Open-set identification among the speakers of the manifest."""
    from chns.core import write_text
    from chns.data import Manifest
    from chns.evaluation import identification_rates

    manifest = Manifest.read(arguments.manifest, root=arguments.root)
    embedder, _ = load_embedder(arguments.model, arguments)
    found = identification_rates(embedder.utterances(manifest), manifest.speaker_labels, arguments.gallery)
    content = {"model": str(arguments.model), "manifest": str(arguments.manifest), **found.to_json()}
    write_text(arguments.scores, json.dumps(content, indent=1))
    print(json.dumps(content) if arguments.json else f"{found}\n{arguments.scores}: the same for programs")


def _conditions(arguments: argparse.Namespace, sample_rate_hz: int) -> Sequence[Condition]:
    if not arguments.sweep:
        return []
    from chns.evaluation import sweep_conditions

    return sweep_conditions(arguments.sweep, sample_rate_hz=sample_rate_hz, noise_folder=arguments.noise)


def _sweep(
    arguments: argparse.Namespace,
    trials: Trials,
    manifest: Manifest,
    rows: _Rows,
    conditions: Sequence[Condition],
    scores: Sequence[Float32Array],
) -> Sweep:
    """The error rates under each condition, which are also written."""
    import numpy as np

    from chns.core import write_text
    from chns.evaluation import noise_in_words, sweep_rates

    assert trials.is_target is not None  # else it was refused
    sweep = sweep_rates(
        np.stack(scores),
        trials.is_target,
        rows.speakers(manifest),
        conditions,
        noise=noise_in_words(arguments.noise),
        test_seconds=manifest.durations_seconds[np.unique(rows.test)],
    )
    origin = {"model": str(arguments.model), "manifest": str(arguments.manifest), "trials": str(arguments.trials)}
    write_text(sweep_path(arguments.scores), json.dumps({**origin, **sweep.to_json()}, indent=1))
    return sweep


def _require_consistent(arguments: argparse.Namespace) -> None:
    if arguments.gallery is not None:
        of_trials = {
            "--sweep": arguments.sweep,
            "--enrolment-map": arguments.enrolment_map,
            "--enrolment": arguments.enrolment,
            "a normalisation": arguments.cohort,
        }
        idle = [name for name, value in of_trials.items() if value]
        if idle:
            raise ValueError(f"{idle[0]} must come with --trials, got it with --gallery.")
    if arguments.noise is not None and not arguments.sweep:
        raise ValueError(f"--noise must come with --sweep, got {arguments.noise} alone.")
    if arguments.enrolment is not None and arguments.enrolment_map is None:
        raise ValueError(f"--enrolment must come with --enrolment-map, got {arguments.enrolment} alone.")
    if arguments.cohort is None:
        given = {
            "--top-k": arguments.top_k is not None,
            "--cohort-of": arguments.cohort_of is not None,
            "--subtract-mean": arguments.subtract_mean,
        }
        idle = [name for name, is_given in given.items() if is_given]
        if idle:
            options = ", ".join(f"--{kind}-norm" for kind in _KINDS)
            raise ValueError(f"{idle[0]} must come with one of {options}, got it alone. It says how to normalise.")
    elif arguments.top_k is not None and arguments.cohort.kind != "as":
        raise ValueError(
            f"--top-k must come with --as-norm, got --{arguments.cohort.kind}-norm, which takes the whole cohort."
        )


class _Cohort(NamedTuple):
    """What an option like ``--as-norm C.parquet`` says."""

    kind: Kind
    path: str


class _Rows(NamedTuple):
    """The trials as rows of the manifest, or as models and rows."""

    enrolment: IntArray
    test: IntArray
    models: EnrolmentModels | None

    @classmethod
    def of(cls, trials: Trials, manifest: Manifest, enrolment_map: Path | None) -> _Rows:
        from chns.evaluation import read_enrolment_map, resolve, resolve_enrolment

        if enrolment_map is None:
            return cls(*resolve(trials, manifest), None)
        resolved = resolve_enrolment(trials, read_enrolment_map(enrolment_map), manifest)
        return cls(resolved.enrolment, resolved.test, resolved.models)

    def contradictions(self, trials: Trials, manifest: Manifest) -> list[str]:
        """What the trials say against the manifest or themselves."""
        from chns.evaluation import contradictions, label_contradictions

        # models are numbered beside the utterances
        enrolment = self.enrolment if self.models is None else self.enrolment + len(manifest)
        return [*label_contradictions(trials, *self.speakers(manifest)), *contradictions(trials, enrolment, self.test)]

    def speakers(self, manifest: Manifest) -> tuple[IntArray, IntArray]:
        """Speaker of each trial's enrolment, and of its test utterance; a model speaks as its first utterance does."""
        labels = manifest.speaker_labels
        first = self.enrolment if self.models is None else self.models.rows[self.models.starts][self.enrolment]
        return labels[first], labels[self.test]


def _normalisation(arguments: argparse.Namespace) -> CohortNormalisation | None:
    from chns.data import Manifest
    from chns.evaluation import CohortNormalisation

    if arguments.cohort is None:
        return None
    kind, path = arguments.cohort
    top_k = arguments.top_k
    if kind == "as" and top_k is None:
        top_k = _TOP_K
    return CohortNormalisation(
        cohort=Manifest.read(path),
        kind=kind,
        top_k=top_k,
        cohort_of=arguments.cohort_of or "speakers",
        subtract_mean=arguments.subtract_mean,
    )


def _settings_json(
    arguments: argparse.Namespace, rows: _Rows, normalisation: CohortNormalisation | None
) -> dict[str, object]:
    """What the scores depend on beside model, manifest and trials; nothing where they are plain cosines."""
    settings: dict[str, object] = {}
    if rows.models is not None:
        settings["enrolment"] = {
            "map": str(arguments.enrolment_map),
            "by": arguments.enrolment or _AVERAGES[0],
            "models": len(rows.models.counts),
            "utterances": len(rows.models.rows),
        }
    if normalisation is not None:
        settings["normalisation"] = {**normalisation.to_json(), "cohort": arguments.cohort.path}
    return settings


def _settings_lines(arguments: argparse.Namespace, rows: _Rows, normalisation: CohortNormalisation | None) -> list[str]:
    """The same in words."""
    lines = []
    if rows.models is not None:
        lines.append(
            f"enrolment: {(arguments.enrolment or _AVERAGES[0]).replace('-', ' ')}, {len(rows.models.counts):,} models "
            f"of {len(rows.models.rows):,} utterances ({arguments.enrolment_map})"
        )
    if normalisation is not None:
        lines.append(f"normalisation: {normalisation} ({arguments.cohort.path})")
    return lines
