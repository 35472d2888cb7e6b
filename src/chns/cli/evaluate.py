"""``chns evaluate``: score a trial list with a model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser
from chns.cli.model_options import add_model_options, load_on_device

_EXAMPLES = """  chns evaluate runs/chns/model vox1.parquet --trials veri_test2.txt --scores scores.txt
  chns evaluate runs/chns/model test.parquet --trials trials.txt --scores scores.txt --json

The score is the cosine of whole-utterance embeddings. Trial lists:
  voxceleb    1 ENROL TEST
  kaldi       ENROL TEST target
  cnceleb     ENROL TEST 1
  unlabelled  ENROL TEST           scores without error rates
Names are utterances or paths of the manifest; the suffix may differ."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("evaluate", examples=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model's folder")
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="where the utterances of the trials are")
    parser.add_argument("--trials", type=Path, required=True, metavar="TRIALS", help="the trial list")
    parser.add_argument("--scores", type=Path, required=True, metavar="OUT", help="where the scores go")
    parser.add_argument(
        "--format",
        choices=["auto", "voxceleb", "kaldi", "cnceleb", "unlabelled"],
        default="auto",
        help="how the trial list reads (default: %(default)s)",
    )
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary and the metrics as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Embed the utterances of the trials, write their scores, and print the metrics if there are labels."""
    from chns.data.manifest import Manifest
    from chns.evaluation.metrics import verification_metrics
    from chns.evaluation.scoring import write_scores
    from chns.evaluation.trials import read_trials, resolve

    trials = read_trials(arguments.trials, form=arguments.format)
    manifest = Manifest.read(arguments.manifest)
    enrolment, test = resolve(trials, manifest)

    from chns.evaluation.verification import score_trials

    bundle, device = load_on_device(arguments.model, arguments)
    scores = score_trials(bundle.model, manifest, enrolment, test, num_workers=arguments.workers, device=device)
    write_scores(arguments.scores, trials, scores)
    metrics = None if trials.is_target is None else verification_metrics(scores, trials.is_target)
    if arguments.json:
        summary = {
            "model": str(arguments.model),
            "manifest": str(arguments.manifest),
            "trials": str(arguments.trials),
            "scores": str(arguments.scores),
        }
        print(json.dumps({**summary, **(metrics.to_json() if metrics else {})}))
        return
    print(f"{arguments.scores}: {len(trials):,} scores")
    print(metrics or "The trial list has no labels, so there are no error rates.")
