"""BentoML: a service that accepts single files in front of a batched service, as in its documentation.

There are two services, since a batched method has lists in its HTTP interface too. The wait of a batch is adaptive;
`max_latency_ms` is not this wait but a deadline past which requests are rejected.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.exceptions import InvalidArgument
from bentoml.validators import ContentType

from bench.peers.common import BATCH, HOST, PROCESSES, TIMEOUT, Answer, Classifier, Decoder, NotASound, port

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
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "bench.peers.bentoml:Files",
        "--host",
        HOST,
        "--port",
        str(port()),
    ]
    os.execv(sys.executable, command)
