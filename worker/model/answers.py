"""How the windows of a sound become one answer: the part of a model's config that says when to name a sound, and when
not to."""

from pydantic import BaseModel, ConfigDict, Field

from otoscope.types import Combine


class AnswerConfig(BaseModel):
    """Thresholds of a model. Fitted by `otoscope train` and `otoscope evaluate`; see docs/answers.md."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    active_dbfs: float = -50.0
    """A window in which 0.1 s is louder than this has something to hear."""
    active_range_db: float = 12.0
    """A quieter one has, too, if 0.1 s of it is so far above the noise floor of the sound, which a twentieth of it
    stays below."""
    digital_floor_dbfs: float = -90.0
    """Below this there is nothing but the rounding of 16 bits."""
    unknown_threshold: float | None = Field(default=None, ge=0, le=1)
    """A sound with a lower known score is none of the classes; None: the model cannot tell."""
    min_confidence: float | None = Field(default=None, ge=0, le=1)
    """The confidence from which on the model is right in 80 % of the cases; None: it was not measured."""
    combine: Combine = "evidence"
    detection_threshold: float = Field(default=0.25, ge=0, le=1)
    """Evidence of a class in a window from which on it is detected there."""
    class_thresholds: dict[str, float] = Field(default_factory=dict)
    """The same for single classes, chosen for a precision."""
