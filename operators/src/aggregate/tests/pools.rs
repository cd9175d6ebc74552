//! What the generated aggregates are made of: SQL beside the same thing by hand; and the events.

use chrono::{DateTime, TimeZone, Timelike};
use chrono_tz::Tz;
use waterwheel_config::value::ColumnType;

use crate::testing::{
    By, Cell, Holds, Item, Kind, Measure, Message, Model, Random, Timeline, naive,
};

pub(super) const ZONES: [Tz; 4] =
    [Tz::UTC, Tz::Europe__Berlin, Tz::America__New_York, Tz::Asia__Kolkata];

pub(super) const WINDOWS: [&[&str]; 18] = [
    &["1m"],
    &["1h", "1m"],
    &["1m", "15m", "1h", "1d", "1w", "1mo"],
    &["10m", "15m"],
    &["7s", "1m", "1d"],
    &["1d"],
    &["1w", "1mo"],
    &["1mo", "1w", "1d", "90m"],
    &["45s", "24h", "1d"],
    &["250ms", "1m"],
    &["7m", "2d", "1w"],
    &["1h/5m"],
    &["1m", "10m/1m", "1h/20m"],
    &["25s/10s", "7s"],
    &["7d/1d", "1d"],
    &["3mo/1mo", "1mo"],
    &["24h/6h", "2w/1w", "15m"],
    &["90m/1h", "1m/1m"],
];

pub(super) const LATENESS: [&str; 5] = ["0s", "1s", "30s", "10m", "1d"];

pub(super) const BY: [By; 13] = [
    By::text("symbol", "properties.symbol", |e, _| e.get("properties.symbol")),
    By::text("venue", "properties.venue", |e, _| e.get("properties.venue")),
    By::text("user_id", "user_id", |e, _| e.get("user_id")),
    By::text("event_type", "event_type", |e, _| e.get("event_type")),
    By::text("instrument", "payload.properties.symbol", |e, _| e.get("properties.symbol")),
    By::text("side", "lower(properties.venue)", |e, _| match e.get("properties.venue") {
        Cell::Text(text) => Cell::Text(text.to_lowercase()),
        _ => Cell::Null,
    }),
    By::text("is_dear", "properties.price > 100", |e, _| {
        e.get("properties.price").greater(100.0).map_or(Cell::Null, Cell::Boolean)
    }),
    By::text("hour", "extract(hour from timestamp)", |e, zone| match e.get("timestamp") {
        Cell::Time(micros) => {
            let time = DateTime::from_timestamp_micros(micros).expect("a time");
            Cell::Integer(zone.from_utc_datetime(&time.naive_utc()).hour().into())
        }
        _ => Cell::Null,
    }),
    By::text("bucket", "floor(properties.price / 10)", |e, _| {
        let tenth = e.get("properties.price").double().map(|price| (price / 10.0).floor());
        tenth.map_or(Cell::Null, Cell::float)
    }),
    By::text("size", "case when properties.quantity > 2 then 'big' else 'small' end", |e, _| {
        let is_big = e.get("properties.quantity").greater(2.0) == Some(true);
        Cell::text(if is_big { "big" } else { "small" })
    }),
    By::text("who", "coalesce(user_id, properties.venue, 'nobody')", |e, _| {
        let found = ["user_id", "properties.venue"].map(|name| e.get(name));
        found.into_iter().find(|cell| !cell.is_null()).unwrap_or(Cell::text("nobody"))
    }),
    By {
        alias: "lots",
        sql: "cast(properties.quantity as bigint)",
        kind: ColumnType::Bigint,
        get: |e, _| match (e.get("properties.quantity"), e.get("properties.quantity").number()) {
            (Cell::Boolean(flag), _) => Cell::Integer(flag.into()),
            (_, Some(Cell::Float(number))) => Cell::integer(number.round_ties_even() as i128),
            (_, Some(number)) => number,
            _ => Cell::Null,
        },
    },
    By {
        alias: "day",
        sql: "date_trunc('day', timestamp)",
        kind: ColumnType::Timestamp,
        get: |e, zone| match e.get("timestamp") {
            Cell::Time(micros) => Cell::Time(naive::window("1d", zone, micros).0),
            _ => Cell::Null,
        },
    },
];

