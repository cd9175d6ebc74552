"""Answers a question with Pathway: on_pathway.py QUESTION EVENTS RESULT THREADS

EVENTS is JSON Lines, RESULT becomes JSON Lines. The events are read once, as a static table, and only
the columns that the question needs. THREADS is the number of Pathway's workers.
"""

import os
import sys

os.environ["PATHWAY_THREADS"] = sys.argv[4]

import pathway as pw

STEPS = ["page.viewed", "user.signup", "deposit.made", "order.placed"]
WITHIN_US, DAY_US = 3_600_000_000, 86_400_000_000

COLUMNS = {
    "aggregate": {"user_id": str, "symbol": str, "price": float},
    "join": {"event_id": str, "correlation_id": str, "symbol": str},
    "funnel": {"user_id": str},
}
# What is not a field of its own name at the top of an event.
PLACES = {"symbol": "/properties/symbol", "price": "/properties/price", "event_id": "/id"}


def read(question, path):
    """The events with what the question needs; what an event does not have is None."""
    columns = {name: pw.column_definition(dtype=str) for name in ("event_type", "timestamp")}
    for name, kind in COLUMNS[question].items():
        columns[name] = pw.column_definition(dtype=kind | None, default_value=None)
    places = {name: place for name, place in PLACES.items() if name in columns}
    events = pw.io.jsonlines.read(
        path, schema=pw.schema_builder(columns), mode="static", json_field_paths=places
    )
    return events.with_columns(timestamp=pw.this.timestamp.dt.strptime("%Y-%m-%dT%H:%M:%S.%fZ"))


def aggregate(events):
    events = events.with_columns(
        window_start=events.timestamp.dt.floor("1min"),
        priced=pw.if_else(events.price.is_none(), 0, 1),
        amount=pw.coalesce(events.price, 0.0),
        # A minimum and a maximum of nothing come out as these, and are None again below.
        low=pw.coalesce(events.price, float("inf")),
        high=pw.coalesce(events.price, float("-inf")),
    )
    groups = events.groupby(events.window_start, events.event_type, events.symbol).reduce(
        events.window_start,
        events.event_type,
        events.symbol,
        events=pw.reducers.count(),
        priced=pw.reducers.sum(events.priced),
        total=pw.reducers.sum(events.amount),
        low=pw.reducers.min(events.low),
        high=pw.reducers.max(events.high),
        users=pw.reducers.count_distinct(events.user_id),
    )
    some = groups.priced > 0
    return groups.select(
        groups.window_start,
        groups.event_type,
        groups.symbol,
        groups.events,
        price_sum=pw.if_else(some, groups.total, None),
        price_avg=pw.if_else(some, groups.total / pw.if_else(some, groups.priced, 1), None),
        price_min=pw.if_else(some, groups.low, None),
        price_max=pw.if_else(some, groups.high, None),
        users=groups.users,
    )


def join(events):
    left = events.filter(events.event_type == "order.placed")
    right = events.filter(events.event_type == "order.filled")
    pairs = left.join(right, left.correlation_id == right.correlation_id).select(
        left_id=left.event_id,
        right_id=right.event_id,
        symbol=left.symbol,
        latency_ms=(right.timestamp - left.timestamp).dt.microseconds() / 1000,
    )
    return pairs.filter((pairs.latency_ms >= 0) & (pairs.latency_ms <= 30_000))


def funnel(events):
    events = events.filter(events.user_id.is_not_none())
    # By time, then by step, in one number.
    events = events.select(
        events.user_id,
        moment=pw.cast(int, events.timestamp.dt.timestamp(unit="us")) * 8
        + pw.apply_with_type(lambda kind: STEPS.index(kind) if kind in STEPS else 7, int, events.event_type),
    )
    events = events.filter(events.moment % 8 < len(STEPS))
    users = events.groupby(events.user_id).reduce(
        moments=pw.reducers.sorted_tuple(events.moment)
    )
    reached = users.select(at=pw.apply_with_type(levels, list[int], users.moments)).flatten(pw.this.at)
    counted = reached.groupby(reached.at).reduce(reached.at, users=pw.reducers.count())
    return counted.select(
        window_start=(counted.at // 8).dt.from_timestamp(unit="us"),
        step=counted.at % 8 + 1,
        users=counted.users,
    )


def levels(moments):
    """One number for every step that a user reached, with the day of the entry."""
    reached = []
    for day in {moment // 8 // DAY_US for moment in moments if moment % 8 == 0}:
        entries, best = [None] * len(STEPS), -1
        for moment in moments:
            at, step = divmod(moment, 8)
            if step == 0:
                if at // DAY_US == day:
                    entries[0] = at
                    best = max(best, 0)
            elif entries[step - 1] is not None and at - entries[step - 1] <= WITHIN_US:
                entries[step] = entries[step - 1]
                best = max(best, step)
        reached.extend(day * DAY_US * 8 + step for step in range(best + 1))
    return reached


def main(question, events, result):
    answer = {"aggregate": aggregate, "join": join, "funnel": funnel}[question]
    pw.io.jsonlines.write(answer(read(question, events)), result)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


main(*sys.argv[1:4])
