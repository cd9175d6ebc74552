import duckdb

duckdb.sql("""
    select payload->>'$.properties.symbol' as symbol, count(*) as trades,
           round(sum((payload->>'$.properties.price')::double * (payload->>'$.properties.quantity')::double)) as notional,
           count(distinct user_id) as traders
    from 'lake/events/**/*.parquet'
    where event_type = 'order.filled' and timestamp < '2026-11-20 10:00:00Z'
    group by symbol order by symbol
""").show()
