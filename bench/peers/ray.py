"""Ray Serve: one replica for each model process, with its own batches, behind Ray's proxy.

Every process of Ray opens a session, and Linux distributes the CPU by session (sched_autogroup): on a shared machine
Ray gets more of it than the other peers and the limit. Compare it on a machine that is otherwise idle.
"""

import asyncio
import logging
import signal

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from bench.peers.common import BATCH, HOST, PROCESSES, WAIT, Answer, Classifier, Decoder, NotASound, Samples, port


@serve.deployment(
    num_replicas=PROCESSES,
    max_ongoing_requests=4 * BATCH,  # more than a batch, so that the next one is ready when the model is free
    ray_actor_options={"num_cpus": 1},
    logging_config={"enable_access_log": False},
)
class Replica:
    def __init__(self) -> None:
        self.decode, self.classify = Decoder(), Classifier()

    async def __call__(self, request: Request) -> Answer | JSONResponse:
        try:
            samples = self.decode(await request.body())
        except NotASound as error:
            return JSONResponse({"error": str(error)}, 400)
        return await self.predict(samples)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT)
    async def predict(self, clips: list[Samples]) -> list[Answer]:
        return await asyncio.to_thread(self.classify, clips)


if __name__ == "__main__":
    ray.init(num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    serve.start(http_options={"host": HOST, "port": port()})
    serve.run(Replica.bind(), route_prefix="/classify")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
