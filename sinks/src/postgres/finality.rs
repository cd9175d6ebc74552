//! When rows are final, in SQL.

use waterwheel_config::calendar::Period;
use waterwheel_config::schema::{Finality, Schema};

use super::tables::{literal, quote};

/// The moment at which a row is final once the watermark has come the given microseconds further;
/// `None` where every row is.
pub(super) fn moment(schema: &Schema) -> Option<(String, i64)> {
    let name = |column: usize| quote(&schema.columns[column].name);
    match schema.finality {
        // Of what is silent no column says since when: the caller knows.
        Finality::Immediate | Finality::Silent { .. } => None,
        Finality::At { column, plus_us } => Some((name(column), plus_us)),
        Finality::PeriodEnd { start, count, period, plus_us } => {
            Some((period_end(&name(start), &name(count), period), plus_us))
        }
    }
}

/// The end of the period that comes `count` periods after the one that begins at `start`.
fn period_end(start: &str, count: &str, period: Period) -> String {
    let calendar = |zone: &str, length: &str| {
        let zone = literal(zone);
        // The first moment of a day is not always its midnight.
        format!(
            "(date_trunc('day', {start} AT TIME ZONE {zone})
                     + ({count} + 1) * interval '{length}') AT TIME ZONE {zone}"
        )
    };
    match period {
        Period::Fixed(length_us) => {
            format!("{start} + ({count} + 1) * interval '{length_us} microseconds'")
        }
        Period::Day(zone) => calendar(zone.name(), "1 day"),
        Period::Week(zone) => calendar(zone.name(), "7 days"),
        Period::Month(zone) => calendar(zone.name(), "1 month"),
    }
}
