"""What the public JSON models share."""

from pydantic import BaseModel, ConfigDict


class Public(BaseModel):
    model_config = ConfigDict(populate_by_name=True, extra="forbid")
