"""Recordings: the table of utterances, decoding, crops, and corpus preparation."""

from chns.core import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "chns.data.audio": (
            "MAX_RATE_HZ MIN_RATE_HZ Channel Waveform channel_number file_channels_differ proven_info read_audio "
            "write_audio"
        ),
        "chns.data.augmentation.background": (
            "Babble Background ColouredNoise Layer NoiseSource RecordingFolder TrainingUtterances mix_at_snr"
        ),
        "chns.data.augmentation.effects": (
            "CODECS Augmenter Codec Gain Speed speed_factors with_speed_speakers without_clipping"
        ),
        "chns.data.augmentation.reverberation": (
            "ResponseFolder ResponseSource Reverberation SimulatedRooms SyntheticDecay"
        ),
        "chns.data.conversion": "convert_audio",
        "chns.data.corpora.any_folder": "FIRST_LEVEL prepare_folder prepare_speech_commands",
        "chns.data.corpora.cnceleb": "prepare_cnceleb",
        "chns.data.corpora.list_formats": (
            "ColumnNames read_csv read_nemo read_speechbrain read_wespeaker write_csv write_wespeaker"
        ),
        "chns.data.corpora.hugging_face": "HuggingFaceColumns prepare_hugging_face",
        "chns.data.corpora.kaldi": "prepare_kaldi write_kaldi",
        "chns.data.corpora.lhotse": "prepare_lhotse_shar read_lhotse write_lhotse",
        "chns.data.corpora.listed": "scan_list",
        "chns.data.corpora.scan": "Candidate ScanResult",
        "chns.data.corpora.synthetic": "prepare_synthetic",
        "chns.data.corpora.tar_shards": "prepare_webdataset prepare_wespeaker_shards",
        "chns.data.corpora.voxceleb": "corpus_parts prepare_voxceleb set_of_folder",
        "chns.data.dataset": (
            "CropBatches CropFeed CropRequest SpeakerCrops UtteranceChange WholeUtterances as_floats "
            "pad_waveforms plain_worker_errors"
        ),
        "chns.data.manifest": "Manifest corpora_of",
        "chns.data.manifest_file": "REQUIRED_COLUMNS manifest_suffix",
        "chns.data.packing": "MANIFEST_NAME pack_shards",
        "chns.data.quality": "LARGEST_SAMPLE Quality channels_differ joint_quality measure_quality",
        "chns.data.resumable": "embed_utterances forget",
        "chns.data.speech_activity": "detect_speech mark_speech trim_to_speech",
        "chns.data.storage.packed": "Recording",
        "chns.data.storage.remote": "RemoteRecording",
    },
)
