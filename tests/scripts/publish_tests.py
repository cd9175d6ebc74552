"""Publishes the events of the first test in a deployment's file to a new stream, in order.

publish_tests.py URL STREAM DEPLOYMENT: prints how many there are.
"""

import asyncio
import json
import sys
import tomllib

import nats
from nats.js.api import StorageType, StreamConfig


def messages(test):
    """Of the test itself and its steps: an event alone, or a payload with its subject."""
    for part in [test, *test.get("steps", [])]:
        for event in part.get("events", []):
            is_message = "payload" in event
            yield event.get("subject", "events.new"), event["payload"] if is_message else event


async def main(url, stream, path):
    with open(path, "rb") as file:
        test = tomllib.load(file)["tests"][0]
    client = await nats.connect(url)
    jetstream = client.jetstream()
    config = StreamConfig(name=stream, subjects=["events.>", "ops.>"], storage=StorageType.FILE)
    await jetstream.add_stream(config)
    sequence = 0
    for subject, payload in messages(test):
        sequence = (await jetstream.publish(subject, json.dumps(payload).encode())).seq
    print(sequence)
    await client.close()


asyncio.run(main(*sys.argv[1:]))
