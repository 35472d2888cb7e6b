"""mutmut, but pytest starts and collects the tests once; the process of a mutant only runs those that reach it.

Takes mutmut's arguments. A mutant that its first test notices takes some hundredths of a second of it, not most of one.
SQL in other letters survives without a run, which would be of all tests.
"""

import gc
import importlib
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mutmut.__main__ import cli
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.utils.file_utils import change_cwd
from mutmut.workers import isolation

sys.path.append(str(Path(__file__).parents[1]))
from mutants import changed_line, is_sql_in_other_letters


class OnceCollected(PytestRunner):
    """Runs the tests of mutants in processes that are forked when the tests are collected."""

    session = None

    def run_stats(self, *, tests: Iterable[str]) -> int:
        """Which tests reach which functions, and how long they take."""
        _find_and_do_not_explain()
        return super().run_stats(tests=tests)

    def warm_up(self) -> None:
        """Start pytest as far as to the first test, and see that all pass without a mutant and fail where they must."""
        from _pytest.config import _prepareconfig
        from _pytest.main import Session

        _find_and_do_not_explain()
        words = ["--rootdir=.", "--tb=native", "--assert=plain", "-x", "-q", "-s", *self._pytest_add_cli_args]
        with change_cwd("mutants"):
            config = _prepareconfig([*words, *self._pytest_add_cli_args_test_selection])
            self.session = Session.from_config(config)
            config._do_configure()
            config.hook.pytest_sessionstart(session=self.session)
            config.hook.pytest_collection(session=self.session)
        every = [item.nodeid for item in self.session.items]
        imported = Path(os.environ["PYTEST_DEBUG_TEMPROOT"], "imported")
        for mutant, expected in (("", 0), ("fail", 1)):
            process = os.fork()
            if not process:
                set_mutant_under_test(mutant)
                code = self.run_tests(mutant_name=mutant, tests=every)
                imported.write_text("\n".join(sys.modules), encoding="utf-8")
                os._exit(code)
            if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != expected:
                sys.__stderr__.write(f"tests must end with {expected} for the mutant {mutant!r}, got another end.\n")
                os._exit(1)
            for name in imported.read_text(encoding="utf-8").splitlines():
                with suppress(Exception):  # a module that a test has made
                    importlib.import_module(name)  # once, not in each process
        gc.freeze()  # what is there now need not be looked through for garbage in each process

    def run_tests(self, *, mutant_name: str | None, tests: Iterable[str]) -> int:
        """The quickest first, up to the first failure; pytest's exit code."""
        if mutant_name not in (None, "", "fail"):
            path = f"src/{mutant_name.rpartition('.')[0].replace('.', '/')}.py"
            if is_sql_in_other_letters(*changed_line(get_diff_for_mutant(mutant_name, path=path))):
                return 0
        seconds, wanted = state().duration_by_test, set(tests)
        self.session.items = [item for item in self.session.items if item.nodeid in wanted]
        self.session.items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))
        if len(self.session.items) != len(wanted):
            return 4
        with change_cwd("mutants"):
            try:
                self.session.config.hook.pytest_runtestloop(session=self.session)
            except self.session.Failed:
                return 1
        return 1 if self.session.testsfailed else 0


def _find_and_do_not_explain() -> None:
    """Have hypothesis search no smaller example, which can take longer than to find one, and never count the time."""
    from hypothesis import Phase, settings

    settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None, deadline=None)
    settings.load_profile("mutants")


if __name__ == "__main__":
    isolation.PytestRunner = OnceCollected
    # What these do in a pytest of their own each, `warm_up` does.
    isolation.ForkServerRunner.run_clean_tests = lambda *_, **__: 0
    isolation.ForkServerRunner.run_forced_fail = lambda *_: 1
    cli()
