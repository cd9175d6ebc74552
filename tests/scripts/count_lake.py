"""Counts a lake's rows with DuckDB as its users do, with no option at all: count_lake.py DIRECTORY"""

import json
import sys
from pathlib import Path

import duckdb


def main(lake):
    connection = duckdb.connect()
    for directory in sorted(Path(lake).iterdir()):
        if not directory.is_dir() or directory.name.startswith((".", "_")):
            continue
        if not any(directory.rglob("*.parquet")):
            continue
        files = f"{directory}/**/*.parquet".replace("'", "''")
        (count,) = connection.execute(f"select count(*) from '{files}'").fetchone()
        rows = connection.execute(f"select * from '{files}'").fetchall()
        if len(rows) != count:
            raise SystemExit(f"{directory}: {count} counted, {len(rows)} read")
        print(json.dumps({"directory": directory.name, "rows": count}))


main(sys.argv[1])
