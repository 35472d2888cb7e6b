"""The log of a run, also after a kill."""

import csv

from chns.training.log import COLUMNS, RunLog


def rows(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_each_row_holds_what_was_measured(tmp_path):
    with RunLog(tmp_path, first_step=0) as log:
        log.write(5, 0, {"loss": 1.25, "temperature": 0.1})
        log.write(6, 1, {"validation_eer": 0.05})
    first, second = rows(tmp_path)
    assert tuple(first) == COLUMNS
    assert (first["step"], first["epoch"], first["loss"], first["validation_eer"]) == ("5", "0", "1.25", "")
    assert (second["step"], second["loss"], second["validation_eer"]) == ("6", "", "0.05")


def test_rows_after_the_step_a_run_goes_on_from_are_dropped(tmp_path):
    with RunLog(tmp_path, first_step=0) as log:
        for step in (2, 4, 6):
            log.write(step, 0, {"loss": step})
    with RunLog(tmp_path, first_step=4) as log:
        log.write(6, 0, {"loss": 60})
    assert [row["loss"] for row in rows(tmp_path)] == ["2", "4", "60"]


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    with RunLog(tmp_path, first_step=0) as log:
        log.write(2, 0, {"loss": 1})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("3,0,0.")
    with RunLog(tmp_path, first_step=9) as log:
        log.write(4, 0, {"loss": 2})
    assert [row["step"] for row in rows(tmp_path)] == ["2", "4"]
