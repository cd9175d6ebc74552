//! What expressions mean, form by form. What Postgres gives for the same words is compared with a
//! real server in the whole-system tests; here stand the rules of our own.

use chrono_tz::Tz;

use super::*;

/// `a` is an integer, `b` a text, `c` NULL, `d` a text that is a number, `e` true, `f` a double,
/// `j` a list, `t` a timestamp.
struct Names {
    zone: Tz,
}

const T: &str = "2026-03-29T00:59:58.123456Z";

impl Scope for Names {
    fn resolve(&mut self, path: &[String]) -> Result<Binding, ExprError> {
        let name = path.join(".");
        match "abcdefjt".find(&name) {
            Some(slot @ 7) => Ok(Binding { slot, kind: Kind::Timestamp }),
            Some(slot) => Ok(Binding { slot, kind: Kind::Any }),
            None => Err(ExprError::new(&name, format!("no field `{name}`"))),
        }
    }

    fn timezone(&self) -> Tz {
        self.zone
    }
}

struct Values;

impl Fields for Values {
    fn get(&self, slot: usize) -> Val<'_> {
        match slot {
            0 => Val::Integer(-7),
            1 => Val::text("Über_50%"),
            3 => Val::text("2.5"),
            4 => Val::Boolean(true),
            5 => Val::Float(2.345),
            6 => Val::Json("[1]"),
            7 => crate::timestamp::parse(T).map_or(Val::Null, Val::Timestamp),
            _ => Val::Null,
        }
    }
}

fn eval(text: &str, zone: Tz) -> Option<String> {
    let typed = parse(text)
        .and_then(|ast| compile(&ast, &mut Names { zone }))
        .unwrap_or_else(|error| panic!("{text}: {error:?}"));
    typed.program.eval(&Values).canonical_text().map(std::borrow::Cow::into_owned)
}

