"""Answers a question with ClickHouse as a library: on_chdb.py QUESTION EVENTS RESULT THREADS

EVENTS is JSON Lines, RESULT becomes a Parquet file. ClickHouse is told which columns there are and
reads no others. THREADS is a number or `default`.
"""

import sys

import chdb

# An event belongs to the day of each entry that it may go on from: its own, and for all but the
# first step that of an hour before.
FUNNEL = """
select fromUnixTimestamp64Micro(day, 'UTC') as window_start, reached as step, count() as users
from (
    with 86400000000 as day_us, 3600000000 as within_us,
        indexOf(['page.viewed', 'user.signup', 'deposit.made', 'order.placed'], event_type) as step,
        toUnixTimestamp64Micro(timestamp) as happened_us,
        intDiv(happened_us, day_us) * day_us as own,
        intDiv(happened_us - within_us, day_us) * day_us as earlier
    select user_id, day,
        windowFunnel(3600000000)(toUInt64(happened_us), step = 1, step = 2, step = 3, step = 4) as level
    from file('{events}', JSONEachRow,
        'event_type String, timestamp DateTime64(6, \\'UTC\\'), user_id Nullable(String)')
    array join if(step = 1 or own = earlier, [own], [earlier, own]) as day
    where event_type in ('page.viewed', 'user.signup', 'deposit.made', 'order.placed')
        and user_id is not null
    group by user_id, day
)
array join range(1, toUInt64(level) + 1) as reached
group by day, reached
into outfile '{result}' format Parquet
settings date_time_input_format = 'best_effort', input_format_skip_unknown_fields = 1{threads}
"""

QUESTIONS = {"funnel": FUNNEL}


def main(question, events, result, threads):
    # Cutting the file into pieces for several threads takes a third of the CPU time.
    few = f", max_threads = {threads}, input_format_parallel_parsing = 0"
    threads = "" if threads == "default" else few
    chdb.query(QUESTIONS[question].format(events=events, result=result, threads=threads))


main(*sys.argv[1:])
