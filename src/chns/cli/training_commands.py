"""Commands that train, and their settings: ``train``, ``compare``, ``demo``, ``augment-preview`` and ``configs``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from chns.cli import COMMANDS, CommandParser, command_parser
from chns.core import counted

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from chns.comparison.results import TrialList
    from chns.comparison.runs import Length, PlannedRun
    from chns.training.parsing import SettingsParser

_TRAIN_EXAMPLES = """examples:
  chns train --config chns --data.train vox2.parquet --out runs/chns
  chns train --config auto --data.train vox2.parquet --out runs/auto
  chns train --config hscl --config thin_resnet34 --data.train vox2.parquet --out runs/hscl
  chns train --config chns --data.train own.parquet --out runs/own \\
      --batches.speakers_per_batch 96 --clusters.num_clusters 20 --train.precision bf16-mixed
  chns train --config chns --print_config

The same command goes on with a run that was stopped."""


@cache  # asked for again when the settings are made, and it takes longest
def train_parser() -> SettingsParser:
    """The options, from the fields of the settings; later ``--config`` files win over earlier ones."""
    from chns.training.parsing import add_settings

    purpose = (
        "Train an encoder with random batches, or with hard ones: clustered, of neighbours, or auto, which needs no "
        "settings (batches.kind)."
    )
    parser = _settings_parser("train", purpose, _TRAIN_EXAMPLES)
    parser.add_argument("--out", type=str, help="Folder of the run; required.")
    parser.add_argument("--json", action="store_true", help="Print the summary as JSON.")
    add_settings(parser)
    return parser


def _settings_parser(name: str, purpose: str, examples: str) -> SettingsParser:
    from jsonargparse import DefaultHelpFormatter

    from chns.training.parsing import SettingsParser

    class Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        """Leaves the examples as they are."""

    return SettingsParser(prog=f"chns {name}", description=purpose, epilog=examples, formatter_class=Formatter)


def run_train(arguments: Namespace) -> None:
    """Train, then print the summary."""
    if arguments.out is None:
        raise ValueError("--out must name the folder of the run, got none.")
    from chns.core import rank
    from chns.training.folder import RunFolder
    from chns.training.parsing import settings_of
    from chns.training.run import train

    summary = train(settings_of(train_parser(), arguments), Path(arguments.out))
    if rank() > 0:
        return
    if arguments.json:
        print(json.dumps(summary))
        return
    print(f"trained {counted(summary['steps'], 'step')}: {summary['model']}")
    if "validation" in summary:
        last, best = summary["validation"], summary["best_validation"]
        print(f"validation EER {100 * last['eer']:.2f} %, best {100 * best['eer']:.2f} %: {summary['best_model']}")
    if (hard := RunFolder.open(arguments.out).hard_batches()) is not None:
        print(hard)
    model, scores = summary.get("best_model", summary["model"]), Path(arguments.out) / "scores" / "test.txt"
    print(f"next: chns evaluate {quote(model)} M.parquet --trials TRIALS --out {quote(str(scores))}")
    print(f"      chns report {quote(arguments.out)} --out report")


_PREVIEW_EXAMPLES = """examples:
  chns augment-preview vox2.parquet --config augmented --out preview
  chns augment-preview vox2.parquet --config augmented --out preview --count 4 --seed 7 \\
      --augmentation.noise.probability 1 --augmentation.babble.probability 0

Takes the settings of `chns train`; --seed draws other crops and other effects."""


@cache
def augment_preview_parser() -> SettingsParser:
    """The options: those of `chns train`, and what is to be written where."""
    from chns.training.parsing import add_settings

    parser = _settings_parser("augment-preview", f"{COMMANDS['augment-preview'].capitalize()}.", _PREVIEW_EXAMPLES)
    parser.add_argument("manifest", type=str, metavar="M.parquet", help="The manifest of the utterances.")
    parser.add_argument("--out", type=str, help="Folder of the examples; required.")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="Crops, of different utterances.")
    parser.add_argument("--json", action="store_true", help="Print what was drawn as JSON.")
    add_settings(parser)
    return parser


def run_augment_preview(arguments: Namespace) -> None:
    """Write the examples, then print what was done to each."""
    if arguments.out is None:
        raise ValueError("--out must name the folder of the examples, got none.")
    from chns.training.augmenting import write_preview
    from chns.training.parsing import settings_of

    settings = settings_of(augment_preview_parser(), arguments)
    settings = replace(settings, data=replace(settings.data, train=arguments.manifest))
    examples, picture = write_preview(settings, Path(arguments.out), count=arguments.count)
    if arguments.json:
        rows = [
            {
                "utterance": example.utterance,
                "effects": list(example.effects),
                "original": str(example.original),
                "augmented": str(example.augmented),
            }
            for example in examples
        ]
        print(json.dumps({"examples": rows, "picture": str(picture)}))
        return
    for example in examples:
        print(f"{example.augmented}: {', '.join(example.effects) or 'as recorded'} ({example.utterance})")
    print(f"spectrograms: {picture}")


_CONFIGS_EXAMPLES = """  chns configs
  chns configs chns
  chns configs compare --out compare.yaml

