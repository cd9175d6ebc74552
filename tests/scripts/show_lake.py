"""Runs the statements of a file with DuckDB and prints their tables: show_lake.py FILE

A comment before a statement is its title.
"""

import sys

import duckdb

for line in open(sys.argv[1]).read().splitlines():
    if line.startswith("--"):
        print(line)
        continue
    relation = duckdb.sql(line)
    rows = [[str(value) for value in row] for row in relation.fetchall()]
    table = [relation.columns, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [" " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in table]
    lines.insert(1, "-" + "-+-".join("-" * width for width in widths) + "-")
    print("\n".join(line.rstrip() for line in lines), end="\n\n")
