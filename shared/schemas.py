from pydantic import BaseModel, ConfigDict


class Accuracy(BaseModel):
    """One measured accuracy and how it was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    protocol: str
    correct: int
    total: int
