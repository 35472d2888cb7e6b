"""Commands that tell who speaks: ``verify``, ``identify``, and ``serve`` over HTTP."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chns.cli import command_parser
from chns.cli.options import (
    KEY_HELP,
    add_bulk_options,
    add_channel_option,
    add_key_option,
    add_store_argument,
    add_verifier_options,
    as_channel,
    embed_recordings,
    load_verifier,
)
from chns.core import counted

if TYPE_CHECKING:
    from chns.inference import Decision, Opens, Verifier

DIFFERENT_SPEAKERS = 1

_VERIFY_EXAMPLES = """  chns verify anna-1.wav anna-2.wav
  chns verify runs/chns/model anna-1.wav anna-2.wav
  chns verify runs/chns/model anna-1.wav somebody.mp3 --threshold 0.45 --json

The score is the cosine of the recordings' embeddings; from the threshold on, the speaker is taken to be the same.
Without --threshold, the model's calibration decides; if it has none, the threshold at which its validation misses as
often as it accepts falsely. `chns calibrate` finds the right one for your speech and your costs, and adds the natural
logarithm of how much likelier the score is from one speaker than from two.

exit code: 0 same speaker; 1 different speakers; 2 error"""


def verify_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("verify", examples=_VERIFY_EXAMPLES)
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="the model: a folder, or hf://owner/name (default: the package's own)"
    )
    parser.add_argument("first", type=Path, metavar="A", help="a recording of one speaker")
    parser.add_argument("second", type=Path, metavar="B", help="another one")
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="lowest score that is accepted (default: the model's own)"
    )
    add_verifier_options(parser)
    parser.add_argument(
        "--channel",
        action="append",
        metavar="left|right|N|mix",
        help="the channel to hear of both recordings, N from 0; given twice, of A and of B (default: the mean of all, "
        "with a warning if they hold different sounds)",
    )
    parser.add_argument("--json", action="store_true", help="print the decision as JSON")
    return parser


def run_verify(arguments: argparse.Namespace) -> int:
    """Print score, decision and warnings; the exit code tells the decision."""
    if arguments.model is None:
        from chns.inference import PACKAGED_MODEL_IN_WORDS

        print(f"model: {PACKAGED_MODEL_IN_WORDS}.", file=sys.stderr)
    verifier = load_verifier(arguments)
    files = (arguments.first, arguments.second)
    channels = [as_channel(name) for name in arguments.channel or [None]]
    if len(channels) > 2:
        raise ValueError(f"--channel must be given once, or for A and for B, got it {len(channels)} times.")
    decision = verifier.verify(*files, channel=(channels[0], channels[-1]))
    if arguments.json:
        print(json.dumps({"files": list(map(str, files)), **decision.to_json()}))
    else:
        _print_decision(decision, files)
    return 0 if decision.accepted else DIFFERENT_SPEAKERS


def _print_decision(decision: Decision, files: tuple[Path, Path]) -> None:
    answer = "same speaker" if decision.accepted else "different speakers"
    print(f"{answer}: score {decision.score:.3f}, threshold {decision.threshold:.3f}")
    if decision.log_likelihood_ratio is not None:
        print(f"log-likelihood ratio {decision.log_likelihood_ratio:.2f}")
    for warning in decision.warnings:
        print(f"warning: {warning}")
    for file, quality in zip(files, decision.quality, strict=True):
        for warning in quality.warnings:
            print(f"warning: {file}: {warning}")


NOBODY = 1

_IDENTIFY_EXAMPLES = f"""  chns identify runs/chns/model people.store who.wav
  chns identify runs/chns/model people.store who.wav --threshold 0.45 --top 3 --json
  chns identify runs/chns/model people.store who.wav --false-positive-rate 0.01 --margin 0.05 --score-by top-3
  chns identify runs/chns/model people.store --manifest calls.parquet --out who.csv

The score is the cosine of recording and voiceprint. The more people are enrolled, the likelier it is that one of them
passes a threshold by chance: --false-positive-rate 0.01 asks the store itself where 1 % of strangers would pass.
With --manifest all its utterances go into a table (chns[train]); where its speakers are people of the store, recall and
precision are told. The same command goes on after a stop.
{KEY_HELP}

