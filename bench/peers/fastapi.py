"""FastAPI alone: one process, no batches, the model in one thread that uses every core.

One thread instead of the pool of FastAPI's synchronous endpoints: forty concurrent forward passes would each start
threads for every core.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from fastapi import FastAPI, HTTPException, Request

from bench.peers.common import HOST, Answer, Classifier, Decoder, NotASound, port

app = FastAPI()
thread = ThreadPoolExecutor(1)
decode, classify = Decoder(), Classifier(threads=len(os.sched_getaffinity(0)))


def answer(sound: bytes) -> Answer:
    return classify([decode(sound)])[0]


@app.post("/classify")
async def endpoint(request: Request) -> Answer:
    sound = await request.body()
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, answer, sound)
    except NotASound as error:
        raise HTTPException(400, str(error)) from error


if __name__ == "__main__":
    uvicorn.run(app, host=HOST, port=port(), log_level="warning")
