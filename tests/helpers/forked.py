"""Code in processes of its own that need not import torch first: a server that has done so forks them.

Importing torch and Fabric takes longer than any training here. The server is a process of its own, too, and has
computed nothing, so that forking it is safe.
"""

import multiprocessing
import os
import sys
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["lightning_fabric", "torch._dynamo", "chns.cli.training_commands", "chns.training.run"])
COMMAND = "import sys; from chns.cli import main; sys.exit(main(sys.argv[1:]))"


def started(code, said: Path, *, words=(), environment=None):
    """The process, in a session of its own.

    Args:
        code: What it runs, such as `COMMAND` for ``chns``.
        said: A file for what it prints and what it says on standard error.
        words: Its ``sys.argv``, from the second on.
        environment: Variables that differ from this process's.

    Returns:
        Its ``exitcode`` is the code's, or minus the signal that ended it.
    """
    said.touch()
    arguments = (code, str(said), list(map(str, words)), {**os.environ, **(environment or {})})
    process = SERVER.Process(target=_run, args=arguments)
    process.start()
    return process


def told(code, said: Path, *, words=(), environment=None, seconds=300) -> str:
    """What it said, once it has ended without an error."""
    process = started(code, said, words=words, environment=environment)
    process.join(timeout=seconds)
    assert process.exitcode == 0, said.read_text()
    return said.read_text()


def _run(code, said, words, environment):
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with Path(said).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[1:] = words
    exec(code, {"__name__": "__main__"})
