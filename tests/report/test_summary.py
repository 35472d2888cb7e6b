"""The first sentences of the report, and what it says where there is nothing to show."""

from dataclasses import replace

from fabricated_findings import fabricated_run, fabricated_runs

from chns.report.page import missing_reasons, summary_words


def test_the_summary_names_the_best_and_the_worst_run():
    runs = fabricated_runs(trial_lists=("a",))
    scored = {"a": [(run, run.scored["a"]) for run in runs]}
    by_name = {"a": [type("One", (), {"run": run, "scored": s}) for run, s in scored["a"]]}
    words = summary_words(runs, by_name, num_duplicates=1)
    ordered = sorted(runs, key=lambda run: run.scored["a"].metrics.eer)
    assert f"by {ordered[0].name} (" in words
    assert f"by {ordered[-1].name}." in words
    assert "One pair of training speakers" in words


def test_the_summary_says_how_much_harder_batches_were_by_what_their_kind_changes():
    clustered, random = fabricated_run("chns"), fabricated_run("supcon")
    neighbours = fabricated_run("near", strategy="SupCon, batches of neighbours, hard ratio 1.0")
    shift = clustered.batch_hardness.hard.mean() - clustered.batch_hardness.random.mean()
    of_clusters = f"clustering changes the mean cosine of different speakers of a batch by {shift:+.3f}."
    of_neighbours = "change the cosine of an utterance with the closest other speaker of its batch by +0.130."
    words = summary_words([clustered, random, neighbours], {}, num_duplicates=0)
    assert of_clusters in words
    assert of_neighbours in words
    assert "batches of neighbours" not in summary_words([clustered], {}, num_duplicates=0)
    assert "clustering" not in summary_words([random], {}, num_duplicates=0)


def test_reasons_name_the_runs_that_share_them():
    runs = [fabricated_run("supcon/0"), fabricated_run("supcon/1"), fabricated_run("chns")]
    assert missing_reasons(runs)["clusters"] == ["supcon/0, supcon/1: random batches, so no clusters."]
    other = [replace(runs[2], cluster_shapes=None, batches=kind) for kind in ("clustered", "neighbours", "auto")]
    assert [missing_reasons([run])["clusters"] for run in other] == [
        ["chns: it has not clustered yet."],
        ["chns: batches of neighbours, so no clusters."],
        ["chns: batches of neighbours, so no clusters."],
    ]
    assert missing_reasons(runs)["training"] == []
    drawn = replace(runs[2], num_training_speakers=70_000)
    assert missing_reasons([drawn])["map"] == ["chns: of 70,000 training speakers, 60 drawn at random were looked at."]
    alone = replace(runs[2], batch_hardness=None)
    assert "fewer than two speakers" in missing_reasons([alone])["hardness"][0]