type Condition = Option<(&'static str, Holds)>;

pub(super) const CONDITIONS: [Condition; 8] = [
    None,
    None,
    Some(("event_type = 'order.filled'", is_filled)),
    Some(("properties.quantity > 2", |e| e.get("properties.quantity").greater(2.0))),
    Some(("properties.flag", |e| e.get("properties.flag").truth())),
    Some(("properties.symbol IS NOT NULL", |e| Some(!e.get("properties.symbol").is_null()))),
    Some(("event_type LIKE 'order.%' AND NOT (properties.price > 100)", |e| {
        let is_order = match e.get("event_type") {
            Cell::Text(text) => Some(text.starts_with("order.")),
            _ => None,
        };
        let is_dear = e.get("properties.price").greater(100.0);
        // False decides; otherwise unknown remains, which does not pass either.
        Some(is_order == Some(true) && is_dear == Some(false))
    })),
    Some(("properties.venue IN ('X', 'y')", |e| {
        let venue = e.get("properties.venue");
        Some(venue.is_text("X") || venue.is_text("y"))
    })),
];

fn is_filled(item: &dyn Item) -> Option<bool> {
    Some(item.get("event_type").is_text("order.filled"))
}

fn is_dear(item: &dyn Item) -> Option<bool> {
    item.get("properties.price").greater(100.0)
}

fn price(item: &dyn Item, _: Tz) -> Cell {
    item.get("properties.price")
}

/// As `cast(... as double)` has it.
fn price_or_flag(item: &dyn Item, _: Tz) -> Cell {
    match item.get("properties.price") {
        Cell::Boolean(flag) => Cell::Integer(flag.into()),
        price => price,
    }
}

fn quantity(item: &dyn Item, _: Tz) -> Cell {
    item.get("properties.quantity")
}

fn notional(item: &dyn Item, _: Tz) -> Cell {
    item.get("properties.price").times(&item.get("properties.quantity"))
}

fn every(_: &dyn Item, _: Tz) -> Cell {
    Cell::Boolean(true)
}

pub(super) const MEASURES: [Measure; 36] = [
    Measure::new("trades", "count(*)", Kind::Count, every),
    Measure::new("priced", "count(properties.price)", Kind::Count, price),
    Measure::new("users", "count(distinct user_id)", Kind::Distinct, |e, _| e.get("user_id")),
    Measure::new("symbols", "count(distinct properties.symbol)", Kind::Distinct, |e, _| {
        e.get("properties.symbol")
    }),
    Measure::new("prices", "count(distinct properties.price)", Kind::Distinct, price),
    Measure::new("volume", "sum(properties.quantity)", Kind::Sum, quantity),
    Measure::new("total", "sum(properties.price)", Kind::Sum, price),
    Measure::new("notional", "sum(properties.price * properties.quantity)", Kind::Sum, notional),
    Measure::new("mean", "avg(properties.price)", Kind::Average, price),
    Measure::new("mean_lot", "avg(properties.quantity)", Kind::Average, quantity),
    Measure::new("low", "min(properties.price)", Kind::Least(ColumnType::Double), price),
    Measure::new("high", "max(properties.price)", Kind::Greatest(ColumnType::Double), price),
    Measure::new(
        "last_symbol",
        "max(cast(properties.symbol as text))",
        Kind::Greatest(ColumnType::Text),
        |e, _| e.get("properties.symbol"),
    ),
    Measure::new("first_at", "min(timestamp)", Kind::Least(ColumnType::Timestamp), |e, _| {
        e.get("timestamp")
    }),
    Measure::new("p95", "quantile(0.95, properties.price)", Kind::Quantile(950), price),
    Measure::new("p0", "quantile(0, properties.price)", Kind::Quantile(0), price),
    Measure::new("p100", "quantile(1, properties.quantity)", Kind::Quantile(1_000), quantity),
    Measure::new("middle", "median(properties.price)", Kind::Quantile(500), price),
    Measure::new(
        "p999",
        "quantile(0.999, properties.price * properties.quantity)",
        Kind::Quantile(999),
        notional,
    ),
    Measure::new("dear", "share(properties.price > 100)", Kind::Share, |e, _| {
        is_dear(e).map_or(Cell::Null, Cell::Boolean)
    }),
    Measure::new("flagged", "share(properties.flag)", Kind::Share, |e, _| e.get("properties.flag")),
    Measure::new(
        "fills",
        "count(*) FILTER (WHERE event_type = 'order.filled')",
        Kind::Count,
        every,
    )
    .filtered(is_filled),
    Measure::new(
        "dear_volume",
        "sum(properties.quantity) FILTER (WHERE properties.price > 100)",
        Kind::Sum,
        quantity,
    )
    .filtered(is_dear),
    Measure::new(
        "fill_venues",
        "count(distinct properties.venue) FILTER (WHERE event_type = 'order.filled')",
        Kind::Distinct,
        |e, _| e.get("properties.venue"),
    )
    .filtered(is_filled),
    Measure::new(
        "fill_p50",
        "quantile(0.5, properties.price) FILTER (WHERE event_type = 'order.filled')",
        Kind::Quantile(500),
        price,
    )
    .filtered(is_filled),
    Measure::new("opening", "first(properties.price)", Kind::First(ColumnType::Text), price),
    Measure::new("closing", "last(properties.price)", Kind::Last(ColumnType::Text), price),
    Measure::new("began", "first(timestamp)", Kind::First(ColumnType::Timestamp), |e, _| {
        e.get("timestamp")
    }),
    Measure::new("spread", "stddev(properties.price)", Kind::Deviation, price),
    Measure::new("lot_spread", "stddev(properties.quantity)", Kind::Deviation, quantity),
    Measure::new("about", "approx_count_distinct(properties.symbol)", Kind::Approximate, |e, _| {
        e.get("properties.symbol")
    }),
    Measure::new(
        "last_fill",
        "last(cast(properties.price as double)) FILTER (WHERE event_type = 'order.filled')",
        Kind::Last(ColumnType::Double),
        price_or_flag,
    )
    .filtered(is_filled),
    Measure::new(
        "fill_spread",
        "stddev(properties.price) FILTER (WHERE event_type = 'order.filled')",
        Kind::Deviation,
        price,
    )
    .filtered(is_filled),
    Measure::new(
        "about_fills",
        "approx_count_distinct(user_id) FILTER (WHERE event_type = 'order.filled')",
        Kind::Approximate,
        |e, _| e.get("user_id"),
    )
    .filtered(is_filled),
    // Breakdowns stand behind all measures.
    Measure::new("venue_breakdown", "properties.venue", Kind::Breakdown, |e, _| {
        e.get("properties.venue")
    }),
    Measure::new("symbol_breakdown", "properties.symbol", Kind::Breakdown, |e, _| {
        e.get("properties.symbol")
    }),
];

/// Some measures, of which at least one is no breakdown.
pub(super) fn measures(random: &mut Random, from: &[Measure], most: usize) -> Vec<Measure> {
    let mut measures = random.some(from, 1, most);
    if measures.iter().all(|measure| matches!(measure.kind, Kind::Breakdown)) {
        measures.insert(0, from[0]);
    }
    measures
}

/// A random aggregate over sources.
pub(super) fn model(random: &mut Random, from: Vec<&'static str>) -> Model {
    Model {
        from,
        time: "timestamp",
        zone: random.pick(&ZONES),
        windows: random.pick(&WINDOWS).to_vec(),
        condition: random.pick(&CONDITIONS),
        by: random.some(&BY, 0, 2),
        measures: measures(random, &MEASURES, 7),
    }
}

/// Values that make groups: some are equal in different spellings.
const GROUPS: [&str; 22] = [
    "\"AAPL\"",
    "\"AAPL\"",
    "\"MSFT\"",
    "\"X\"",
    "\"x\"",
    "\"y\"",
    "null",
    "",
    "1",
    "1.0",
    "\"1\"",
    "\"1.0\"",
    "true",
    "\"true\"",
    "\"\"",
    "-0.0",
    "0",
    "1e2",
    "100",
    "{\"a\":1}",
    "\"\\u0000é\"",
    "18446744073709551615",
];

const NUMBERS: [&str; 12] =
    ["0", "-0.0", "1", "3", "2.5", "-7", "\"12.5\"", "\"abc\"", "true", "null", "", "\"1e2\""];

const EXTREMES: [&str; 10] = [
    "8e307",
    "-8e307",
    "1e-300",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e15",
    "0.0001",
    "1e-9",
];

/// How wild the events of a log are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flavour {
    pub(super) groups: usize,
    pub(super) is_extreme: bool,
    pub(super) has_bad_messages: bool,
}

