-- Counts and latencies by event type, in one minute
SELECT event_type, events, users, round(p50_ms::numeric) AS p50, round(p95_ms::numeric) AS p95, round(p99_ms::numeric) AS p99 FROM stats WHERE granularity = '1m' AND window_start = '2026-11-21 10:00Z' ORDER BY 1;
-- Active users, from the minute to the day
SELECT granularity, window_start AT TIME ZONE 'UTC' AS begins, users, events FROM active_users ORDER BY window_end - window_start, window_start;
