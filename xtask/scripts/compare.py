"""Compares the results of bench runs with what DuckDB makes of the same events.

compare.py EVENTS STREAM RESULTS...

EVENTS is the JSON Lines file whose line n is message n of STREAM. Every directory of results is
compared as far as it goes: its tables are directories of Parquet files (of final rows, or of all
changes), or files of CSV with a header. Counts must be equal, doubles to 1e-12.
"""

import math
import sys
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path

import duckdb

FUNNEL = ["page.viewed", "user.signup", "deposit.made", "order.placed"]
NAMES = ["viewed", "signed up", "paid in", "ordered"]
WITHIN = timedelta(hours=1)

# An event is late if it lies more than 30 s behind the largest timestamp before it.
EVENTS = """
create table events as
with lines as (
    select row_number() over () as sequence, * from read_json(?, format = 'newline_delimited',
        maximum_object_size = 1048576, columns = {
            id: 'varchar', event_type: 'varchar', timestamp: 'varchar', user_id: 'varchar',
            correlation_id: 'varchar', properties: 'struct(symbol varchar, price double)'})
), timed as (
    select * exclude (timestamp, properties), properties.symbol as symbol,
        properties.price as price, cast(timestamp as timestamptz) as happened
    from lines
), judged as (
    select *, max(happened) over (order by sequence rows between unbounded preceding and 1 preceding)
        as newest
    from timed
)
select * exclude (newest) from judged where newest is null or happened >= newest - interval 30 seconds
"""

EXPECTED = {
    "activity": """
        select '1m' as granularity, time_bucket(interval 1 minute, happened) as window_start,
            time_bucket(interval 1 minute, happened) + interval 1 minute as window_end, event_type, symbol,
            count(*) as events, fsum(price) as price_sum, fsum(price) / count(price) as price_avg,
            min(price) as price_min, max(price) as price_max, count(distinct user_id) as users
        from events group by all""",
    "fills": """
        select ? || ':' || l.sequence as left_key, ? || ':' || r.sequence as right_key,
            l.id as left_id, r.id as right_id, r.happened as timestamp, true as matched, l.symbol,
            date_diff('microsecond', l.happened, r.happened) / 1000 as latency_ms
        from events l join events r on l.correlation_id = r.correlation_id
            and r.happened between l.happened and l.happened + interval 30 seconds
        where l.event_type = 'order.placed' and r.event_type = 'order.filled'""",
}
KEYS = {
    "activity": ["window_start", "event_type", "symbol"],
    "fills": ["left_key", "right_key"],
    "onboarding": ["window_start", "step"],
}


def main(events, stream, *lakes):
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.execute(EVENTS, [events])
    made = set()
    compared = 0
    for lake in lakes:
        tables = [table for table in KEYS if (Path(lake) / table).is_dir() or file_of(lake, table).is_file()]
        if not tables:
            raise SystemExit(f"{lake} is empty")
        for table in tables:
            if table not in made:
                expect(connection, table, stream)
                made.add(table)
            compared += compare(connection, table, lake)
    print(f"{compared:,} rows in {len(lakes)} runs equal what DuckDB computes")


def expect(connection, table, stream):
    if table == "onboarding":
        connection.execute(
            """create table expected_onboarding (window_start timestamptz, window_end timestamptz,
            step bigint, step_name varchar, users bigint, conversion_rate double,
            drop_off_rate double, overall_rate double, avg_seconds_from_previous double,
            avg_seconds_from_first double)"""
        )
        connection.executemany(
            "insert into expected_onboarding values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            list(onboarding(connection)),
        )
        return
    parameters = [stream, stream] if table == "fills" else []
    connection.execute(f"create table expected_{table} as {EXPECTED[table]}", parameters)


def file_of(lake, table):
    return Path(lake) / f"{table}.csv"


