"""Counts the rows of a table in Parquet, and how many values there are of a column.

count_rows.py DIRECTORY COLUMN
"""

import sys

import duckdb

directory, column = sys.argv[1:]
files = duckdb.read_parquet(f"{directory}/**/*.parquet", hive_partitioning=False)
print(*duckdb.sql(f"select count(*), count(distinct {column}) from files").fetchall()[0])
