"""Answers a question with Apache Flink: on_flink.py QUESTION EVENTS RESULT THREADS

EVENTS is JSON Lines, RESULT becomes a directory of JSON Lines. Flink runs in batch mode, with THREADS
as its parallelism, inside one JVM of its own, which this process waits for, so that its CPU time
is part of ours.
"""

import os
import sys

# Of the JVM's collectors this one takes the least CPU time here.
os.environ["FLINK_ENV_JAVA_OPTS"] = "-XX:+UseSerialGC"
os.environ["FLINK_LOG_DIR"] = os.getcwd()

from pyflink.common import Configuration
from pyflink.java_gateway import get_gateway
from pyflink.table import EnvironmentSettings, TableEnvironment

EVENTS = """
create table events (id string, event_type string, `timestamp` timestamp_ltz(6), user_id string,
    correlation_id string, properties row<symbol string, price double>)
with ('connector' = 'filesystem', 'path' = '{events}', 'format' = 'json',
    'json.timestamp-format.standard' = 'ISO-8601')
"""

RESULT = """
create table answer ({columns})
with ('connector' = 'filesystem', 'path' = '{result}', 'format' = 'json',
    'json.timestamp-format.standard' = 'ISO-8601')
"""

QUESTIONS = {
    "aggregate": (
        """window_start timestamp_ltz(6), event_type string, symbol string, events bigint,
            price_sum double, price_avg double, price_min double, price_max double, users bigint""",
        """insert into answer
        select window_start, event_type, symbol, count(*), sum(price), avg(price), min(price),
            max(price), count(distinct user_id)
        from (
            select floor(`timestamp` to minute) as window_start, event_type, user_id,
                properties.symbol as symbol, properties.price as price
            from events
        ) group by window_start, event_type, symbol""",
    ),
    "join": (
        "left_id string, right_id string, symbol string, latency_ms double",
        """insert into answer
        select l.id, r.id, l.properties.symbol,
            ((extract(epoch from r.`timestamp`) - extract(epoch from l.`timestamp`)) * 1000000
            + extract(microsecond from r.`timestamp`) - extract(microsecond from l.`timestamp`)) / 1e3
        from events l join events r on l.correlation_id = r.correlation_id
        where l.event_type = 'order.placed' and r.event_type = 'order.filled'
            and r.`timestamp` between l.`timestamp` and l.`timestamp` + interval '30' second""",
    ),
}


def main(question, events, result, threads):
    configuration = Configuration()
    configuration.set_string("parallelism.default", threads)
    configuration.set_string("pipeline.object-reuse", "true")
    configuration.set_string("io.tmp.dirs", os.getcwd())
    settings = EnvironmentSettings.new_instance().in_batch_mode().with_configuration(configuration)
    tables = TableEnvironment.create(settings.build())
    tables.get_config().set_local_timezone("UTC")
    columns, query = QUESTIONS[question]
    tables.execute_sql(EVENTS.format(events=events))
    tables.execute_sql(RESULT.format(columns=columns, result=result))
    tables.execute_sql(query).wait()
    # The JVM ends with its gateway.
    get_gateway().shutdown()
    os.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
