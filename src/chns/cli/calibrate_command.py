"""``chns calibrate``: turn scores into log-likelihood ratios, and set the threshold."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from chns.cli import command_parser
from chns.cli.options import add_model_options, load_embedder

if TYPE_CHECKING:
    from chns.core import BoolArray, IntArray
    from chns.data import Manifest
    from chns.evaluation import Calibration, Embedder, MeasuredTrials, Thresholds

_FEW_FALSE_ALARMS = 30

_EXAMPLES = """  chns calibrate runs/chns/model dev.parquet --trials dev.txt --false-alarm 0.01
  chns calibrate runs/chns/model dev.parquet --trials dev.txt --p-target 0.01 --cost-false-alarm 10 \\
      --quality duration,magnitude --apply-to test.txt --apply-manifest test.parquet

Fits, by logistic regression, log-likelihood ratio = scale * score + offset, with terms for the quality of the
recordings on request, and writes it into the model together with the threshold. From then on `chns verify` prints the
ratio and decides by this threshold; `chns identify`, which knows only scores, by the equivalent score. The weights stay
as they are. Calibrating again replaces the calibration.

The trials should be of speakers that the model was not trained on, and of speech like that of its use. What a
calibration is worth shows on other trials, of other speakers: --apply-to.

The threshold is where accepting starts to cost less than rejecting, at the given prior and costs; or, with
--false-alarm, where that share of the non-target trials of the list is accepted."""


def calibrate_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("calibrate", examples=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model's folder; the calibration is written into it")
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="where the utterances of the trials are")
    parser.add_argument("--trials", type=Path, required=True, metavar="TRIALS", help="labelled trials to fit")
    parser.add_argument(
        "--format",
        choices=["auto", "voxceleb", "kaldi", "cnceleb"],
        default="auto",
        help="how the trial lists read (default: %(default)s)",
    )
    parser.add_argument(
        "--p-target", type=float, default=0.05, metavar="P", help="prior probability of a target (default: %(default)s)"
    )
    parser.add_argument("--cost-miss", type=float, metavar="C", help="cost of rejecting a target (default: 1)")
    parser.add_argument("--cost-false-alarm", type=float, metavar="C", help="cost of accepting another (default: 1)")
    parser.add_argument("--false-alarm", type=float, metavar="RATE", help="wished false-alarm rate, instead of costs")
    parser.add_argument(
        "--quality",
        type=_measures,
        default=(),
        metavar="LIST",
        help="measures of quality to calibrate for: duration, magnitude or duration,magnitude (default: none)",
    )
    parser.add_argument(
        "--apply-to", type=Path, metavar="TRIALS", help="other labelled trials, to see what it is worth"
    )
    parser.add_argument(
        "--apply-manifest",
        type=Path,
        metavar="M.parquet",
        help="where their utterances are (default: the same manifest)",
    )
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print calibration and metrics as JSON")
    return parser


def run_calibrate(arguments: argparse.Namespace) -> None:
    """Fit the calibration, write it into the bundle, and print what it does to the trials."""
    from chns.evaluation import calibration_effect, fit_calibration

    _require_consistent(arguments)
    lists = _read_lists(arguments)

    from chns.bundle import add_metrics, require_local

    require_local(arguments.model)
    embedder, bundle = load_embedder(arguments.model, arguments)
    measured = {name: trials.measure(embedder) for name, trials in lists.items()}
    fitted, is_target = measured["fitted_on"], lists["fitted_on"].is_target
    quality = {name: fitted.quality[name] for name in arguments.quality}
    calibration = fit_calibration(fitted.scores, is_target, p_target=arguments.p_target, quality=quality)
    thresholds = _thresholds(arguments, calibration, fitted, is_target)
    effects = {
        name: calibration_effect(
            trials.scores,
            calibration.apply(*trials),
            lists[name].is_target,
            p_target=arguments.p_target,
            threshold=thresholds.llr,
        )
        for name, trials in measured.items()
    }
    record = _record(arguments, calibration, thresholds, is_target)
    add_metrics(arguments.model, {"calibration": record}, digest=bundle.digest)
    if arguments.json:
        reports = {name: effect.to_json() for name, effect in effects.items()}
        print(json.dumps({"model": str(arguments.model), "calibration": record, **reports}))
        return
    print(f"{arguments.model}: {_formula(calibration)}")
    print(
        f"accepted from {thresholds.llr:.3f} on; where only the score is known, from a score of {thresholds.score:.3f}"
    )
    for name, effect in effects.items():
        print(f"\n{name.replace('_', ' ')} {lists[name].path}: {effect}")
    for warning in _warnings(arguments, is_target, all_rejected=effects["fitted_on"].miss == 1):
        print(f"warning: {warning}")


class _LabelledTrials(NamedTuple):
    path: Path
    manifest: Manifest
    enrolment: IntArray
    test: IntArray
    is_target: BoolArray

    @classmethod
    def read(cls, path: Path, manifest_path: Path, *, form: str) -> _LabelledTrials:
        from chns.core import TrialError
        from chns.data import Manifest
        from chns.evaluation import contradictions, label_contradictions, read_trials, resolve

        trials = read_trials(path, form=form)
        if trials.is_target is None:
            raise TrialError(f"trial list must have a label on each line, got none in {path}. Add target or nontarget.")
        manifest = Manifest.read(manifest_path)
        rows = resolve(trials, manifest)
        speakers = [manifest.speaker_labels[side] for side in rows]
        for sentence in [*label_contradictions(trials, *speakers), *contradictions(trials, *rows)]:
            print(sentence, file=sys.stderr)
        return cls(path, manifest, *rows, trials.is_target)

    def measure(self, embedder: Embedder) -> MeasuredTrials:
        from chns.evaluation import measure_trials

        return measure_trials(embedder, self.manifest, self.enrolment, self.test)


def _read_lists(arguments: argparse.Namespace) -> dict[str, _LabelledTrials]:
    lists = {"fitted_on": _LabelledTrials.read(arguments.trials, arguments.manifest, form=arguments.format)}
    if arguments.apply_to is not None:
        manifest = arguments.apply_manifest or arguments.manifest
        lists["applied_to"] = _LabelledTrials.read(arguments.apply_to, manifest, form=arguments.format)
    return lists


def _measures(text: str) -> tuple[str, ...]:
    from chns.evaluation import QUALITY_MEASURES

    names = tuple(text.split(","))
    unknown = [name for name in names if name not in QUALITY_MEASURES]
    if unknown or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"must be some of {','.join(QUALITY_MEASURES)}, got {text!r}.")
    return names


def _require_consistent(arguments: argparse.Namespace) -> None:
    if arguments.false_alarm is not None and (arguments.cost_miss, arguments.cost_false_alarm) != (None, None):
        raise ValueError("--false-alarm must be given without costs, got both. Each of them decides the threshold.")
    if arguments.apply_manifest is not None and arguments.apply_to is None:
        raise ValueError(f"--apply-manifest must come with --apply-to, got {arguments.apply_manifest} alone.")


def _thresholds(
    arguments: argparse.Namespace, calibration: Calibration, measured: MeasuredTrials, is_target: BoolArray
) -> Thresholds:
    from chns.evaluation import thresholds_for_costs, thresholds_for_false_alarm

    if arguments.false_alarm is not None:
        llrs = calibration.apply(*measured)
        return thresholds_for_false_alarm(measured.scores, llrs, is_target, false_alarm=arguments.false_alarm)
    return thresholds_for_costs(measured.scores, is_target, p_target=arguments.p_target, **_costs(arguments))


def _costs(arguments: argparse.Namespace) -> dict[str, float]:
    given = {"c_miss": arguments.cost_miss, "c_fa": arguments.cost_false_alarm}
    return {name: 1.0 if cost is None else cost for name, cost in given.items()}


def _record(
    arguments: argparse.Namespace, calibration: Calibration, thresholds: Thresholds, is_target: BoolArray
) -> dict[str, Any]:
    """What the bundle keeps: the map, the thresholds, and where both come from."""
    by_rate = arguments.false_alarm is not None
    return {
        **calibration.to_json(),
        "threshold": thresholds.llr,
        "score_threshold": thresholds.score,
        "p_target": arguments.p_target,
        **({"false_alarm": arguments.false_alarm} if by_rate else _costs(arguments)),
        "trials": arguments.trials.name,
        "target_trials": int(is_target.sum()),
        "nontarget_trials": int((~is_target).sum()),
    }


def _formula(calibration: Calibration) -> str:
    terms = [f"{calibration.scale:.4g} * score {calibration.offset:+.4g}"]
    for name, term in calibration.quality.items():
        value = "log({} duration)" if name == "duration" else "({} magnitude)"
        terms += [f"{term.smaller:+.4g} * {value.format('smaller')} {term.larger:+.4g} * {value.format('larger')}"]
    return "log-likelihood ratio = " + " ".join(terms)


def _warnings(arguments: argparse.Namespace, is_target: BoolArray, *, all_rejected: bool) -> list[str]:
    found = []
    if all_rejected:
        found.append(
            "the threshold rejects every trial: at this prior and these costs the scores are too weak to accept"
        )
    if arguments.false_alarm is not None:
        expected = arguments.false_alarm * int((~is_target).sum())
        if expected < _FEW_FALSE_ALARMS:
            found.append(
                f"the threshold rests on {expected:.0f} false alarms; with fewer than {_FEW_FALSE_ALARMS} "
                f"the rate will differ elsewhere by more than a third"
            )
    return found
