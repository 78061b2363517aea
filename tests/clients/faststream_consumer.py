"""A FastStream subscriber takes one entry of a stream, as a member of a consumer group, and prints it."""

import asyncio
import sys

from faststream.redis import RedisBroker, StreamSub

broker = RedisBroker(f"redis://localhost:{sys.argv[1]}", logger=None)
handled = asyncio.Event()


@broker.subscriber(stream=StreamSub("orders", group="inventory", consumer="worker", polling_interval=100))
async def handle(message):
    print(sorted(message.items()), flush=True)
    handled.set()


async def consume():
    await broker.start()
    await asyncio.wait_for(handled.wait(), 30)
    await broker.stop()


asyncio.run(consume())
