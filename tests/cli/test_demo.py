"""``chns demo`` on hums in place of synthetic voices: what it says first, trains, prints last and leaves."""

import json
from dataclasses import replace

import pytest

import chns.demo
from chns.cli import main
from chns.data.manifest import Manifest, with_columns
from chns.training.settings import ClusterSettings


@pytest.fixture
def small(hum_manifest, monkeypatch):
    """The demonstration with 14 training speakers, a narrow encoder and a handful of steps."""
    hums = with_columns(Manifest.read(hum_manifest), {"family": ["low", "high"] * 50})
    made = chns.demo._settings

    def settings(manifest):
        base = made(manifest)
        narrow = {"channels": 16, "aggregation_channels": 48, "res2net_scale": 4, "se_bottleneck": 8}
        return replace(
            base,
            data=replace(base.data, crop_seconds=0.5, num_workers=0),
            encoder=replace(base.encoder, settings={**narrow, "attention_channels": 8}),
            batches=replace(base.batches, speakers_per_batch=4, steps_per_epoch=2),
            clusters=ClusterSettings(start_epoch=1, crop_seconds=0.5),
            train=replace(base.train, epochs=2, log_every_steps=2),
        )

    monkeypatch.setattr(chns.demo, "prepare_synthetic", lambda _folder, **_: hums)
    monkeypatch.setattr(chns.demo, "_settings", settings)
    monkeypatch.setattr(chns.demo, "_NUM_TEST_SPEAKERS", 6)
    monkeypatch.setattr(chns.demo, "_NUM_NONTARGETS", 60)


@pytest.mark.slow
def test_it_says_what_will_come_and_ends_with_table_verdict_and_page(small, tmp_path, capsys):
    assert main(["demo", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("What you will see, in about five minutes on two cores:\n")
    for strategy in ("supcon", "chns", "auto"):
        assert f"\n| {strategy} " in printed
        assert (tmp_path / strategy / "seed-0" / "summary.json").is_file()
    assert "Hard sampling (chns against supcon)" in printed
    assert "Hard sampling (auto against supcon)" in printed
    assert (tmp_path / "auto" / "seed-0" / "decisions.txt").is_file()
    page = tmp_path / "report" / "report.html"
    assert f"look at  {page}\n" in printed
    assert "Hard sampling (auto against supcon)" in page.read_text()
    assert '<audio controls preload="metadata" src="data:audio/' in page.read_text()  # its errors can be heard

    assert main(["demo", str(tmp_path), "--json"]) == 0  # what is there is not made again
    again = json.loads(capsys.readouterr().out)
    assert again == {**json.loads((tmp_path / "comparison.json").read_text()), "report": str(page)}
    assert again["steps"] == 4
