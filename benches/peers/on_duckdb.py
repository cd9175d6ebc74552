"""Answers a question with DuckDB: on_duckdb.py QUESTION EVENTS RESULT THREADS

EVENTS is JSON Lines, RESULT becomes a Parquet file. DuckDB is told which columns there are, reads no
others, and need not keep the order of the events. THREADS is a number or `default`.
"""

import sys

import duckdb

EVENTS = """read_json('{events}', format = 'newline_delimited', columns = {{
    {columns}, event_type: 'varchar', timestamp: 'timestamp'}})"""

QUESTIONS = {
    "aggregate": (
        "user_id: 'varchar', properties: 'struct(symbol varchar, price double)'",
        """select date_trunc('minute', timestamp) as window_start, event_type,
            properties.symbol as symbol, count(*) as events, sum(properties.price) as price_sum,
            avg(properties.price) as price_avg, min(properties.price) as price_min,
            max(properties.price) as price_max, count(distinct user_id) as users
        from {events} group by all""",
    ),
    # Read once and kept: reading the file for either side takes longer.
    "join": (
        "id: 'varchar', correlation_id: 'varchar', properties: 'struct(symbol varchar)'",
        """with orders as materialized (
            select * from {events} where event_type in ('order.placed', 'order.filled')
        )
        select l.id as left_id, r.id as right_id, l.properties.symbol as symbol,
            epoch_us(r.timestamp - l.timestamp) / 1000 as latency_ms
        from orders l join orders r on l.correlation_id = r.correlation_id
            and r.timestamp between l.timestamp and l.timestamp + interval 30 seconds
        where l.event_type = 'order.placed' and r.event_type = 'order.filled'""",
    ),
}


def main(question, events, result, threads):
    connection = duckdb.connect(config={} if threads == "default" else {"threads": threads})
    connection.execute("set preserve_insertion_order = false")
    columns, query = QUESTIONS[question]
    query = query.format(events=EVENTS.format(events=events, columns=columns))
    connection.execute(f"copy ({query}) to '{result}' (format parquet)")


main(*sys.argv[1:])
