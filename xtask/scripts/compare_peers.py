"""Compares another engine's rows with waterwheel's: compare_peers.py QUESTION TABLE RESULT

TABLE is the table of waterwheel's lake, RESULT a Parquet file, a file of JSON Lines, or a directory of
such files. Every row must be there, once: sums and averages equal to 1e-9, all else exactly.
"""

import sys
from pathlib import Path

import duckdb

# The columns with their types: first the keys, then what is equal, then what may be rounded.
QUESTIONS = {
    "aggregate": (
        {"window_start": "timestamptz", "event_type": "varchar", "symbol": "varchar"},
        {"events": "bigint", "price_min": "double", "price_max": "double", "users": "bigint"},
        {"price_sum": "double", "price_avg": "double"},
    ),
    "join": (
        {"left_id": "varchar", "right_id": "varchar"},
        {"symbol": "varchar", "latency_ms": "double"},
        {},
    ),
    # A step that nobody reached has a row with 0 here, and none there.
    "funnel": ({"window_start": "timestamptz", "step": "bigint"}, {"users": "bigint"}, {}),
}


def main(question, table, result):
    keys, equal, rounded = QUESTIONS[question]
    columns = keys | equal | rounded
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    names = ", ".join(f"cast({name} as {kind}) as {name}" for name, kind in columns.items())
    sources = {"ours": source([f"{table}/**/*.parquet"], True, {}), "theirs": read(result, columns)}
    for side, rows in sources.items():
        reached = "where users > 0" if question == "funnel" else ""
        connection.execute(f"create table {side} as select {names}, true as here from {rows} {reached}")
    on = " and ".join(f"o.{key} is not distinct from t.{key}" for key in keys)
    differs = [f"o.{name} is distinct from t.{name}" for name in equal]
    differs += [
        f"(o.{name} is null) <> (t.{name} is null) or"
        f" abs(o.{name} - t.{name}) > 1e-9 * greatest(abs(o.{name}), abs(t.{name}))"
        for name in rounded
    ]
    wrong, ours, theirs = connection.execute(
        f"""select count(*), any_value(o), any_value(t) from ours o full join theirs t on {on}
        where o.here is null or t.here is null or {" or ".join(differs)}"""
    ).fetchone()
    counts = connection.execute(
        "select (select count(*) from ours), (select count(*) from theirs)"
    ).fetchone()
    if wrong or counts[0] != counts[1] or not counts[0]:
        raise SystemExit(
            f"{question}: {wrong} rows differ, waterwheel has {counts[0]}, the other {counts[1]}\n"
            f"waterwheel {ours}\n the other {theirs}"
        )
    print(f"{counts[0]:,} rows are equal")


def read(result, columns):
    """The rows of a result, whatever it is kept in."""
    path = Path(result)
    files = [str(file) for file in path.glob("part-*")] if path.is_dir() else [str(path)]
    with open(files[0], "rb") as file:
        parquet = file.read(4) == b"PAR1"
    return source(files, parquet, columns)


def source(files, parquet, columns):
    if parquet:
        return f"read_parquet({files}, hive_partitioning = false)"
    # As text, since every engine writes times in its own way.
    kinds = {name: "varchar" if kind == "timestamptz" else kind for name, kind in columns.items()}
    return f"read_json({files}, format = 'newline_delimited', columns = {kinds})"


main(*sys.argv[1:])
