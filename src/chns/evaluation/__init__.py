"""Trials, scores and error rates."""

from chns.core import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "chns.evaluation.calibration": (
            "QUALITY_MEASURES Calibration Thresholds fit_calibration is_number thresholds_for_costs "
            "thresholds_for_false_alarm"
        ),
        "chns.evaluation.calibration_metrics": "calibration_effect other_conventions",
        "chns.evaluation.conditions": "Condition Sweep noise_in_words sweep_conditions sweep_rates",
        "chns.evaluation.embedder": "Embedder GraphModel embedding_bundle write_embeddings",
        "chns.evaluation.enrolment": "EnrolmentModels read_enrolment_map resolve_enrolment",
        "chns.evaluation.groups": "GroupedRates group_rates",
        "chns.evaluation.identification": "identification_rates",
        "chns.evaluation.intervals": "Interval mean_over_seeds paired_difference speaker_intervals",
        "chns.evaluation.metrics": (
            "REPORTED_P_TARGETS VerificationMetrics det_curve detection_cost error_rates metric_line "
            "verification_metrics write_det_curve"
        ),
        "chns.evaluation.normalisation": "CohortNormalisation Kind",
        "chns.evaluation.pairs": "make_trials",
        "chns.evaluation.scoring": "cosine_scores read_labelled_scores read_scores write_scores",
        "chns.evaluation.speaker_bootstrap": "BootstrapMetrics bootstrap_metrics",
        "chns.evaluation.spoofing": "SpoofMetrics read_countermeasure read_spoof_scores spoof_metrics",
        "chns.evaluation.trials": (
            "Trials contradictions label_contradictions matching_rows read_trials resolve trial_coverage write_trials"
        ),
        "chns.evaluation.verification": "MeasuredTrials measure_trials score_conditions score_trials",
        "chns.evaluation.wrong_labels": "check_labels label_embeddings",
    },
)
