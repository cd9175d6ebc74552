//! Expressions against a real Postgres: what has a meaning in SQL has the same meaning here.
//!
//! Where they differ on purpose (`/` is floating point, mixtures are NULL, years from 1 to 9999), the
//! unit tests of the language say what holds.

use std::fmt::Write;

use tempfile::TempDir;
use waterwheel_config::expr::{self, Binding, ExprError, Fields, Kind, Scope, Val};
use waterwheel_config::value::format_timestamp;

use crate::support::postgres::Postgres;

/// Numbers, texts and conditions that are spelled alike in both.
#[rustfmt::skip]
const SAME: &[&str] = &[
    "round(2.345, 2)", "round(1.005, 2)", "round(-2.675, 2)", "round(2.5)", "round(-2.5)", "round(0.5)", "round(1250, -2)", "round(-1249, -2)", "round(55.5, -2)", "round(12345.6789, 3)", "round(9.999, 2)",
    "floor(-2.5)", "ceil(-2.5)", "ceiling(2.1)", "abs(-7.25)", "-7 % 2", "7 % -2", "7.5 % 2", "2 + 3 * 4 - 1", "-(3 - 5)", "10 - 2 - 3", "9007199254740993 + 0", "9223372036854775807 - 1",
    "'order.filled' LIKE 'order.%'", "'order.filled' LIKE 'order_filled'", "'100%' LIKE '100\\%'", "'1000' LIKE '100\\%'", "'a!b' LIKE 'a!!b' ESCAPE '!'", "'50%' LIKE '50!%' ESCAPE '!'", "'x\\y' LIKE 'x\\y' ESCAPE ''",
    "'héé' LIKE 'h__'", "'' LIKE '%'", "'abcabd' LIKE '%ab_'", "'ABC' ILIKE 'a%'", "'ABC' LIKE 'a%'", "'abc' NOT LIKE '%b%'", "NULL LIKE 'a'", "'a' LIKE NULL", "'%' LIKE '\\%'", "'aXbXc' LIKE 'a%X%c'",
    "3 BETWEEN 1 AND 3", "3 BETWEEN 3 AND 1", "3 NOT BETWEEN 4 AND 5", "3 BETWEEN NULL AND 2", "3 BETWEEN NULL AND 4", "3 IN (1, 2, 3)", "3 IN (1, NULL)", "3 NOT IN (1, NULL)", "3 NOT IN (1, 2)", "NULL IN (1)", "'a' IN ('a', NULL)",
    "NULL AND false", "NULL AND true", "NULL OR true", "NULL OR false", "NOT NULL", "NULL IS NULL", "1 IS NOT NULL", "NULL IS TRUE", "NULL IS NOT TRUE", "false IS FALSE", "NULL IS NOT FALSE", "(1 = 1) = (2 > 1)", "1 = NULL", "NULL <> NULL",
    "CASE WHEN 1 > 2 THEN 'a' WHEN 2 > 1 THEN 'b' ELSE 'c' END", "CASE 5 WHEN 4 THEN 'a' WHEN 5 THEN 'b' END", "CASE 5 WHEN 4 THEN 'a' END", "CASE NULL WHEN NULL THEN 'a' ELSE 'b' END", "CASE WHEN NULL THEN 'a' ELSE 'b' END",
    "COALESCE(NULL, NULL, 'x')", "COALESCE(NULL, 2, 3)", "NULLIF(1, 1)", "NULLIF(1, 2)", "lower('AbC')", "upper('abc')", "'a' < 'b'", "'it''s'",
    "cast(2.5::double precision as bigint)", "cast(3.5::double precision as bigint)", "cast(-2.5::double precision as bigint)", "cast('12' as bigint)", "cast('2.50' as double precision)", "cast(12 as text)", "cast(true as text)", "cast('true' as boolean)", "cast(0 as boolean)", "cast(NULL as text)", "'7'::bigint + 1",
];

const PARTS: [&str; 20] = [
    "microseconds",
    "milliseconds",
    "second",
    "minute",
    "hour",
    "day",
    "week",
    "month",
    "quarter",
    "year",
    "decade",
    "century",
    "millennium",
    "isoyear",
    "dow",
    "isodow",
    "doy",
    "epoch",
    "timezone",
    "timezone_hour",
];

/// Those of them that can be truncated to.
const UNITS: &[&str] = PARTS.split_at(13).0;

/// With daylight saving in both hemispheres, at midnight, by half an hour; and with odd offsets.
const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Asia/Kathmandu",
];

struct Only {
    zone: chrono_tz::Tz,
    micros: i64,
}

impl Scope for Only {
    fn resolve(&mut self, _: &[String]) -> Result<Binding, ExprError> {
        Ok(Binding { slot: 0, kind: Kind::Timestamp })
    }

