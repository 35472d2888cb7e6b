"""Use a trained model: verify, enrol, identify, stream, export. Imports nothing of the training."""

from chns.core import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "chns.inference.bulk": "Known Opens Outcome counts_of enrol_many identify_many re_embed write_table",
        "chns.inference.decision_rule": "ErrorRates expected_error_rates likelihood_in_words",
        "chns.inference.export": (
            "FORMS check_recordings evaluate_graphs export_for_sherpa export_int8 export_model sherpa_graph"
        ),
        "chns.inference.hearing": "wanted_of",
        "chns.inference.listening": "WINDOW_SECONDS file_windows measure_quality source_name",
        "chns.inference.publish": "Publication push_to_hub write_repository",
        "chns.inference.streaming": "StreamingIdentifier StreamingVerifier",
        "chns.inference.verifier": "PACKAGED_MODEL_IN_WORDS Decision Embedding Verifier",
    },
)
