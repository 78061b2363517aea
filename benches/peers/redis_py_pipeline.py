"""The same, once somebody has seen that it is slow: what has come is added in one pipeline, up to 128 messages."""

import sys

import redis

source, destination = (redis.Redis(unix_socket_path=path) for path in sys.argv[1:3])
messages = source.pubsub(ignore_subscribe_messages=True)
messages.subscribe("bench")
# It says that it is subscribed.
messages.get_message(timeout=10)
while True:
    message = messages.get_message(timeout=1)
    pipeline = destination.pipeline(transaction=False)
    while message and len(pipeline) < 128:
        fields = {"channel": message["channel"], "payload": message["data"]}
        pipeline.xadd("captured", fields, maxlen=100_000)
        message = messages.get_message()
    if message:
        fields = {"channel": message["channel"], "payload": message["data"]}
        pipeline.xadd("captured", fields, maxlen=100_000)
    if len(pipeline):
        pipeline.execute()
