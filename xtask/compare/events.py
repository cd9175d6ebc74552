"""Writes COUNT events as JSON Lines: events.py COUNT FILE

Made to be awkward: most times are shared by several events, every fifth event is out of order (some
beyond the lateness of 30 seconds), and users, keys and prices are NULL now and then.
"""

import json
import random
import sys
from datetime import datetime, timedelta, timezone

START = datetime(2026, 5, 4, 21, 30, tzinfo=timezone.utc)
STEPS = ["page.viewed", "page.viewed", "user.signup", "deposit.made", "order.placed", "order.filled"]


def main(count, path):
    chance = random.Random(20260504)
    users, orders, now = max(count // 400, 10), [], START
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            if chance.random() < 0.3:
                now += timedelta(milliseconds=chance.choice([1, 20, 100, 500]))
            at = now
            if chance.random() < 0.2:
                at -= timedelta(seconds=chance.choice([0.001, 0.5, 1, 5, 20, 30, 30.001, 40]))
            kind = chance.choice(STEPS)
            order = f"o{number}"
            if kind == "order.placed":
                orders = [*orders[-60:], order]
            elif orders and chance.random() < 0.8:
                order = chance.choice(orders)
            event = {
                "id": f"e{number}",
                "event_type": kind,
                "timestamp": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "user_id": None if chance.random() < 0.03 else f"u{chance.randrange(users)}",
                "correlation_id": None if chance.random() < 0.05 else order,
                "properties": {"symbol": chance.choice(["AAA", "BBB", "CCC", None])},
            }
            if chance.random() > 0.05:
                event["properties"]["price"] = round(chance.uniform(1, 100), chance.choice([0, 2, 6]))
            file.write(json.dumps(event) + "\n")


main(int(sys.argv[1]), sys.argv[2])
