"""The request and the response of older services (`/evaluate`)."""

from pydantic import BaseModel, Field

from otoscope.types.base import Public
from otoscope.types.results import ArrayJSON, Prediction


class EvaluateRequest(BaseModel):
    """The request of older services. Unknown keys are ignored, as by them."""

    audio_data: str = Field(description="the sound file, base64")


class LegacyWaveform(Public):
    values: list[float]
    sample_rate: int
    duration: float


class EvaluateResponse(Public):
    """The response of older services."""

    predictions: list[Prediction]
    visualization: dict[str, ArrayJSON]
    input_spectrogram: ArrayJSON | None = None
    input_spectogram: ArrayJSON | None = Field(None, description="the older spelling, with ?spelling=old")
    waveform: LegacyWaveform
