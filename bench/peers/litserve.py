"""LitServe: its own batching, in one worker for each model process, with its default number of HTTP processes.

A bad file is rejected where LitServe decodes requests, with the HTTPException that it documents for this.
"""

from typing import Annotated

import litserve
from fastapi import Body, HTTPException

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


class API(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.decode, self.classify = Decoder(), Classifier()

    def decode_request(self, request: Annotated[bytes, Body()]) -> Samples:
        try:
            return self.decode(request)
        except NotASound as error:
            raise HTTPException(400, str(error)) from error

    def predict(self, x: Samples) -> list[Answer]:
        return self.classify(x)  # LitServe has stacked them

    def encode_response(self, output: Answer) -> Answer:
        return output


if __name__ == "__main__":
    api = API(max_batch_size=BATCH, batch_timeout=WAIT, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=PROCESSES, timeout=TIMEOUT)
    server.run(host=HOST, port=port(), generate_client_file=False, log_level="warning")
