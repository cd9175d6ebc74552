"""Prints a lake's rows with DuckDB, in the words of the print sink: read_lake.py DIRECTORY

Reads what any reader sees: the Parquet files of each directory, and nothing else.
"""

import json
import sys
from datetime import datetime, timezone
from pathlib import Path

import duckdb


def main(lake):
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    for directory in sorted(Path(lake).iterdir()):
        visible = directory.is_dir() and not directory.name.startswith((".", "_"))
        if not visible or not any(directory.rglob("*.parquet")):
            continue
        rows = connection.execute(
            "select * from read_parquet(?, hive_partitioning = false, union_by_name = false)",
            [f"{directory}/**/*.parquet"],
        )
        columns = [column[0] for column in rows.description]
        for row in rows.fetchall():
            values = {name: plain(value) for name, value in zip(columns, row)}
            print(json.dumps({"op": "upsert", "operator": directory.name, **values}))


def plain(value):
    if not isinstance(value, datetime):
        return value
    return value.astimezone(timezone.utc).isoformat()


main(sys.argv[1])