#[test]
fn every_form_means_what_is_written() {
    const NULL: Option<&str> = None;
    let yes = Some("true");
    let no = Some("false");
    #[rustfmt::skip]
    let table: &[(&str, Option<&str>)] = &[
        // Literals.
        ("'it''s'", Some("it's")), ("1.50", Some("1.5")), ("1.5e3", Some("1500")), ("TRUE", yes), ("NULL", NULL),
        ("18446744073709551615", Some("18446744073709551615")), (".5", Some("0.5")), ("-a", Some("7")), ("+a", Some("-7")),
        // Comparison: numbers with text that is one, nothing else with anything else.
        ("a = -7", yes), ("a = '-7.0'", yes), ("d > 2.25", yes), ("d = '2.50'", no), ("a <> 7", yes), ("a != 7", yes),
        ("b > 1", NULL), ("e = 1", NULL), ("e = 'true'", NULL), ("t = '2026-03-29'", NULL), ("j = '[1]'", NULL), ("c = c", NULL),
        ("e > false", yes), ("'Z' < 'a'", yes), ("t < ts('2026-03-29 01:00')", NULL), ("t < ts('2026-03-29 01:00:00')", yes),
        // Logic of three values.
        ("c AND true", NULL), ("c AND false", no), ("c OR true", yes), ("c OR false", NULL), ("NOT c", NULL), ("NOT e", no),
        ("c IS NULL", yes), ("a IS NOT NULL", yes), ("c IS TRUE", no), ("c IS NOT TRUE", yes), ("e IS NOT FALSE", yes), ("c IS FALSE", no),
        // Sets and ranges.
        ("a IN (1, -7)", yes), ("a IN (1, 2)", no), ("a IN (1, NULL)", NULL), ("a NOT IN (1, NULL)", NULL), ("a NOT IN (1, 2)", yes),
        ("c IN (1)", NULL), ("d IN ('2.5', 'x')", yes), ("a IN ('x', -7)", yes), ("a IN ('x', 7)", NULL),
        ("a BETWEEN -7 AND 0", yes), ("a BETWEEN 0 AND -7", no), ("a NOT BETWEEN 0 AND 1", yes), ("a BETWEEN -8 AND c", NULL), ("a BETWEEN 0 AND c", no),
        // Patterns.
        ("b LIKE 'Ü%'", yes), ("b LIKE 'ü%'", no), ("b ILIKE 'ü%'", yes), ("b LIKE '%\\_50\\%'", yes), ("b LIKE '%!_50!%' ESCAPE '!'", yes),
        ("b LIKE 'Über__0%'", yes), ("b LIKE '%\\%' ESCAPE ''", no), ("b NOT LIKE '%5%'", no), ("b LIKE c", NULL), ("a LIKE '-7'", NULL), ("b LIKE b", yes),
        // Arithmetic: `/` in floating point, the rest exact in 64 bits.
        ("a / 2", Some("-3.5")), ("a % 2", Some("-1")), ("a % -2", Some("-1")), ("a % 0", NULL), ("a / 0", NULL), ("0 / 0.0", NULL), ("a + d", Some("-4.5")),
        ("d * 2", Some("5")), ("a - c", NULL), ("b + 1", NULL), ("e + 1", NULL), ("5.5 % 2", Some("1.5")),
        ("9223372036854775807 + 1", Some("9223372036854775808")), ("18446744073709551615 + 1", Some("18446744073709552000")),
        ("1e308 * 10", NULL), ("2 + 3 * 4", Some("14")), ("(2 + 3) * 4", Some("20")), ("7 - 2 - 1", Some("4")),
        // Choice.
        ("CASE WHEN a > 0 THEN 'gain' WHEN a < 0 THEN 'loss' ELSE 'none' END", Some("loss")), ("CASE WHEN c THEN 1 END", NULL),
        ("CASE a WHEN -7 THEN 'x' ELSE 'y' END", Some("x")), ("CASE c WHEN NULL THEN 'x' ELSE 'y' END", Some("y")), ("CASE d WHEN 2.5 THEN 1 ELSE 0 END", Some("1")),
        ("COALESCE(c, NULL, a)", Some("-7")), ("COALESCE(c)", NULL), ("NULLIF(a, -7)", NULL), ("NULLIF(a, 7)", Some("-7")),
        // Functions.
        ("lower(b)", Some("über_50%")), ("upper('straße')", Some("STRASSE")), ("lower(a)", NULL), ("lower(c)", NULL),
        ("abs(a)", Some("7")), ("abs(-2.5)", Some("2.5")), ("abs(d)", Some("2.5")), ("abs(b)", NULL), ("abs(e)", NULL),
        ("round(f, 2)", Some("2.35")), ("round(f)", Some("2")), ("round(-2.5)", Some("-3")), ("round(a, -1)", Some("-10")), ("round(d)", Some("3")), ("round(f, c)", NULL),
        ("floor(-2.5)", Some("-3")), ("ceil(-2.5)", Some("-2")), ("ceiling(2.1)", Some("3")), ("floor(a)", Some("-7")), ("floor(b)", NULL),
        // Casts.
        ("cast(d as double)", Some("2.5")), ("cast(b as double)", NULL), ("cast(e as double)", Some("1")), ("cast(d as double precision)", Some("2.5")),
        ("cast(2.5 as bigint)", Some("2")), ("cast(3.5 as bigint)", Some("4")), ("cast(-2.5 as bigint)", Some("-2")), ("cast(1e19 as bigint)", NULL),
        ("cast(18446744073709551615 as bigint)", NULL), ("cast('12' as bigint)", Some("12")), ("cast(' 12' as bigint)", NULL), ("a::text", Some("-7")),
        ("cast(1.0 as text)", Some("1")), ("cast(e as text)", yes), ("cast(t as text)", Some(T)), ("cast(j as text)", Some("[1]")), ("cast(c as text)", NULL),
        ("cast('TRUE' as boolean)", yes), ("cast(0 as boolean)", no), ("cast('yes' as boolean)", NULL), ("cast(1.0 as boolean)", NULL),
        ("cast('2026-01-01 00:00:00' as timestamp)", Some("2026-01-01T00:00:00Z")), ("cast(1 as timestamp)", Some("1970-01-01T00:00:01Z")), ("cast(b as timestamp)", NULL),
        // Time.
        ("ts('1970-01-01T00:00:01+01:00')", Some("1969-12-31T23:00:01Z")), ("ts(1700000000)", Some("2023-11-14T22:13:20Z")), ("ts(1700000000123)", Some("2023-11-14T22:13:20.123Z")),
        ("ts(1700000000123456)", Some("2023-11-14T22:13:20.123456Z")), ("ts(1700000000123456789)", Some("2023-11-14T22:13:20.123456Z")), ("ts('now')", NULL), ("ts(1.5)", NULL), ("ts(t)", Some(T)),
        ("millis(t - ts('2026-03-29 00:59:57.123456'))", Some("1000")), ("millis(ts('2026-03-29 00:59:58') - t)", Some("-123.456")), ("millis(c)", NULL), ("t + (t - ts('2026-03-29 00:59:57.123456'))", Some("2026-03-29T00:59:59.123456Z")), ("t - (t - ts('2026-03-29 00:00:00'))", Some("2026-03-29T00:00:00Z")), ("-(t - t) = t - t", yes),
        ("extract(epoch from t - ts('2026-03-29 00:00:00'))", Some("3598.123456")), ("extract(hour from b)", NULL), ("date_trunc('day', c)", NULL), ("date_trunc('DAYS', t)", Some("2026-03-29T00:00:00Z")),
    ];
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(text, expected)| {
            let found = eval(text, Tz::UTC);
            let differs = found.as_deref() != *expected;
            differs.then(|| format!("{text}: expected {expected:?}, found {found:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table.len(), wrong.join("\n"));
}

/// Two minutes before a clock in Berlin is set forward; what Postgres gives for `at time zone`.
#[test]
fn parts_of_dates_go_by_the_timezone() {
    #[rustfmt::skip]
    let table = [
        ("extract(year from t)", "2026", "2026"), ("extract(quarter from t)", "1", "1"), ("extract(month from t)", "3", "3"),
        ("extract(week from t)", "13", "13"), ("extract(day from t)", "29", "28"), ("extract(dow from t)", "0", "6"),
        ("extract(isodow from t)", "7", "6"), ("extract(doy from t)", "88", "87"), ("extract(hour from t)", "1", "20"),
        ("extract(minute from t)", "59", "59"), ("extract(second from t)", "58.123456", "58.123456"),
        ("extract(millisecond from t)", "58123.456", "58123.456"), ("extract(microseconds from t)", "58123456", "58123456"),
        ("extract(epoch from t)", "1774745998.123456", "1774745998.123456"), ("extract(isoyear from t)", "2026", "2026"),
        ("extract(decade from t)", "202", "202"), ("extract(century from t)", "21", "21"), ("extract(millennium from t)", "3", "3"),
        ("extract(timezone from t)", "3600", "-14400"), ("extract(timezone_hour from t)", "1", "-4"), ("extract(timezone_minute from t)", "0", "0"),
        ("date_trunc('microsecond', t)", T, T), ("date_trunc('milliseconds', t)", "2026-03-29T00:59:58.123Z", "2026-03-29T00:59:58.123Z"),
        ("date_trunc('second', t)", "2026-03-29T00:59:58Z", "2026-03-29T00:59:58Z"), ("date_trunc('minute', t)", "2026-03-29T00:59:00Z", "2026-03-29T00:59:00Z"),
        ("date_trunc('hour', t)", "2026-03-29T00:00:00Z", "2026-03-29T00:00:00Z"), ("date_trunc('day', t)", "2026-03-28T23:00:00Z", "2026-03-28T04:00:00Z"),
        ("date_trunc('week', t)", "2026-03-22T23:00:00Z", "2026-03-23T04:00:00Z"), ("date_trunc('month', t)", "2026-02-28T23:00:00Z", "2026-03-01T05:00:00Z"),
        ("date_trunc('quarter', t)", "2025-12-31T23:00:00Z", "2026-01-01T05:00:00Z"), ("date_trunc('year', t)", "2025-12-31T23:00:00Z", "2026-01-01T05:00:00Z"),
        ("date_trunc('decade', t)", "2019-12-31T23:00:00Z", "2020-01-01T05:00:00Z"), ("date_trunc('century', t)", "2000-12-31T23:00:00Z", "2001-01-01T05:00:00Z"),
        ("date_trunc('millennium', t)", "2000-12-31T23:00:00Z", "2001-01-01T05:00:00Z"),
    ];
    for (text, berlin, new_york) in table {
        for (zone, expected) in [(Tz::Europe__Berlin, berlin), (Tz::America__New_York, new_york)] {
            assert_eq!(eval(text, zone).as_deref(), Some(expected), "{text} in {zone}");
        }
    }
}

#[test]
fn what_cannot_be_meant_is_told() {
    for (text, word, told) in [
        ("b LIKE 'x' ESCAPE 'ab'", "'ab'", "ESCAPE takes one character"),
        ("b LIKE 'x' ESCAPE b", "b", "ESCAPE takes one character"),
        ("extract(hour from t - t)", "HOUR", "of a time difference there is no `HOUR`"),
        ("extract(fortnight from t)", "fortnight", "extract knows no `fortnight`"),
        ("date_trunc('dow', t)", "dow", "`dow` is no unit of date_trunc"),
        ("date_trunc('minuet', t)", "minuet", "`minuet` is no unit of date_trunc"),
        ("date_trunc(b, t)", "date_trunc", "`date_trunc` takes a unit in quotes"),
        // Nobody knows that it is a timestamp: it is to be said.
        ("millis(t - c)", "millis", "`millis` takes a time difference, not a number"),
    ] {
        let error = parse(text)
            .and_then(|ast| compile(&ast, &mut Names { zone: Tz::UTC }))
            .err()
            .unwrap_or_else(|| panic!("{text} was compiled"));
        assert_eq!(error.word, word, "{text}: {error:?}");
        assert!(error.message.starts_with(told), "{text}: {error:?}");
    }
}
