//! Periods end in SQL when they end in the calendar.

use waterwheel_config::calendar::Period;
use waterwheel_config::schema::{Column, Finality, Schema};
use waterwheel_config::timestamp;
use waterwheel_config::value::ColumnType;

use super::super::finality::moment;
use super::lines;
use crate::postgres::test_server::TestServer;

#[tokio::test]
async fn a_period_ends_in_sql_when_it_ends_in_the_calendar() {
    let server = TestServer::start().await;
    let mut compared = 0;
    // Clocks are set forward and back in March and October, and at midnight in November 2017.
    let starts = ["2026-03-28T12:00:00Z", "2026-10-20T12:00:00Z", "2017-10-10T12:00:00Z"];
    for zone in ["UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Kolkata"] {
        for length in ["1d", "1w", "1mo", "90m"] {
            let period = Period::parse(length, zone.parse().expect("a zone")).expect("a period");
            let (sql, plus_us) = moment(&schema(period)).expect("not at once");
            assert_eq!(plus_us, 7);
            let starts = starts.map(|start| timestamp::parse(start).expect("a time"));
            let rows = starts.iter().map(|start| (period.window(*start).start, 0..40));
            let rows = rows.flat_map(|(start, counts)| counts.map(move |count| (start, count)));
            let rows: Vec<(i64, u32)> = rows.collect();
            let values: Vec<String> = rows
                .iter()
                .map(|(start, count)| {
                    format!("('epoch'::timestamptz + {start} * interval '1 us', {count}::bigint)")
                })
                .collect();
            let query = format!(
                "SELECT (extract(epoch FROM {sql}) * 1000000)::bigint FROM (VALUES {}) AS t (cohort, period)",
                values.join(", ")
            );
            let found = lines(&server, &query).await;
            let expected: Vec<String> = rows
                .iter()
                .map(|(start, count)| period.after(*start, count + 1).to_string())
                .collect();
            assert_eq!(found, expected, "{length} in {zone}");
            compared += found.len();
        }
    }
    assert_eq!(compared, 5 * 4 * 3 * 40);
}

fn schema(period: Period) -> Schema {
    Schema {
        columns: vec![Column::time("cohort", 0), Column::new("period", ColumnType::Bigint)],
        key: vec![0, 1],
        finality: Finality::PeriodEnd { start: 0, count: 1, period, plus_us: 7 },
        append_only: false,
        time: Some(0),
    }
}
