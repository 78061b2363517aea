"""Django Channels sends to a group, through the layer that uses Pub/Sub."""

import asyncio
import sys

from channels_redis.pubsub import RedisPubSubChannelLayer


async def send():
    layer = RedisPubSubChannelLayer(hosts=[f"redis://localhost:{sys.argv[1]}"])
    await layer.group_send("orders", {"type": "order.paid", "id": 5})
    await layer.flush()


asyncio.run(send())
