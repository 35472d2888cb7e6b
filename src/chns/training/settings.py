"""Settings of a training run. The defaults are those of the CHNS paper, with random batches and SupCon.

Each class is one section of a YAML file or of the command line (``--batches.speakers_per_batch 96``); jsonargparse
reads both and refuses unknown keys. Nothing below `chns.training.run` sees these classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

PAPER_SEGMENTS = 1300  # of a batch

CodecKind = Literal["telephone", "gsm", "mp3", "opus"]


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """Faster and slower speech, by resampling: length and pitch change together.

    Args:
        probability: How often a crop, under its own label, is played at one of the factors.
        factors: The speeds, each equally likely.
        new_speakers: Speeds at which each training speaker is one speaker more, e.g. [0.9, 1.1] for three times as
            many. Not together with a probability.
    """

    probability: float = 0.0
    factors: list[float] = field(default_factory=lambda: [0.9, 1.1])
    new_speakers: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ReverberationSettings:
    """A room around the voice.

    Args:
        probability: How often.
        folder: Room impulse responses, searched with all subfolders. By default they are made, without a download.
        rooms: So many rooms are simulated with pyroomacoustics when training starts; 0 makes a new response for each
            crop, from noise that decays.
        min_reverberation_seconds: Shortest decay by 60 dB of what is made.
        max_reverberation_seconds: Longest.
    """

    probability: float = 0.0
    folder: str | None = None
    rooms: int = 0
    min_reverberation_seconds: float = 0.2
    max_reverberation_seconds: float = 0.8


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """Noise, or music, under the voice. A crop has noise or music or babble or none, so probabilities add up.

    Args:
        probability: How often.
        folder: Recordings, searched with all subfolders, such as musan/noise. By default noise is generated, of a
            random colour; music has no default.
        min_snr_db: Loudest: lowest ratio of the voice to it.
        max_snr_db: Softest.
    """

    probability: float = 0.0
    folder: str | None = None
    min_snr_db: float = 0.0
    max_snr_db: float = 15.0


@dataclass(frozen=True, kw_only=True)
class BabbleSettings:
    """Other people under the voice.

    Args:
        probability: How often.
        folder: Recordings of speech, searched with all subfolders, such as musan/speech. By default, the training
            utterances.
        min_snr_db: Loudest: lowest ratio of the voice to all of them together.
        max_snr_db: Softest.
        min_voices: Fewest people.
        max_voices: Most.
    """

    probability: float = 0.0
    folder: str | None = None
    min_snr_db: float = 13.0
    max_snr_db: float = 20.0
    min_voices: int = 3
    max_voices: int = 7


@dataclass(frozen=True, kw_only=True)
class CodecSettings:
    """A line that the sound goes through.

    Args:
        probability: How often.
        kinds: Which lines, each equally likely: telephone (300 to 3,400 Hz, mu-law), gsm, mp3, opus. Encoding takes
            time, above all opus, which therefore has to be asked for: see benchmarks/augmentation.py.
    """

    probability: float = 0.0
    kinds: list[CodecKind] = field(default_factory=lambda: ["telephone", "gsm", "mp3"])


@dataclass(frozen=True, kw_only=True)
class GainSettings:
    """The volume. Features whose mean is subtracted, the default, hardly hear it.

    Args:
        probability: How often.
        min_gain_db: Smallest gain.
        max_gain_db: Largest gain; what would clip is turned down.
    """

    probability: float = 0.0
    min_gain_db: float = -10.0
    max_gain_db: float = 6.0


@dataclass(frozen=True, kw_only=True)
class SpecAugmentSettings:
    """Stripes of the features that are hidden, on the device.

    Args:
        probability: How often.
        time_masks: Stripes of frames.
        max_mask_frames: Widest of them.
        mel_masks: Stripes of mels.
        max_mask_mels: Widest of them.
    """

    probability: float = 0.0
    time_masks: int = 1
    max_mask_frames: int = 10
    mel_masks: int = 1
    max_mask_mels: int = 8


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """What training crops go through, in this order; by default nothing, as in the paper.

    Args:
        speed: Faster and slower speech.
        reverberation: A room.
        noise: Noise under the voice.
        music: Music under the voice.
        babble: Other people under the voice.
        codec: The line.
        gain: The volume.
        spec_augment: Masks on the features.
    """

    speed: SpeedSettings = field(default_factory=SpeedSettings)
    reverberation: ReverberationSettings = field(default_factory=ReverberationSettings)
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    music: NoiseSettings = field(default_factory=lambda: NoiseSettings(min_snr_db=5.0))
    babble: BabbleSettings = field(default_factory=BabbleSettings)
    codec: CodecSettings = field(default_factory=CodecSettings)
    gain: GainSettings = field(default_factory=GainSettings)
    spec_augment: SpecAugmentSettings = field(default_factory=SpecAugmentSettings)


BatchKind = Literal["random", "clustered", "neighbours", "auto"]


@dataclass(frozen=True, kw_only=True)
class ObjectSettings:
    """A class or function and its keyword settings; it may be your own.

    Args:
        factory: Import path, e.g. chns.encoders.ecapa_tdnn_mobile.
        settings: Keyword arguments, e.g. {embedding_dim: 256}.
    """

    factory: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which recordings, and how they are cut.

    Args:
        train: Manifest of the training utterances.
        root: Folder of the audio, or URL of packed shards, if not the folder that the manifest names.
        validation: Manifest of other speakers to validate on. By default training speakers are held out for it.
        held_out_speakers: How many, if validation is not given. By default 100, or a tenth of the speakers if there
            are fewer than 1,000, though never one alone, and none of fewer than ten; 0 trains without validation.
        crop_seconds: Length of a training crop.
        num_workers: Processes that decode. By default one for each core of this machine but one, at most 8.
    """

    train: str = ""
    root: str | None = None
    validation: str | None = None
    held_out_speakers: int | None = None
    crop_seconds: float = 3.0
    num_workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How batches are composed: speakers x utterances.

    Args:
        kind: random speakers throughout; or, in the hard phase, clustered ones as in the paper, or neighbours: small
            groups of nearest speakers; or auto, which needs none of the settings of the hard phase.
        speakers_per_batch: Speakers of a batch. By default as many as make the paper's 1,300 segments, 650 with two
            utterances each, or all that have enough utterances, if the corpus has fewer.
        utterances_per_speaker: Utterances of each of them.
        steps_per_epoch: Batches of an epoch. By default as many as use each utterance once on average.
        factory: Import path of a batch sampler of your own, in place of kind.
        settings: Its keyword arguments.
    """

    kind: BatchKind = "random"
    factory: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    speakers_per_batch: int | None = None
    utterances_per_speaker: int = 2
    steps_per_epoch: int | None = None

    @property
    def wanted_speakers(self) -> int:
        """Speakers of a batch as set, or the paper's."""
        return self.speakers_per_batch or max(2, PAPER_SEGMENTS // max(1, self.utterances_per_speaker))


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """The hard phase: when it starts, and how similar speakers are found and drawn. Not for batches.kind random.

    Args:
        start: When it starts: at start_epoch, or, from then on, as soon as batches are easy, see start_easy_share.
        model: Model whose embeddings group the speakers, instead of those of the encoder in training, so that no
            warm-up is needed: computed once, kept in the run's folder. packaged for the one that comes with chns.
        start_epoch: First epoch (from 0) with hard batches, after a warm-up. By default 2; 0 with a model.
        hard_ratio: Share of a batch's speakers that is drawn to be alike.
        ramp_epochs: Epochs over which the share grows to hard_ratio. Only for start epoch.
        start_easy_share: Share of easy anchors in an epoch, utterances nearer to their own speaker than to any other,
            above which random batches have become easy. Only for start easy.
        easy_share_low: If fewer anchors of hard batches are easy, the hard ratio falls by a half. Only for start easy.
        easy_share_high: If more of them are easy, it rises by a half. Only for start easy.
        num_clusters: Clusters of k-means. By default as many as give a batch the paper's 5.5: 50 for VoxCeleb2.
            Only for clustered.
        pooling: Which clusters a batch takes: random ones, the nearest of a random one, or even, which gives every
            speaker the same number of turns. Only for clustered.
        group_size: Speakers of a group. Only for neighbours.
        first_neighbour: Nearest neighbour that may join a group, 0 for the very nearest. Only for neighbours.
        last_neighbour: How many nearest are drawn from, those before the first left out. Only for neighbours.
        refresh_every: Find similar speakers again after so many epochs; 0 never does.
        separate_same_person: Keep speakers who are probably one person under two names out of each other's batches.
        utterances_per_centroid: Utterances that are embedded of each speaker.
        crop_seconds: Length of the crop taken of each of those.
    """

    start: Literal["epoch", "easy"] = "epoch"
    model: str | None = None
    start_epoch: int | None = None
    hard_ratio: float = 1.0
    ramp_epochs: int = 0
    start_easy_share: float = 0.8
    easy_share_low: float = 0.5
    easy_share_high: float = 0.8
    num_clusters: int | None = None
    pooling: Literal["random", "nearest", "even"] = "random"
    group_size: int = 8
    first_neighbour: int = 0
    last_neighbour: int = 16
    refresh_every: int = 0
    separate_same_person: bool = False
    utterances_per_centroid: int = 10
    crop_seconds: float = 3.0


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The optimiser and its schedule: linear warm-up, then half a cosine to zero.

    Args:
        kind: adam, or adamw (decoupled weight decay).
        learning_rate: Its peak. By default the paper's 0.01 for 1,300 segments, times the square root of the batch's
            segments over 1,300.
        weight_decay: Of all parameters.
        warmup_share: Share of all steps over which the rate rises.
        clip_norm: Largest norm of the gradients together; by default they are not clipped.
        rates: Share of the learning rate, by a pattern of the encoder's parameters, e.g. {"blocks.*": 0.1}. 0 freezes
            them, and the running statistics beside them; of several patterns that fit, the last counts.
    """

    kind: Literal["adam", "adamw"] = "adam"
    learning_rate: float | None = None
    weight_decay: float = 2e-6
    warmup_share: float = 0.1
    clip_norm: float | None = None
    rates: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Length, device and rhythm of the training.

    Args:
        epochs: Epochs of the whole run, warm-up included. More than a run was begun with make it longer: the learning
            rate goes on where the longer schedule has it.
        device: cpu, cuda, mps, or auto for the best there is.
        devices: Processes on this machine, one a device. More than one share every batch, with exact gradients. By
            default one, or as many as torchrun has started.
        num_nodes: Machines; start the command on each, with torchrun or SLURM. By default one, or those of torchrun.
        strategy: How Fabric keeps processes together, e.g. ddp; auto will do.
        timeout_minutes: How long a process waits for the others before the training ends with an error: longer than
            the first one needs to group the speakers, alone.
        precision: 32-true, bf16-mixed (losses stay in float32), or on a GPU 16-mixed (that, and scaled
            gradients, for GPUs without bf16).
        chunk_size: Segments embedded at a time, for batches that do not fit into memory; by default the whole batch if
            it fits, by what is counted. The gradients are those of the whole batch all the same, for the price of a
            second forward pass.
        log_every_steps: Steps between two lines of the log.
        checkpoint_every_steps: Steps between two checkpoints; one more is written at each epoch's end and on Ctrl-C.
        validate_every_epochs: Epochs between two validations; the last epoch always ends with one.
        validation_trials: Trials of a validation, half of them targets.
        logger: Takes all that log.csv takes: anything with log_metrics(metrics, step), such as
            lightning_fabric.loggers.TensorBoardLogger or a class of your own.
        average_last: Epochs at whose ends the weights, and running statistics, are taken into a mean that the last of
            them ends with; 1 for the weights as they are.
        start_from: Model whose weights training starts from; its encoder and features are taken too.
        teacher: Model whose embedding of each crop, as augmented, is learnt too, beside the loss: a better model tells
            more than few labels do. One of another size is reached through a learnt projection.
        teacher_weight: What 1 - cosine to the teacher counts beside the loss.
    """

    epochs: int = 200
    device: str = "auto"
    devices: int | None = None
    num_nodes: int | None = None
    strategy: str = "auto"
    timeout_minutes: float = 30.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    chunk_size: int | None = None
    log_every_steps: int = 20
    checkpoint_every_steps: int = 500
    validate_every_epochs: int = 1
    validation_trials: int = 10_000
    logger: ObjectSettings | None = None
    average_last: int = 1
    start_from: str | None = None
    teacher: str | None = None
    teacher_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that decides a training run.

    Args:
        data: Which recordings, and how they are cut.
        features: Keyword settings of chns.features.LogMel.
        encoder: Features to embeddings.
        loss: Of the embeddings and speaker labels of a batch.
        batches: How batches are composed.
        clusters: The hard phase.
        augmentation: What training crops go through.
        optimizer: The optimiser and its schedule.
        train: Length, device and rhythm.
        seed: Of everything random.
    """

    data: DataSettings = field(default_factory=DataSettings)
    features: dict[str, Any] = field(default_factory=dict)
    encoder: ObjectSettings = field(default_factory=lambda: ObjectSettings(factory="chns.encoders.ecapa_tdnn_mobile"))
    loss: ObjectSettings = field(default_factory=lambda: ObjectSettings(factory="chns.losses.SupConLoss"))
    batches: BatchSettings = field(default_factory=BatchSettings)
    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    train: TrainingSettings = field(default_factory=TrainingSettings)
    seed: int = 0
