"""BentoML: a service that takes files, one at a time, before a service that is batched, as its documentation has it.

Two of them, since a batched method speaks lists over HTTP too. The batch adapts its own wait; `max_latency_ms` is no
wait but a deadline beyond which requests are refused.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.exceptions import InvalidArgument
from bentoml.validators import ContentType

from peers.common import BATCH, HOST, PROCESSES, TIMEOUT, Answer, Classifier, Decoder, NotASound, port

CONFIG: dict[str, Any] = {"traffic": {"timeout": TIMEOUT}, "logging": {"access": {"enabled": False}}}


@bentoml.service(workers=PROCESSES, **CONFIG)
class Model:
    def __init__(self) -> None:
        self.classify = Classifier()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=1000 * TIMEOUT)
    def predict(self, clips: np.ndarray) -> list[Answer]:
        return self.classify(clips)


@bentoml.service(workers=1, **CONFIG)
class Files:
    model = bentoml.depends(Model)

    def __init__(self) -> None:
        self.decode = Decoder()

    @bentoml.api
    async def classify(self, sound: Annotated[Path, ContentType("audio/*")], /) -> Answer:
        try:
            samples = self.decode(sound.read_bytes())
        except NotASound as error:
            raise InvalidArgument(str(error)) from error
        answers = await self.model.to_async.predict(samples[np.newaxis])
        return answers[0]


if __name__ == "__main__":
    command = [sys.executable, "-m", "bentoml", "serve", "peers.bentoml:Files", "--host", HOST, "--port", str(port())]
    os.execv(sys.executable, command)
