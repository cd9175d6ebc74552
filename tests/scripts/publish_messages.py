"""Publishes FILE to a new stream over SUBJECTS (with commas), in order: publish_messages.py URL STREAM SUBJECTS FILE

Each line of the file is a message: {"subject": "a.b", "headers": {"Name": "value"}, "payload": "text"}
"""

import asyncio
import json
import sys

import nats
from nats.js.api import StreamConfig


async def main(url, stream, subjects, path):
    client = await nats.connect(url)
    jetstream = client.jetstream()
    await jetstream.add_stream(StreamConfig(name=stream, subjects=subjects.split(",")))
    with open(path, encoding="utf-8") as file:
        for line in file:
            message = json.loads(line)
            payload = message["payload"].encode()
            headers = message.get("headers") or None
            await jetstream.publish(message["subject"], payload, headers=headers)
    await client.close()


asyncio.run(main(*sys.argv[1:]))
