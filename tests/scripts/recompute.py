"""Prints the rows of tests/support/trading.toml over FILE: recompute.py FILE STREAM

Written from the definitions, in the plainest way, sharing nothing with waterwheel.
"""

import json
import math
import sys
from collections import defaultdict
from datetime import datetime, timedelta, timezone

LATENESS = WITHIN = timedelta(seconds=30)
FUNNEL_WITHIN = timedelta(hours=1)
LENGTHS = {"1m": timedelta(minutes=1), "1h": timedelta(hours=1), "1d": timedelta(days=1)}
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
STEPS = [
    ("viewed", "page.viewed"),
    ("signed up", "user.signup"),
    ("deposited", "deposit.made"),
    ("ordered", "order.placed"),
]


def main(path, stream):
    events = punctual(path)
    volume(events)
    pairs = fills(events, stream)
    fill_latency(pairs)
    onboarding(events)


def punctual(path):
    """The events that are not late, each with its time and sequence."""
    kept, newest = [], None
    with open(path, encoding="utf-8") as file:
        for sequence, line in enumerate(file, start=1):
            event = json.loads(line)
            event["at"] = datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00"))
            event["sequence"] = sequence
            if newest is not None and event["at"] < newest - LATENESS:
                continue
            newest = event["at"] if newest is None else max(newest, event["at"])
            kept.append(event)
    return kept


def windows(rows, lengths, by):
    groups = defaultdict(list)
    for row in rows:
        for granularity in lengths:
            start = EPOCH + (row["at"] - EPOCH) // LENGTHS[granularity] * LENGTHS[granularity]
            groups[granularity, start, by(row)].append(row)
    return groups.items()


def volume(events):
    filled = [event for event in events if event["event_type"] == "order.filled"]
    for (granularity, start, symbol), rows in windows(
        filled, ["1m", "1h"], lambda row: row["properties"]["symbol"]
    ):
        properties = [row["properties"] for row in rows]
        prices = [each["price"] for each in properties if each.get("price") is not None]
        notional = [each["price"] * each["quantity"] for each in properties if "price" in each]
        wins = [each["pnl_usd"] > 0 for each in properties if each["pnl_usd"] is not None]
        show(
            "volume",
            granularity=granularity,
            window_start=start,
            window_end=start + LENGTHS[granularity],
            symbol=symbol,
            trades=len(rows),
            priced=len(prices),
            notional=math.fsum(notional) if notional else None,
            avg_price=average(prices),
            low=min(prices, default=None),
            high=max(prices, default=None),
            traders=len({row["user_id"] for row in rows}),
            win_rate=sum(wins) / len(wins) if wins else None,
            p95_price=quantile(0.95, prices),
        )


def fills(events, stream):
    placed = defaultdict(list)
    for event in events:
        if event["event_type"] == "order.placed" and event["correlation_id"] is not None:
            placed[event["correlation_id"]].append(event)
    pairs = []
    for right in events:
        if right["event_type"] != "order.filled":
            continue
        for left in placed.get(right["correlation_id"], []):
            if timedelta() <= right["at"] - left["at"] <= WITHIN:
                pair = {
                    "at": right["at"],
                    "symbol": left["properties"]["symbol"],
                    "latency_ms": (right["at"] - left["at"]) / timedelta(milliseconds=1),
                }
                pairs.append(pair)
                show(
                    "fills",
                    left_key=f"{stream}:{left['sequence']}",
                    right_key=f"{stream}:{right['sequence']}",
                    left_id=left["id"],
                    right_id=right["id"],
                    timestamp=pair["at"],
                    matched=True,
                    symbol=pair["symbol"],
                    latency_ms=pair["latency_ms"],
                )
    return pairs


def fill_latency(pairs):
    for (granularity, start, symbol), rows in windows(pairs, ["1m"], lambda row: row["symbol"]):
        latencies = [row["latency_ms"] for row in rows]
        show(
            "fill_latency",
            granularity=granularity,
            window_start=start,
            window_end=start + LENGTHS[granularity],
            symbol=symbol,
            fills=len(rows),
            avg_ms=average(latencies),
            p95_ms=quantile(0.95, latencies),
        )


def onboarding(events):
    step_of = {kind: step for step, (_, kind) in enumerate(STEPS)}
    users = defaultdict(list)
    for event in events:
        if event["event_type"] in step_of:
            step = step_of[event["event_type"]]
            users[event["user_id"]].append((event["at"], step, event["sequence"]))
    periods = defaultdict(list)
    for steps in users.values():
        steps.sort()
        entered = {day(at) for at, step, _ in steps if step == 0}
        for period in entered:
            periods[period].append(best_path(steps, period))
    for period, paths in periods.items():
        show_funnel(period, paths)


def best_path(steps, period):
    chains, best = {}, []
    for at, step, _ in steps:
        if step == 0:
            if day(at) != period:
                continue
            chains[0] = [at]
        elif step - 1 in chains and at - chains[step - 1][0] <= FUNNEL_WITHIN:
            chains[step] = chains[step - 1] + [at]
        else:
            continue
        if len(chains[step]) > len(best):
            best = chains[step]
    return best


def show_funnel(period, paths):
    previous = None
    for index, (name, _) in enumerate(STEPS):
        reached = [path for path in paths if len(path) > index]
        rate = 1.0 if index == 0 else ratio(len(reached), previous)
        before = [(path[index] - path[index - 1]).total_seconds() for path in reached]
        since = [(path[index] - path[0]).total_seconds() for path in reached]
        show(
            "onboarding",
            window_start=period,
            window_end=period + LENGTHS["1d"],
            step=index + 1,
            step_name=name,
            users=len(reached),
            conversion_rate=rate,
            drop_off_rate=None if rate is None else 1 - rate,
            overall_rate=ratio(len(reached), len(paths)),
            avg_seconds_from_previous=average(before) if index else None,
            avg_seconds_from_first=average(since) if index else None,
        )
        previous = len(reached)


def day(at):
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def ratio(part, whole):
    return part / whole if whole else None


def average(values):
    return math.fsum(values) / len(values) if values else None


def quantile(rank, values):
    return sorted(values)[math.ceil(rank * len(values)) - 1] if values else None


def show(operator, **columns):
    for name, value in columns.items():
        if isinstance(value, datetime):
            columns[name] = value.isoformat()
    print(json.dumps({"op": "upsert", "operator": operator, **columns}))


main(*sys.argv[1:])
