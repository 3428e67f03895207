"""mosec: its HTTP side is Rust; one process decodes, the model processes are given batches of what it decoded.

Decoding is a stage of its own, as in mosec's documentation: a stage that takes one request at a time refuses one
request at a time, while what fails in a batch fails the batch.
"""

import os

from mosec import Runtime, Server, Worker
from mosec.errors import DecodingError

from peers.common import BATCH, HOST, PROCESSES, TIMEOUT, WAIT, Answer, Classifier, Decoder, NotASound, Samples, port


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
