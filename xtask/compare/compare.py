"""Compares a lake with what other engines make of the same events: compare.py EVENTS STREAM LAKE

DuckDB computes the aggregates and the joins, ClickHouse (chdb) the funnel with `windowFunnel`. Every
row must be there, once, and equal; doubles to 1e-12.
"""

import sys
import tempfile

import chdb
import duckdb

# An event is late if it lies more than 30 s behind the largest timestamp before it.
EVENTS = """
create table events as
with lines as (
    select row_number() over () as sequence, * from read_json(?, format = 'newline_delimited',
        columns = {id: 'varchar', event_type: 'varchar', timestamp: 'varchar', user_id: 'varchar',
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

VOLUME = """
create table expected_volume as
select granularity, time_bucket(length, happened) as window_start,
    time_bucket(length, happened) + length as window_end, symbol, count(*) as trades,
    count(price) as priced, fsum(price) as total, fsum(price) / count(price) as average,
    min(price) as low, max(price) as high, count(distinct user_id) as traders,
    count(*) filter (where price > 50) / count(price) as dear
from events, (values ('1m', interval 1 minute), ('1h', interval 1 hour), ('1d', interval 1 day))
    as windows(granularity, length)
where event_type = 'order.filled' group by all
"""

FILLS = """
create table expected_fills as
with l as (select * from events where event_type = 'order.placed'),
    r as (select * from events where event_type = 'order.filled')
select $stream || ':' || l.sequence as left_key, $stream || ':' || r.sequence as right_key,
    l.id as left_id, r.id as right_id,
    coalesce(greatest(l.happened, r.happened), l.happened, r.happened) as timestamp,
    l.sequence is not null and r.sequence is not null as matched, l.symbol as symbol,
    r.price - l.price as slip, date_diff('microsecond', l.happened, r.happened) / 1000 as latency_ms
from l full join r on l.correlation_id = r.correlation_id
    and r.happened between l.happened - interval 2 seconds and l.happened + interval 30 seconds
"""

# An event belongs to the period of each entry that it may go on from: its own, and for all but the
# first step that of ten minutes before.
FUNNEL = """
with 3600000000 as period_us, 600000000 as within_us,
    indexOf(['page.viewed', 'user.signup', 'deposit.made', 'order.placed'], event_type) as step,
    intDiv(happened_us, period_us) * period_us as own,
    intDiv(happened_us - within_us, period_us) * period_us as earlier
select period, countIf(level >= 1), countIf(level >= 2), countIf(level >= 3), countIf(level >= 4)
from (
    select user_id, period,
        windowFunnel(600000000)(toUInt64(happened_us), step = 1, step = 2, step = 3, step = 4) as level
    from file('{file}', Parquet)
    array join if(step = 1 or own = earlier, [own], [earlier, own]) as period
    where step > 0 and user_id is not null
    group by user_id, period
)
where level > 0 group by period
"""

KEYS = {
    "volume": ["granularity", "window_start", "symbol"],
    "fills": ["left_key", "right_key"],
    "onboarding": ["window_start", "step"],
}


def main(events, stream, lake):
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.execute(EVENTS, [events])
    connection.execute(VOLUME)
    connection.execute(FILLS, {"stream": stream})
    onboarding(connection)
    for table in KEYS:
        compare(connection, table, f"{lake}/{table}/**/*.parquet")


def onboarding(connection):
    """The users of every step as ClickHouse counts them, and the rates that follow."""
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        connection.execute(
            f"""copy (select user_id, event_type, epoch_us(happened) as happened_us from events)
            to '{file.name}' (format parquet)"""
        )
        lines = str(chdb.query(FUNNEL.format(file=file.name), "TSV")).splitlines()
    connection.execute(
        """create table expected_onboarding (window_start timestamptz, window_end timestamptz,
        step bigint, users bigint, conversion_rate double, drop_off_rate double,
        overall_rate double)"""
    )
    for line in lines:
        start_us, *users = map(int, line.split("\t"))
        for index, count in enumerate(users):
            rate = 1.0 if index == 0 else ratio(count, users[index - 1])
            connection.execute(
                """insert into expected_onboarding values (make_timestamptz($1),
                make_timestamptz($1) + interval 1 hour, $2, $3, $4, 1 - $4, $5)""",
                [start_us, index + 1, count, rate, ratio(count, users[0])],
            )


def ratio(part, whole):
    return part / whole if whole else None


def compare(connection, table, files):
    """Every expected row has its like, and there is no other."""
    columns = connection.execute(f"describe expected_{table}").fetchall()
    keys = " and ".join(f"e.{key} is not distinct from a.{key}" for key in KEYS[table])
    differs = " or ".join(different(name, kind) for name, kind, *_ in columns)
    wrong, expected, found = connection.execute(
        f"""with e as (select *, 1 as here from expected_{table}),
            a as (select *, 1 as here from read_parquet(?, hive_partitioning = false))
        select count(*), any_value(e), any_value(a) from e full join a on {keys}
        where e.here is null or a.here is null or {differs}""",
        [files],
    ).fetchone()
    counts = connection.execute(
        f"select (select count(*) from expected_{table}), (select count(*) from read_parquet(?))",
        [files],
    ).fetchone()
    if wrong or counts[0] != counts[1] or not counts[0]:
        raise SystemExit(
            f"{table}: {wrong} rows differ, {counts[0]} expected, {counts[1]} found\n"
            f"expected {expected}\n   found {found}"
        )
    print(f"{table}: {counts[1]:,} rows are equal")


def different(name, kind):
    if kind != "DOUBLE":
        return f"e.{name} is distinct from a.{name}"
    close = f"abs(e.{name} - a.{name}) <= 1e-12 * greatest(abs(e.{name}), abs(a.{name}))"
    return f"(e.{name} is null) <> (a.{name} is null) or not coalesce({close}, true)"


main(*sys.argv[1:])
