"""What the service answers, as OpenAPI describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class RecordingAnswer(BaseModel):
    """A recording as the model heard it: its quality, and the parts that were used, in seconds."""

    duration_seconds: float
    level_dbfs: float
    clipped_share: float
    silent_share: float
    used_seconds: list[tuple[float, float]]
    warnings: list[str]


class VerifyAnswer(BaseModel):
    """Whether two recordings are of one speaker."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "same_speaker": True,
                    "score": 0.729,
                    "threshold": 0.443,
                    "log_likelihood_ratio": 9.66,
                    "in_words": "very strong support for one speaker: about 16,000 times likelier",
                    "false_acceptance_rate": 0.0022,
                    "false_rejection_rate": 0.068,
                    "warnings": [],
                    "recordings": [],
                }
            ]
        }
    )
    same_speaker: bool
    score: float = Field(description="Cosine of the embeddings, -1 to 1.")
    threshold: float = Field(description="The lowest score that is accepted.")
    log_likelihood_ratio: float | None = Field(description="Natural logarithm; null without a calibration.")
    in_words: str | None
    false_acceptance_rate: float | None = Field(description="Expected of pairs of two speakers at this threshold.")
    false_rejection_rate: float | None = Field(description="Expected of pairs of one speaker at this threshold.")
    warnings: list[str]
    recordings: list[RecordingAnswer]


class EmbedAnswer(BaseModel):
    """An embedding of unit length."""

    embedding: list[float]
    magnitude: float
    model_digest: str
    recording: RecordingAnswer


class NamesAnswer(BaseModel):
    """Who is enrolled."""

    names: list[str]


class VoiceprintAnswer(BaseModel):
    """A voiceprint, with all that is kept of the person."""

    name: str
    enrolled_at: datetime
    note: str | None
    utterances: int
    voiceprint: list[float]
    model_digest: str


class EnrolAnswer(BaseModel):
    """What was enrolled; it is on the disk."""

    name: str
    utterances: int
    recordings: list[RecordingAnswer]


class DeleteAnswer(BaseModel):
    """What was deleted, for good."""

    deleted: str
    utterances: int


class MatchAnswer(BaseModel):
    """How like an enrolled person."""

    name: str
    score: float


class IdentifyAnswer(BaseModel):
    """Who it is; null for nobody who is enrolled."""

    identified: str | None
    threshold: float
    matches: list[MatchAnswer]
    recording: RecordingAnswer


class HealthAnswer(BaseModel):
    """That the service answers, and with which model."""

    status: str
    version: str
    model_digest: str
    needs_key: bool
    keeps_voiceprints: bool
    threshold: float
    sample_rate_hz: int
    longest_seconds: float


class Problem(BaseModel):
    """What was wrong, and what to do."""

    detail: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "The body cannot be read.",
        401: "The API key is missing or unknown.",
        403: "Host or Origin is another's.",
        408: "The body did not arrive in time.",
        413: "The body or the recording is too long.",
        422: "A value or a recording cannot be used.",
        503: "Too much to do, or the store is locked; try again.",
    }.items()
}
NOBODY: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "Nobody has this name."}}
TAKEN: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "The name is enrolled."}}

_AUDIO_TYPES = "audio/wav, audio/flac, audio/ogg, audio/opus, audio/mpeg, audio/mp4, application/octet-stream"


def parts(*names: str) -> dict[str, Any]:
    """What OpenAPI says of the parts of a multipart body that are recordings."""
    encoding = {name: {"contentType": _AUDIO_TYPES} for name in names}
    return {"requestBody": {"content": {"multipart/form-data": {"encoding": encoding}}}}
