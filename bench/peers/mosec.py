"""mosec: an HTTP server in Rust; one process decodes, and the model processes get batches of decoded samples.

Decoding is a stage of its own, as in mosec's documentation: a stage without batches rejects single requests, while a
failure in a batch fails the whole batch.
"""

import os

from mosec import Runtime, Server, Worker
from mosec.errors import DecodingError

from bench.peers.common import (
    BATCH,
    HOST,
    PROCESSES,
    TIMEOUT,
    WAIT,
    Answer,
    Classifier,
    Decoder,
    NotASound,
    Samples,
    port,
)


class Decode(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.decode = Decoder()

    def deserialize(self, data: bytes) -> Samples:
        try:
            return self.decode(data)
        except NotASound as error:
            raise DecodingError(str(error)) from error

    def forward(self, data: Samples) -> Samples:
        return data


class Classify(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.classify = Classifier()

    def forward(self, data: list[Samples]) -> list[Answer]:
        return self.classify(data)


if __name__ == "__main__":
    os.environ |= {"MOSEC_ADDRESS": HOST, "MOSEC_PORT": str(port()), "MOSEC_TIMEOUT": str(1000 * TIMEOUT)}
    os.environ["MOSEC_LOG_LEVEL"] = "warning"
    server = Server()
    classify = Runtime(Classify, num=PROCESSES, max_batch_size=BATCH, max_wait_time=round(1000 * WAIT))
    server.register_runtime({"/classify": [Runtime(Decode), classify]})
    server.run()
