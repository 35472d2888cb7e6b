"""Trials, scores and error rates."""

from chns.core import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "chns.evaluation.calibration": (
            "Calibration QUALITY_MEASURES Thresholds fit_calibration is_number thresholds_for_costs "
            "thresholds_for_false_alarm"
        ),
        "chns.evaluation.calibration_metrics": "calibration_effect other_conventions",
        "chns.evaluation.embedder": "Embedder GraphModel embedding_bundle write_embeddings",
        "chns.evaluation.enrolment": "EnrolmentModels read_enrolment_map resolve_enrolment",
        "chns.evaluation.intervals": "Interval mean_over_seeds paired_difference speaker_intervals",
        "chns.evaluation.metrics": (
            "REPORTED_P_TARGETS VerificationMetrics det_curve detection_cost error_rates metric_line "
            "verification_metrics write_det_curve"
        ),
        "chns.evaluation.normalisation": "CohortNormalisation Kind",
        "chns.evaluation.pairs": "make_trials",
        "chns.evaluation.scoring": "cosine_scores read_labelled_scores read_scores write_scores",
        "chns.evaluation.trials": (
            "Trials contradictions label_contradictions read_trials resolve trial_coverage write_trials"
        ),
        "chns.evaluation.verification": "MeasuredTrials measure_trials score_trials",
    },
)
