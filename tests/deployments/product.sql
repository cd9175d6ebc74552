-- What is done, by month and platform
SELECT event_type, events, users, platform_breakdown, plan_breakdown FROM activity WHERE granularity = '1mo' ORDER BY 1;
-- Daily, weekly and monthly active users
SELECT granularity, window_start::date AS begins, users, events FROM active_users ORDER BY window_end - window_start, window_start;
-- From signing up to the first project
SELECT platform, step, step_name, users, conversion_rate, avg_seconds_from_first FROM activation ORDER BY platform, step;
-- Who comes back in the weeks after
SELECT cohort::date, period, cohort_size, users, rate FROM retention ORDER BY 1, 2;
-- Visits by day
SELECT window_start::date AS day, visits, visitors, avg_seconds, events_per_visit, bounce_rate FROM visit_stats ORDER BY 1;