A preset is used by its name, and presets combine; what comes later wins:
  chns train --config chns --config thin_resnet34 --data.train vox2.parquet --out runs/chns
  chns compare ablation --out runs/ablation --dry-run"""


def configs_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("configs", examples=_CONFIGS_EXAMPLES)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the preset to print or copy (default: list them all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a new file for a copy of it")
    parser.add_argument("--json", action="store_true", help="print the list, or the text, as JSON")
    return parser


def run_configs(arguments: argparse.Namespace) -> None:
    """List all presets, or print or copy one."""
    from chns.core import presets, suggestion, write_text

    known = presets()
    texts = {name: path.read_text(encoding="utf-8") for name, path in known.items()}
    if arguments.name is None:
        if arguments.out is not None:
            raise ValueError(f"--out must come with the name of a preset, got {arguments.out} alone.")
        lines = {name: text.partition("\n")[0].removeprefix("# ") for name, text in texts.items()}
        width = max(map(len, lines))
        print(json.dumps(lines) if arguments.json else "\n".join(f"{n:<{width}}  {t}" for n, t in lines.items()))
        return
    text = texts.get(arguments.name.replace("-", "_"))
    if text is None:
        raise ValueError(
            f"NAME must be one of {', '.join(known)}, got {arguments.name!r}.{suggestion(arguments.name, known)}"
        )
    if arguments.out is not None:
        if arguments.out.exists():
            raise FileExistsError(f"--out must be a new file, got {arguments.out}, which exists. Choose another name.")
        write_text(arguments.out, text)
        text = f"{arguments.out}: a copy of {arguments.name}\n"
    print(json.dumps({"config": text}) if arguments.json else text, end="\n" if arguments.json else "")


_COMPARE_EXAMPLES = """  chns compare compare.yaml --out runs/comparison --dry-run
  chns compare compare.yaml --out runs/comparison
  chns compare compare.yaml --out runs/comparison --jobs 2
  chns compare compare.yaml --out runs/comparison --baseline chns     # the same runs against another of them
  chns compare paper --data.train vox2.parquet --out runs/paper --dry-run     # the paper again: what it would take

CONFIG.yaml, of which `chns configs compare` prints an example with comments:
  base         settings of `chns train` that all strategies share
  strategies   name: settings in which it differs; by default the five of the CHNS paper
  seeds        each strategy is trained with each (default: 0, 1, 2)
  trial_lists  name: {manifest, trials}, what the models are evaluated on
  baseline     the strategy that the others are compared with (default: the first)
--SECTION.KEY VALUE, as of `chns train`, goes before what base says.

Runs go to OUT/STRATEGY/seed-N, each as `chns train` leaves it, with its scores in scores/LIST.txt; the table
with intervals and verdict to OUT/comparison.md and, with all numbers, OUT/comparison.json. Everything is checked
before the first run trains. The same command goes on with what was stopped and repeats nothing that is finished."""


def compare_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("compare", examples=_COMPARE_EXAMPLES, kind=_CompareParser)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="what to compare: a file, or a preset")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder of the comparison")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="trainings at the same time, each in a process of its own on its share of the cores (default: 1)",
    )
    parser.add_argument(
        "--baseline", metavar="STRATEGY", help="compare the others with this one, instead of the configuration's"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, say what is there and what would run, and, after measuring ten steps, how long that "
        "takes here and on other devices",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


class _CompareParser(CommandParser):
    """Keeps options with a dot in their name, which are settings of `chns train`, for the parser of those."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, with those options and their values as ``base_options``."""
        words = list(sys.argv[1:] if args is None else args)
        own: list[str] = []
        settings: list[str] = []
        while words:
            word = words.pop(0)
            name, equals, _ = word.partition("=")
            if not (name.startswith("--") and "." in name):
                own.append(word)
                continue
            settings.append(word)
            if not equals and words:
                settings.append(words.pop(0))
        arguments = super().parse_args(own, namespace)
        arguments.base_options = settings
        return arguments


