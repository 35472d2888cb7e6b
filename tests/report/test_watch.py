"""Trainings while they run, as a terminal shows them."""

import os

import pytest
import yaml

from chns.cli import main
from chns.report.watch import look_at, trainings_in
from chns.training.log import RunLog

NOW = 1_000_000.0


def training(folder, *, steps, finished=False, logged_at=NOW):
    """A folder of a training of 100 steps, of which so many are logged: a minute every ten."""
    folder.mkdir(parents=True)
    settings = {"train": {"epochs": 10}, "batches": {"steps_per_epoch": 10, "kind": "auto"}, "seed": 0}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with RunLog(folder, first_step=0) as log:
        for step in range(10, steps + 1, 10):
            hard = 1.0 if step > 50 else 0.0
            values = {"loss": 4.0 / step, "hard_ratio": hard, "segments_per_second": 50.0, "data_wait_share": 0.25}
            log.write(step, step // 10, values)
    rows = (folder / "log.csv").read_text().splitlines()
    timed = [f"{row.rpartition(',')[0]},{60 * number}" for number, row in enumerate(rows[1:], 1)]
    (folder / "log.csv").write_text("\n".join([rows[0], *timed]) + "\n")
    os.utime(folder / "log.csv", (logged_at, logged_at))
    if finished:
        (folder / "summary.json").write_text("{}")
    return folder


def test_a_running_training_tells_how_far_it_is_its_curves_and_its_decisions(tmp_path):
    run = training(tmp_path / "auto" / "seed-0", steps=60)
    (run / "decisions.txt").write_text("epoch 1: random\nepoch 5: hard \x1b[2J ratio 1\n" + "epoch 6: kept\n" * 3)
    seen = look_at([run], width=100, now=NOW + 10)
    assert seen.line == "auto/seed-0: step 60 of 100 (60 %), epoch 6, 0:04:00 left, 0:06:00 taken"
    lines = seen.screen.splitlines()
    assert lines[0] == seen.line
    loss, hard = (next(line for line in lines if line.strip().startswith(title)) for title in ("loss", "hard ratio"))
    assert loss.split()[1:] == ["0.400", "█▄▂▂▁▁", "0.067"]
    assert hard.split()[-3:] == ["▁▁▁▁▁█", "100", "%"]
    assert any("50 segments/s, waits for data 25 % of the time" in line for line in lines)
    assert sum("epoch 6: kept" in line for line in lines) == 3
    assert "\x1b" not in seen.screen
    assert not seen.is_finished


def test_a_training_that_logs_nothing_any_more_is_said_to_have_stopped(tmp_path):
    run = training(tmp_path / "auto", steps=60)
    assert "nothing logged for 0:10:00: stopped?" in look_at([run], width=80, now=NOW + 600).line


def test_a_training_that_has_just_begun_has_nothing_to_show_yet(tmp_path):
    run = training(tmp_path / "auto", steps=0)
    assert look_at([run], width=80).line.endswith("auto: begun, nothing logged yet")
    (run / "log.csv").unlink()
    assert look_at([run], width=80).line.endswith("auto: begun, nothing logged yet")


def test_several_trainings_are_counted_and_the_running_ones_shown(tmp_path):
    done = training(tmp_path / "a" / "seed-0", steps=100, finished=True)
    running = training(tmp_path / "b" / "seed-0", steps=30)
    assert trainings_in([tmp_path]) == [done, running]
    seen = look_at(trainings_in([tmp_path]), width=80, now=NOW)
    assert seen.line.startswith("1 of 2 trainings finished; b/seed-0: step 30 of 100")
    assert seen.screen.startswith("a/seed-0: finished, 100 steps, 0:10:00 taken\nb/seed-0: step 30")
    assert not seen.is_finished


def test_lines_fit_the_terminal(tmp_path):
    run = training(tmp_path / "auto", steps=100)
    (run / "decisions.txt").write_text("x" * 500 + "\n")
    for width in (80, 120):
        rest = look_at([run], width=width, now=NOW).screen.splitlines()[1:]
        assert max(map(len, rest)) <= width


def test_the_command_ends_with_the_training_and_writes_nothing(tmp_path, capsys):
    run = training(tmp_path / "auto", steps=100, finished=True)
    before = sorted(run.iterdir())
    assert main(["report", "--watch", str(run)]) == 0
    assert "finished, 100 steps" in capsys.readouterr().out
    assert sorted(run.iterdir()) == before


def test_a_folder_without_a_training_is_refused(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="RUN must be a training that has begun, or a comparison of such"):
        trainings_in([tmp_path])
    assert main(["report", "--watch", str(tmp_path)]) == 2
    assert "`chns train` writes config.yaml" in capsys.readouterr().err


def test_a_log_without_a_clock_has_no_time_left(tmp_path):
    run = training(tmp_path / "auto", steps=60)
    head, *rows = (run / "log.csv").read_text().splitlines()
    (run / "log.csv").write_text("\n".join([head, *(f"{row.rpartition(',')[0]}," for row in rows)]) + "\n")
    os.utime(run / "log.csv", (NOW, NOW))
    assert look_at([run], width=80, now=NOW).line.endswith("step 60 of 100 (60 %), epoch 6")