    fn timezone(&self) -> chrono_tz::Tz {
        self.zone
    }
}

impl Fields for Only {
    fn get(&self, _: usize) -> Val<'_> {
        Val::Timestamp(self.micros)
    }
}

fn ours(text: &str, only: &mut Only) -> String {
    let typed = expr::parse(text)
        .and_then(|ast| expr::compile(&ast, only))
        .unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let value = typed.program.eval(only);
    value.canonical_text().map_or_else(|| "NULL".to_owned(), |text| text.into_owned())
}

/// Equal as texts, or as numbers however they are spelled.
fn agree(ours: &str, theirs: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    match (number(ours), number(theirs)) {
        (Some(one), Some(other)) => one == other,
        _ => ours == theirs,
    }
}

/// Around every change of the clock in three years, and far away from them.
fn moments() -> Vec<i64> {
    const HOUR_US: i64 = 3_600_000_000;
    // 2023-03-01, 2024-10-01 and the like, then steps that meet every hour of the clock.
    let mut moments: Vec<i64> = (0..700)
        .map(|step| 1_677_628_800_000_000 + step * 37 * HOUR_US + step * 61_234_567)
        .collect();
    // The nights on which these zones change: found by halves of an hour.
    for start in [
        "2023-03-26",
        "2023-10-29",
        "2023-03-12",
        "2023-11-05",
        "2023-04-01",
        "2023-09-30",
        "2018-11-03",
        "2018-02-17",
    ] {
        let midnight = waterwheel_config::timestamp::parse(&format!("{start}T00:00:00Z")).unwrap();
        moments.extend((0..60).map(|step| midnight + step * HOUR_US / 2 + 7_654_321));
    }
    moments.extend([-1, 0, 951_782_400_000_000, 2_051_222_399_999_999, 1_735_603_200_123_456]);
    moments
}

#[test]
fn expressions_mean_what_postgres_says() {
    let directory = TempDir::new().unwrap();
    let postgres = Postgres::start(&directory.path().join("data")).unwrap();

    let mut sql = String::new();
    for text in SAME {
        writeln!(sql, "select coalesce(({text})::text, 'NULL');").unwrap();
    }
    let answers = postgres.query(&sql).unwrap();
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), SAME.len(), "{answers:?}");
    let mut only = Only { zone: chrono_tz::Tz::UTC, micros: 0 };
    let wrong: Vec<String> = SAME
        .iter()
        .zip(&answers)
        .filter_map(|(text, theirs)| {
            let ours = ours(text, &mut only);
            (!agree(&ours, theirs)).then(|| format!("{text}: {ours}, Postgres {theirs}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} expressions", SAME.len());
}

#[test]
fn dates_mean_what_postgres_says() {
    let directory = TempDir::new().unwrap();
    let postgres = Postgres::start(&directory.path().join("data")).unwrap();
    let moments = moments();
    let times: Vec<String> =
        moments.iter().map(|micros| format!("'{}'", format_timestamp(*micros))).collect();
    let mut wrong = Vec::new();
    let mut compared = 0;
    for zone in ZONES {
        let truncated = UNITS.iter().map(|unit| {
            format!("(extract(epoch from date_trunc('{unit}', t)) * 1000000)::bigint::text")
        });
        let extracted = PARTS.map(|part| format!("extract({part} from t)::text"));
        let columns: Vec<String> = truncated.into_iter().chain(extracted).collect();
        let sql = format!(
            "set timezone = '{zone}'; select concat_ws('|', {}) from unnest(array[{}]::timestamptz[]) with ordinality as moments(t, n) order by n;",
            columns.join(", "),
            times.join(", "),
        );
        let answers = postgres.query(&sql).unwrap();
        let rows: Vec<&str> = answers.lines().filter(|line| line.contains('|')).collect();
        assert_eq!(rows.len(), moments.len(), "{zone}");
        for (micros, row) in moments.iter().zip(rows) {
            let mut only = Only { zone: zone.parse().unwrap(), micros: *micros };
            let truncations = UNITS.iter().map(|unit| format!("date_trunc('{unit}', t)"));
            let parts = PARTS.iter().map(|part| format!("extract({part} from t)"));
            for (text, theirs) in truncations.chain(parts).zip(row.split('|')) {
                let found = ours(&text, &mut only);
                let found = match waterwheel_config::timestamp::parse(&found) {
                    Some(micros) => micros.to_string(),
                    None => found,
                };
                compared += 1;
                if !agree(&found, theirs) {
                    let at = format_timestamp(*micros);
                    wrong.push(format!("{text} of {at} in {zone}: {found}, Postgres {theirs}"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {compared}:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    println!("{compared} dates");
}
