"""Writes COUNT events to FILE as JSON Lines, always the same: events.py COUNT FILE

They cross a midnight in UTC, come up to 30 s out of order (a few later still), lack a field now
and then, and hold orders that are never filled, filled late, or filled twice.
"""

import json
import random
import sys
from datetime import datetime, timedelta, timezone

START = datetime(2026, 3, 1, 22, 30, tzinfo=timezone.utc)
SPAN_SECONDS = 3 * 3600
SYMBOLS = ["BTC-USD", "ETH-USD", "SOL-USD", "ZÜRICH-€", "a.b c"]


def main(count, path):
    draw = random.Random(20260301)
    events = []
    while len(events) < count:
        at = draw.random() * SPAN_SECONDS
        user = f"user-{min(int(draw.expovariate(1 / 60)), 399)}"
        events.extend(story(draw, at, user, len(events)))
    events = events[:count]
    # The log's order is event time with a delay: what arrives late was published late.
    events.sort(key=lambda event: event[0] + delay(draw))
    with open(path, "w", encoding="utf-8") as file:
        for at, event in events:
            event["timestamp"] = spell(draw, START + timedelta(microseconds=round(at * 1e6)))
            file.write(json.dumps(event, ensure_ascii=draw.random() < 0.5) + "\n")


def delay(draw):
    chance = draw.random()
    if chance < 0.85:
        return 0.0
    return draw.random() * (30.0 if chance < 0.99 else 120.0)


def spell(draw, at):
    text = at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return text.replace("T", " ") if draw.random() < 0.1 else text


def story(draw, at, user, number):
    kind = draw.random()
    if kind < 0.25:
        return [(at, event("page.viewed", user, f"{number}-v", {"page": draw.choice("abc")}))]
    if kind < 0.35:
        return [(at, event("user.signup", user, f"{number}-s", {}))]
    if kind < 0.45:
        return [(at, event("deposit.made", user, f"{number}-d", {"amount": draw.randrange(1000)}))]
    symbol = draw.choice(SYMBOLS)
    order = f"order-{number}"
    placed = event("order.placed", user, f"{number}-p", {"symbol": symbol})
    placed["correlation_id"] = None if draw.random() < 0.02 else order
    found = [(at, placed)]
    for nth in range(draw.choices([0, 1, 2], [2, 7, 1])[0]):
        properties = {"symbol": symbol, "price": round(draw.uniform(0.01, 70000), 2)}
        properties["quantity"] = round(draw.uniform(0.001, 9), 3)
        properties["pnl_usd"] = draw.choice([None, 0, -3.25, 4.5, 12])
        if draw.random() < 0.03:
            del properties["price"]
        filled = event("order.filled", user, f"{number}-f{nth}", properties)
        filled["correlation_id"] = placed["correlation_id"]
        # Up to 40 s later: some lie beyond the join's 30 s, a few exactly on the bound.
        after = draw.choice([draw.random() * 40, draw.random() * 0.5, 30.0])
        found.append((at + after, filled))
    return found


def event(kind, user, identity, properties):
    return {"id": identity, "event_type": kind, "user_id": user, "properties": properties}


main(int(sys.argv[1]), sys.argv[2])