exit code: 0 somebody is identified; 1 nobody is, or recordings of a manifest were rejected; 2 error"""


def identify_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("identify", examples=_IDENTIFY_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model: a folder, or hf://owner/name")
    add_store_argument(parser)
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a recording of one speaker")
    add_bulk_options(parser, purpose="identify all utterances of this manifest instead")
    parser.add_argument("--out", type=Path, metavar="R.csv", help="where the table goes, with --manifest")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many to show (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="lowest score that is accepted (default: the model's own)"
    )
    parser.add_argument(
        "--false-positive-rate",
        type=float,
        metavar="R",
        help="instead of a threshold: the share of strangers who may be taken for somebody, as the people of the store "
        "are for one another",
    )
    parser.add_argument(
        "--margin", type=float, default=0.0, metavar="D", help="how much the first must be ahead of the runner-up"
    )
    parser.add_argument(
        "--score-by",
        default="voiceprint",
        metavar="WHAT",
        help="voiceprint (default); or mean, max or top-K of the cosines with a person's recordings",
    )
    add_key_option(parser)
    add_verifier_options(parser)
    add_channel_option(parser)
    parser.add_argument("--json", action="store_true", help="print the matches as JSON")
    return parser


def run_identify(arguments: argparse.Namespace) -> int:
    """Print who sounds most like the recording; the exit code tells whether the first is accepted."""
    from chns.store import VoiceprintStore, identified, lead_of, read_key

    _require_options_that_fit(arguments)
    key = read_key(arguments.key_file)
    rate = arguments.false_positive_rate
    verifier = load_verifier(arguments)

    def open_store() -> VoiceprintStore:
        return VoiceprintStore.open(
            arguments.store, model_digest=verifier.model_digest, dim=verifier.dim, key=key, create=False
        )

    if arguments.manifest is not None:
        return _identify_manifest(arguments, verifier, open_store)
    threshold = verifier.threshold if rate is None else 0.0
    [vector], warnings = embed_recordings(verifier, [arguments.file], channel=arguments.channel)
    with open_store() as store:
        if rate is not None:
            threshold = store.open_set_threshold(rate, score_by=arguments.score_by)
        matches = store.identify(vector, top=max(2, arguments.top), score_by=arguments.score_by)
    who, lead = identified(matches, threshold=threshold, margin=arguments.margin), lead_of(matches)
    matches = matches[: arguments.top]
    if arguments.json:
        summary = {
            "store": str(arguments.store),
            "file": str(arguments.file),
            "threshold": threshold,
            "score_by": arguments.score_by,
            "identified": who,
            "lead": lead,
            "matches": [match._asdict() for match in matches],
            "warnings": [*verifier.warnings, *warnings],
        }
        print(json.dumps(summary))
    else:
        ahead = "" if lead is None else f", {lead:.3f} ahead of the runner-up"
        print(f"{who or 'nobody'} (threshold {threshold:.3f}{ahead})")
        for warning in verifier.warnings:
            print(f"warning: {warning}")
        for match in matches:
            print(f"  {match.score:6.3f}  {match.name}")
    return NOBODY if who is None else 0


def _require_options_that_fit(arguments: argparse.Namespace) -> None:
    """Make sure that the options go together."""
    rate = arguments.false_positive_rate
    if rate is not None and arguments.threshold is not None:
        raise ValueError("--threshold and --false-positive-rate must not be given together, got both.")
    if arguments.top < 1 or arguments.margin < 0:
        raise ValueError(f"--top must be at least 1 and --margin 0, got {arguments.top} and {arguments.margin}.")
    if (arguments.manifest is None) == (arguments.file is None):
        raise ValueError("FILE or --manifest must be given, got neither or both. `chns identify --help` explains.")
    if (arguments.manifest is None) != (arguments.out is None):
        raise ValueError("--manifest and --out must be given together, got one of them.")


def _identify_manifest(arguments: argparse.Namespace, verifier: Verifier, open_store: Opens) -> int:
    from chns.data import Manifest, channel_number
    from chns.inference import identify_many, wanted_of

    manifest = Manifest.read(arguments.manifest, root=arguments.root)
    wanted = wanted_of(manifest, channel=channel_number(as_channel(arguments.channel)))
    measures, threshold, num_rejected = identify_many(
        verifier,
        open_store,
        wanted,
        out=arguments.out,
        score_by=arguments.score_by,
        margin=arguments.margin,
        false_positive_rate=arguments.false_positive_rate,
        workers=arguments.workers,
    )
    if arguments.json:
        summary = {
            "results": str(arguments.out),
            "utterances": len(wanted),
            "rejected": num_rejected,
            "threshold": threshold,
            "score_by": arguments.score_by,
            **measures._asdict(),
            "recall": measures.recall,
            "precision": measures.precision,
            "warnings": list(verifier.warnings),
        }
        print(json.dumps(summary))
        return 1 if num_rejected else 0
    told = f", {counted(num_rejected, 'recording')} rejected" if num_rejected else ""
    print(f"{arguments.out}: {counted(len(wanted), 'utterance')}{told} (threshold {threshold:.3f})")
    for warning in verifier.warnings:
        print(f"warning: {warning}")
    if measures.recall is not None:
        print(f"recall {100 * measures.recall:.2f} % of {counted(measures.known, 'utterance')} of enrolled people")
    if measures.recall is not None and measures.precision is not None:
        print(f"precision {100 * measures.precision:.2f} % of {measures.named:,} who were identified")
    if measures.recall is not None and measures.strangers:
        print(f"of {counted(measures.strangers, 'utterance')} of others, {measures.strangers_named:,} identified")
    if measures.left_out:
        print(f"{counted(measures.left_out, 'utterance')} enrolled from this very recording: left out of these shares")
    return 1 if num_rejected else 0


_SERVE_EXAMPLES = f"""  chns serve                                         # the page: http://127.0.0.1:8000
  chns serve --store people.store                    # voiceprints that outlive the service
  chns serve --model runs/chns/model --port 9000 --threshold 0.45
  chns serve --host 0.0.0.0 --api-keys keys.txt --store people.store

  curl -F first=@anna-1.wav -F second=@anna-2.wav http://127.0.0.1:8000/verify
  curl -F recording=@anna-1.wav http://127.0.0.1:8000/voiceprints/anna

