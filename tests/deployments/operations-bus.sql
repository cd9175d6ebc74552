-- What passes, within an hour
SELECT channel, event_type, messages, requests FROM traffic WHERE granularity = '1h' ORDER BY 1, 2;
-- What fails, and why
SELECT channel, code, failures, requests FROM failures WHERE granularity = '1d' ORDER BY 1, 2;
-- Each request
SELECT channel, correlation_id, status, events, duration_ms, path FROM requests ORDER BY 1, 2;
-- How many are completed, and how soon
SELECT channel, requests, completed, timed_out, completion_rate, avg_ms, max_ms FROM completion WHERE granularity = '1h' ORDER BY 1;
