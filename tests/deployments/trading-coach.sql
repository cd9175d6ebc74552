-- Results by day, each with the change against the one before
SELECT window_start::date AS day, user_id, trades, trades_change, pnl_usd, pnl_usd_change, round(100 * win_rate) AS win_pct, best_usd, worst_usd FROM results WHERE granularity = '1d' ORDER BY 2, 1;
-- By hour of the day, token and action, this month
SELECT user_id, hour, trades, pnl_usd, round(100 * win_rate) AS win_pct FROM by_hour ORDER BY 1, 2;
SELECT user_id, token, trades, pnl_usd, round(100 * win_rate) AS win_pct FROM by_token WHERE granularity = '1mo' ORDER BY 1, 2;
SELECT user_id, action, trades, pnl_usd, round(100 * win_rate) AS win_pct FROM by_action WHERE granularity = '1mo' ORDER BY 1, 2;
-- How far the month has come towards a goal of 1,000 dollars
SELECT user_id, month::date, pnl_usd, progress_pct, reached FROM goal ORDER BY 1;
