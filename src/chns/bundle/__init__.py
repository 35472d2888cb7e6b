"""A model on disk: save, load, build within bounds, download, and take over from other toolkits."""

from chns.core import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "chns.bundle.bundle": (
            "OUR_FACTORIES Architecture Bundle add_metrics load_bundle read_description require_finite "
            "require_own_bundle save_bundle weights_digest"
        ),
        "chns.bundle.bundle_graph": (
            "LARGEST_DISTANCE MADE_BY OPSET PACKAGED_MODEL GraphBundle add_graph add_graph_if_possible "
            "built_in_signal checked_distance load_graph_bundle require_export_packages several_lengths "
            "write_onnx write_waveform_graph"
        ),
        "chns.bundle.download": "SCHEME explained_hub_errors require_hub require_repository",
        "chns.bundle.finding": "BUNDLE_FILES GRAPH_FILE WEIGHTS_FILE bundle_folder require_local",
        "chns.bundle.graph": "Graph available_threads largest_distance model_graph onnx_graph torch_export_graph",
        "chns.bundle.layouts": "import_model",
        "chns.bundle.published": "own_copy",
    },
)
