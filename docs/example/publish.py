"""Publishes 20 minutes of page views, orders and fills: python publish.py 09:00"""
import asyncio, json, random, sys
from datetime import datetime, timedelta

import nats

SYMBOLS = [("BTC", 64000), ("BTC", 64000), ("ETH", 3100), ("SOL", 150)]


def events(start):
    rng = random.Random(start.isoformat())
    for number in range(600):
        at = start + timedelta(seconds=2 * number + rng.random())
        yield at, "page.viewed", {"user_id": f"u{rng.randrange(400)}", "properties": {"page": "/markets"}}
        if rng.random() < 0.5:
            symbol, price = rng.choice(SYMBOLS)
            properties = {"symbol": symbol, "quantity": rng.randrange(1, 50) / 10}
            order = {"user_id": f"u{rng.randrange(400)}", "correlation_id": f"o{start:%H%M}{number}"}
            yield at, "order.placed", order | {"properties": properties}
            if rng.random() < 0.9:
                filled = at + timedelta(milliseconds=rng.randrange(40, 3000))
                properties = properties | {"price": round(price * rng.uniform(0.99, 1.01), 2)}
                yield filled, "order.filled", order | {"properties": properties}


async def main():
    start = datetime.fromisoformat(f"2026-11-20T{sys.argv[1]}:00+00:00")
    client = await nats.connect("nats://127.0.0.1:4222")
    stream = client.jetstream()
    await stream.add_stream(name="EVENTS", subjects=["events.>"])
    for at, event_type, fields in sorted(events(start), key=lambda event: event[0]):
        event = {"event_type": event_type, "timestamp": at.isoformat()} | fields
        await stream.publish(f"events.{event_type}", json.dumps(event).encode())
    await stream.publish("events.order.placed", b"this is not JSON")
    print("messages in the stream:", (await stream.stream_info("EVENTS")).state.messages)
    await client.close()


asyncio.run(main())
