"""Prints what a key-value bucket holds of the operator `totals`: read_bucket.py URL BUCKET

A line a key, by symbol: symbol, events, total. Fails if a key is not that of its value.
"""

import asyncio
import json
import sys

import nats


async def main(url, bucket):
    client = await nats.connect(url)
    store = await client.jetstream().key_value(bucket)
    rows = []
    for key in await store.keys():
        if not key.startswith("totals."):
            continue
        row = json.loads((await store.get(key)).value)
        if not key.endswith("." + row["symbol"].replace(" ", "=20")) or "op" in row:
            raise SystemExit(f"{key} holds {row}")
        rows.append((row["symbol"], row["events"], int(row["total"])))
    for row in sorted(rows):
        print(*row, sep="\t")
    await client.close()


asyncio.run(main(*sys.argv[1:]))
