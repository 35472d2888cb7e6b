"""What every room stands on: errors, types of arrays, files, processes, objects by name."""

from chns.core.front import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "chns.core.arrays": "BoolArray Float32Array Float64Array IntArray",
        "chns.core.errors": (
            "AudioError ChnsError ConfigError FolderInUseError ManifestError ModelFileError NonFiniteError "
            "RunFolderError TrialError counted in_short percent quoted shown suggestion usage_message"
        ),
        "chns.core.files": (
            "FORMULA LARGEST_YAML_BYTES atomic_folder atomic_path bounded_text config_path locked_folder "
            "no_formula number plain_text presets read_yaml require_ours require_small_yaml table_cell"
        ),
        "chns.core.parallel": "JobPart",
    },
)
