"""Publishes FILE line by line to a new stream, in order: publish.py URL STREAM SUBJECT FILE"""

import asyncio
import sys

import nats
from nats.js.api import StorageType, StreamConfig


async def main(url, stream, subject, path):
    client = await nats.connect(url)
    jetstream = client.jetstream(publish_async_max_pending=500)
    config = StreamConfig(name=stream, subjects=[f"{subject}.>"], storage=StorageType.FILE)
    await jetstream.add_stream(config)
    with open(path, "rb") as file:
        lines = file.read().splitlines()
    pending = []
    for line in lines:
        pending.append(await jetstream.publish_async(f"{subject}.trading", line, wait_stall=60))
    sequences = [(await acknowledged).seq for acknowledged in pending]
    if sequences != list(range(1, len(lines) + 1)):
        raise SystemExit("the log is not in the order of the file")
    await client.close()


asyncio.run(main(*sys.argv[1:]))
