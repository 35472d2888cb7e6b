"""``chns serve``: verify, enrol and identify over HTTP, with a page."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from chns.cli import command_parser
from chns.cli.options import KEY_HELP, add_key_option

_EXAMPLES = f"""  chns serve                                         # the page: http://127.0.0.1:8000
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
    parser = command_parser("serve", examples=_EXAMPLES)
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
    from chns.store.encryption import read_key

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