impl Flavour {
    pub(super) fn random(random: &mut Random) -> Self {
        Self {
            groups: random.pick(&[2, 6, GROUPS.len()]),
            is_extreme: random.once_in(4),
            has_bad_messages: random.once_in(3),
        }
    }
}

/// A log of events of all sources.
pub(super) fn log(
    random: &mut Random,
    count: usize,
    timelines: &mut [Timeline],
    flavour: Flavour,
) -> Vec<Message> {
    let mut log: Vec<Message> = Vec::new();
    for sequence in 1..=count as u64 {
        let source = random.below(timelines.len());
        let time_us = timelines[source].next(random);
        let subject = random.pick(&["order.filled", "quote"]).to_string();
        let mut message = Message {
            source,
            sequence,
            subject,
            received_at_us: Some(time_us),
            payload: payload(random, time_us, flavour),
        };
        if flavour.has_bad_messages && random.once_in(10) {
            message.payload = bad_payload(random, &message.payload);
        }
        // The same event again, as a publisher that retries sends it.
        if random.once_in(15)
            && let Some(twin) = log.iter().rev().find(|twin| twin.source == source)
        {
            message.payload = twin.payload.clone();
        }
        log.push(message);
    }
    log
}

fn payload(random: &mut Random, time_us: i64, flavour: Flavour) -> String {
    let mut fields = vec![("timestamp", Timeline::spell(time_us, random))];
    if random.once_in(20) {
        // The broker's timestamp stands in.
        fields.pop();
    }
    let group = |random: &mut Random| random.pick(&GROUPS[..flavour.groups]).to_string();
    fields.push(("id", format!("\"e{}\"", random.below(1_000))));
    fields.push((
        "event_type",
        random
            .pick(&["\"order.filled\"", "\"order.new\"", "\"quote\"", "", "null", "7"])
            .to_string(),
    ));
    fields.push(("user_id", group(random)));
    let mut properties = vec![
        ("symbol", group(random)),
        ("venue", random.pick(&["\"X\"", "\"y\"", "\"Y\"", "1", "null"]).to_string()),
        ("price", number(random, flavour)),
        ("quantity", number(random, flavour)),
        ("flag", random.pick(&["true", "true", "false", "null", "\"yes\"", ""]).to_string()),
    ];
    if random.once_in(25) {
        // Of duplicate keys the last one counts.
        properties.push(("price", number(random, flavour)));
    }
    fields.push(("properties", object(&properties)));
    object(&fields)
}

