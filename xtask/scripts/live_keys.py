"""Evaluates aggregate expressions over a file of events: one number a line.

live_keys.py EVENTS EXPRESSION...
"""

import sys

import duckdb

columns = {name: "varchar" for name in ("event_type", "user_id", "correlation_id")}
events = duckdb.read_json(sys.argv[1], format="newline_delimited", columns=columns)
for count in duckdb.sql(f"SELECT {', '.join(sys.argv[2:])} FROM events").fetchall()[0]:
    print(count)