http://127.0.0.1:8000/docs describes all of it. No recording is kept; without --store, no voiceprint either.
Without API keys it serves this machine alone. Keys: a file with one a line, or the variable CHNS_SERVE_KEYS, by commas.
{KEY_HELP}"""


def serve_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("serve", examples=_SERVE_EXAMPLES)
    parser.add_argument("--model", metavar="MODEL", help="the model: a folder, or hf://owner/name (default: our own)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("--store", type=Path, metavar="STORE", help="the file with the voiceprints, made if missing")
    add_key_option(parser)
    parser.add_argument("--api-keys", type=Path, metavar="F", help="file with the keys that clients must send")
    parser.add_argument("--threshold", type=float, metavar="T", help="lowest score that is accepted")
    parser.add_argument(
        "--max-megabytes", type=float, default=20.0, metavar="N", help="largest body (default: %(default)g)"
    )
    parser.add_argument(
        "--max-seconds", type=float, default=120.0, metavar="N", help="longest recording (default: %(default)g)"
    )
    parser.add_argument(
        "--max-requests",
        type=int,
        default=32,
        metavar="N",
        help="requests at once; more get 503 (default: %(default)s)",
    )
    return parser


def run_serve(arguments: argparse.Namespace) -> None:
    """Serve until a signal ends it."""
    import uvicorn

    from chns.service.app import build_app
    from chns.service.engine import Limits, SpeakerEngine
    from chns.service.guard import ApiKeys, is_loopback
    from chns.store import read_key

    keys = ApiKeys.read(arguments.api_keys)
    if not keys and not is_loopback(arguments.host):
        raise ValueError(
            f"--host must be of this machine alone without API keys, got {arguments.host}. Give --api-keys FILE, or "
            f"let a proxy on this machine do it."
        )
    if not 0 < arguments.port < 2**16:
        raise ValueError(f"--port must be between 1 and 65535, got {arguments.port}.")
    limits = Limits(
        body_bytes=round(arguments.max_megabytes * 1e6),
        audio_seconds=arguments.max_seconds,
        requests=arguments.max_requests,
    )
    store_key = read_key(arguments.key_file) if arguments.store is not None else None
    engine = SpeakerEngine(
        arguments.model, store=arguments.store, key=store_key, threshold=arguments.threshold, limits=limits
    )
    try:
        app = build_app(engine, keys=keys)
        kept = f"voiceprints in {arguments.store}" if arguments.store else "voiceprints are forgotten at the end"
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print(f"http://{host}:{arguments.port} ({kept}). Ctrl-C ends it.", file=sys.stderr)
        for warning in engine.verifier.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        uvicorn.run(
            app,
            host=arguments.host,
            port=arguments.port,
            access_log=False,
            log_config=None,
            server_header=False,
            ws_max_size=2**20,
            timeout_graceful_shutdown=10,
        )
    finally:
        engine.close()
