"""Commands in processes of their own that need not import torch first: a server that has done so forks them.

Importing torch and Fabric takes longer than any training here. The server is a process of its own, too, and has
computed nothing, so that forking it is safe.
"""

import importlib
import multiprocessing
import os
import sys
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["lightning_fabric", "torch._dynamo", "chns.cli.training_commands", "chns.training.run"])


def started(words, errors: Path, *, environment=None, before: str = ""):
    """`chns` with these words, in a session of its own.

    Args:
        words: Of the command.
        errors: A file for what is said on standard error.
        environment: Variables that differ from this process's.
        before: Code to run first.

    Returns:
        The process; its ``exitcode`` is the command's, or minus the signal that ended it.
    """
    errors.touch()
    process = SERVER.Process(
        target=_run, args=(list(map(str, words)), str(errors), {**os.environ, **(environment or {})}, before)
    )
    process.start()
    return process


def _run(words, errors, environment, before):
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with Path(errors).open("a") as file:
        os.dup2(file.fileno(), 2)
    exec(before, {})
    sys.exit(importlib.import_module("chns.cli").main(words))
