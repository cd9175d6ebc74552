-- From the fill back to its signal
SELECT id, parent_id, root_id, depth, root_type, since_root_ms FROM 'lake/results/fills/**/*.parquet' ORDER BY id;
-- Latency of the components, by type of event
SELECT event_type, events, mean_us, round(median_us) AS median_us, round(p95_us) AS p95_us, max_us FROM 'lake/results/processing/**/*.parquet' WHERE granularity = '1m' ORDER BY event_type;
-- How long after its origin an event comes
SELECT event_type, events, mean_ms, max_ms FROM 'lake/results/reaction/**/*.parquet' WHERE granularity = '1m' ORDER BY event_type;
-- What is kept of the events, by date and type
SELECT date, event_type, count(*) AS events FROM read_parquet('lake/events/**/*.parquet', hive_partitioning = true) GROUP BY ALL ORDER BY ALL;
