"""mutmut, but pytest starts and collects the tests once; the process of a mutant only runs those that reach it.

Takes mutmut's arguments. A mutant that its first test notices takes some hundredths of a second of it, not most of one.
"""

import gc
from collections.abc import Iterable

from mutmut.__main__ import cli
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.utils.file_utils import change_cwd
from mutmut.workers import isolation


class OnceCollected(PytestRunner):
    """Runs the tests of mutants in processes that are forked when the tests are collected."""

    session = None

    def warm_up(self) -> None:
        """Start pytest as far as to the first test."""
        from _pytest.config import _prepareconfig
        from _pytest.main import Session

        words = ["--rootdir=.", "--tb=native", "-x", "-q", "-s", *self._pytest_add_cli_args]
        with change_cwd("mutants"):
            config = _prepareconfig([*words, *self._pytest_add_cli_args_test_selection])
            session = Session.from_config(config)
            config._do_configure()
            config.hook.pytest_sessionstart(session=session)
            config.hook.pytest_collection(session=session)
        self.session = session
        gc.freeze()  # what is there now need not be looked through for garbage in each process

    def run_tests(self, *, mutant_name: str | None, tests: Iterable[str]) -> int:
        """The quickest first, up to the first failure; pytest's exit code."""
        session = self.session
        if session is None:
            return super().run_tests(mutant_name=mutant_name, tests=tests)
        seconds, wanted = state().duration_by_test, set(tests)
        session.items = [item for item in session.items if item.nodeid in wanted]
        session.items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))
        if len(session.items) != len(wanted):
            return 4
        with change_cwd("mutants"):
            try:
                session.config.hook.pytest_runtestloop(session=session)
            except session.Failed:
                return 1
        return 1 if session.testsfailed else 0


if __name__ == "__main__":
    isolation.PytestRunner = OnceCollected
    cli()