/// An object of the fields that are there.
fn object(fields: &[(&str, String)]) -> String {
    let present = fields.iter().filter(|(_, value)| !value.is_empty());
    let fields: Vec<String> = present.map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn number(random: &mut Random, flavour: Flavour) -> String {
    match random.below(if flavour.is_extreme { 12 } else { 10 }) {
        0..=4 => format!("{}.{:02}", random.below(300), random.below(100)),
        5..=6 => format!("{}", random.below(9)),
        7 => format!("-{}.{}", random.below(100), random.below(10)),
        8..=9 => random.pick(&NUMBERS).to_string(),
        _ => random.pick(&EXTREMES).to_string(),
    }
}

fn bad_payload(random: &mut Random, payload: &str) -> String {
    // Of duplicate keys the last one counts.
    let with = |field: String| format!("{},{field}}}", &payload[..payload.len() - 1]);
    // As long as a key may be, or longer.
    let length = random.pick(&[1024, 1025]);
    match random.below(6) {
        0 => "not json".to_owned(),
        1 => format!("[{payload}]"),
        2 => payload.replacen('{', "{\"unread\":[1e999],", 1),
        3 => with("\"timestamp\":\"2026-02-30T00:00:00Z\"".to_owned()),
        4 => with(format!("\"user_id\":\"{}\"", "u".repeat(length))),
        _ => with(format!("\"properties\":{{\"symbol\":\"{}\",\"price\":1}}", "s".repeat(length))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_the_pools_are_read_right() {
        // The reader that the recompute uses is only exact for plain numbers.
        for text in GROUPS.iter().chain(&NUMBERS).chain(&EXTREMES) {
            if let Ok(number) = text.parse::<f64>() {
                let json: serde_json::Value = serde_json::from_str(text).unwrap();
                assert_eq!(json.as_f64().unwrap().to_bits(), number.to_bits(), "{text}");
            }
        }
    }
}