def run_compare(arguments: argparse.Namespace) -> None:
    """Compare, and print the table; or only say what would be done."""
    from chns.comparison.runs import read_comparison

    comparison = read_comparison(arguments.config, baseline=arguments.baseline, base_options=arguments.base_options)

    from chns.comparison.compare import compare, describe, prepare

    if arguments.dry_run:
        runs, length, lists = prepare(comparison, arguments.out)
        _say_what_would_run(runs, length, [_state(planned, lists) for planned in runs], as_json=arguments.json)
        return
    outcome = compare(comparison, arguments.out, jobs=arguments.jobs)
    if arguments.json:
        print(json.dumps(outcome.to_json()))
        return
    print(describe(outcome))
    print(f"written: {arguments.out / 'comparison.md'}, {arguments.out / 'comparison.json'}")


def _say_what_would_run(
    runs: Sequence[PlannedRun], length: Length, states: Sequence[dict[str, Any]], *, as_json: bool
) -> None:
    from chns.comparison.estimate import describe_estimate, estimate

    if not as_json:
        print(_listing(states, length), flush=True)
    found = None if all(planned.is_finished for planned in runs) else estimate(runs, length)
    if as_json:
        print(json.dumps({"runs": states, "estimate": None if found is None else found.to_json()}))
    elif found is not None:
        print(f"\n{describe_estimate(found)}")


def _state(planned: PlannedRun, lists: Sequence[TrialList]) -> dict[str, Any]:
    from chns.comparison.results import stored_scores

    begun = planned.opened
    to_score = [one.name for one in lists if not planned.is_finished or stored_scores(planned.folder, one) is None]
    return {
        "strategy": planned.strategy,
        "seed": planned.settings.seed,
        "folder": str(planned.folder),
        "finished": planned.is_finished,
        "steps_done": 0 if begun is None else begun.steps_done(),
        "to_score": to_score,
    }


def _listing(states: Sequence[dict[str, Any]], length: Length) -> str:
    width = max(len(state["folder"]) for state in states)
    lines = [f"{state['folder']:<{width}}  {_in_words(state, length)}" for state in states]
    finished = sum(state["finished"] for state in states)
    return "\n".join(
        [*lines, f"{len(states)} runs of {length}; {finished} finished, {len(states) - finished} to train"]
    )


def _in_words(state: dict[str, Any], length: Length) -> str:
    if state["finished"]:
        return f"trained, to be scored on {', '.join(state['to_score'])}" if state["to_score"] else "trained and scored"
    if state["steps_done"]:
        return f"goes on after about {state['steps_done']} of {length.num_steps} steps"
    return "to be trained"


_DEMO_EXAMPLES = """  chns demo runs/demo
  chns report runs/demo      # draws its page again

Makes a corpus of synthetic voices, some of them much alike; trains one small model three times on equally many
segments, with random batches (supcon), clustered ones (chns) and `auto`; tests all on other voices; prints the table
and the verdict, and draws a report. Takes about five minutes on two cores, needs
`pip install 'chns[train,synthetic,report]'`, and goes on where it was stopped."""

_ANNOUNCED = """What you will see, in about five minutes on two cores:
  1/3 a corpus of synthetic voices in families that sound alike
  2/3 one small model, trained three times on equally many segments. Only the batches differ: random speakers
      (supcon), clustered ones after a warm-up (chns), or hard ones as soon as random ones have become easy (auto)
  3/3 a table of error rates, on random pairs of other speakers and on pairs of one family; a verdict; a report page
"""


def demo_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("demo", examples=_DEMO_EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="OUT", help="where the corpus, models, scores and report go")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def run_demo(arguments: argparse.Namespace) -> None:
    """Run it; print what to expect, the table, the verdicts and where the page is."""
    if not arguments.json:
        print(_ANNOUNCED, flush=True)

    from chns import demo as demonstration
    from chns.comparison.compare import describe

    demo = demonstration.run_demo(arguments.folder, seed=arguments.seed)
    if arguments.json:
        print(json.dumps({**demo.outcome.to_json(), "report": str(demo.report.page)}))
        return
    print(describe(demo.outcome))
    print(
        "One seed, one small model, a few minutes: read the intervals, not the means. Hard batches pay when random\n"
        "ones have become easy; docs/hard_phase.md says what to tune on yours.\n\n"
        f"look at  {demo.report.page}\n"
        f"next:    chns train --config auto --data.train M.parquet --out RUN    # on your own recordings, after\n"
        f"         chns prepare folder RECORDINGS --out M.parquet"
    )
