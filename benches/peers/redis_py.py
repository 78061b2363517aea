"""What people write first: each message that comes is added to the stream. SOURCE and DESTINATION are unix sockets."""

import sys

import redis

source, destination = (redis.Redis(unix_socket_path=path) for path in sys.argv[1:3])
messages = source.pubsub(ignore_subscribe_messages=True)
messages.subscribe("bench")
for message in messages.listen():
    fields = {"channel": message["channel"], "payload": message["data"]}
    destination.xadd("captured", fields, maxlen=100_000)