def found(connection, table, lake, columns):
    """The rows that are there in the end, as the table `found`; the names of its columns."""
    file = file_of(lake, table)
    if file.is_file():
        kinds = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
        rows = f"read_csv('{file}', header = true, nullstr = '', columns = {{{kinds}}})"
        header = connection.execute(
            f"select * from read_csv('{file}', header = true, all_varchar = true) limit 0"
        ).description
        if [column[0] for column in header] != list(columns):
            return [column[0] for column in header]
    else:
        rows = f"read_parquet('{lake}/{table}/**/*.parquet', hive_partitioning = false)"
    connection.execute(f"create or replace temp view written as select * from {rows}")
    names = [column[0] for column in connection.execute("select * from written limit 0").description]
    latest = "select * from written"
    if "op" in names:
        # All changes: of each key the last one counts.
        names = [name for name in names if name not in ("op", "epoch")]
        latest = f"""select * exclude (op, epoch) from (select * from written qualify
            row_number() over (partition by {", ".join(KEYS[table])} order by epoch desc) = 1)
            where op = 'upsert'"""
    connection.execute(f"create or replace temp table found as {latest}")
    return names


def compare(connection, table, lake):
    described = connection.execute(f"describe expected_{table}").fetchall()
    columns = {name: kind for name, kind, *_ in described}
    names = found(connection, table, lake, columns)
    if names != list(columns):
        raise SystemExit(f"{lake}: the columns of {table} are {names}, expected {list(columns)}")
    keys = " and ".join(f"e.{key} is not distinct from a.{key}" for key in KEYS[table])
    differs = " or ".join(different(name, kind) for name, kind in columns.items())
    # The key never is NULL as a whole, so a missing side shows in the first column of it.
    side = KEYS[table][0]
    wrong = connection.execute(
        f"""select count(*), any_value(e), any_value(a) from expected_{table} e
        full join found a on {keys}
        where e.{side} is null or a.{side} is null or {differs}"""
    ).fetchone()
    counts = connection.execute(
        f"select (select count(*) from expected_{table}), (select count(*) from found)"
    ).fetchone()
    if wrong[0] or counts[0] != counts[1] or not counts[0]:
        raise SystemExit(
            f"{lake}: {wrong[0]} rows of {table} differ, {counts[0]} expected, {counts[1]} found\n"
            f"expected {wrong[1]}\n   found {wrong[2]}"
        )
    return counts[1]


def different(name, kind):
    if kind != "DOUBLE":
        return f"e.{name} is distinct from a.{name}"
    close = f"abs(e.{name} - a.{name}) <= 1e-12 * greatest(abs(e.{name}), abs(a.{name}))"
    return f"(e.{name} is null) <> (a.{name} is null) or not coalesce({close}, true)"


def onboarding(connection):
    """The ordered funnel, by its definition: events by time, then lowest step, then sequence."""
    cursor = connection.execute(
        """select user_id, happened, list_position(?, event_type) - 1 as step from events
        where list_contains(?, event_type) and user_id is not null
        order by user_id, happened, step, sequence""",
        [FUNNEL, FUNNEL],
    )
    periods, user, steps = defaultdict(list), None, []
    while rows := cursor.fetchmany(100_000):
        for name, at, step in rows:
            if name != user:
                finish(periods, steps)
                user, steps = name, []
            steps.append((at, step))
    finish(periods, steps)
    for period, paths in sorted(periods.items()):
        previous = None
        for index, name in enumerate(NAMES):
            reached = [path for path in paths if len(path) > index]
            rate = 1.0 if index == 0 else ratio(len(reached), previous)
            before = [path[index] - path[index - 1] for path in reached] if index else []
            since = [path[index] - path[0] for path in reached] if index else []
            previous = len(reached)
            yield (
                period, period + timedelta(days=1), index + 1, name, len(reached), rate,
                None if rate is None else 1 - rate, ratio(len(reached), len(paths)),
                average(before), average(since),
            )


def finish(periods, steps):
    for period in {day(at) for at, step in steps if step == 0}:
        chains, best = {}, []
        for at, step in steps:
            if step == 0 and day(at) == period:
                chains[0] = [at]
            elif step > 0 and step - 1 in chains and at - chains[step - 1][0] <= WITHIN:
                chains[step] = chains[step - 1] + [at]
            else:
                continue
            if len(chains[step]) > len(best):
                best = chains[step]
        periods[period].append(best)


def day(at: datetime):
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def ratio(part, whole):
    return part / whole if whole else None


def average(spans):
    return math.fsum(span.total_seconds() for span in spans) / len(spans) if spans else None


main(*sys.argv[1:])
