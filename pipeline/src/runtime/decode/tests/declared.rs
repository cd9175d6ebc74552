//! What a source declares: types of paths, schemas of event types.

use waterwheel_config::expr::{Fields, Val};

use super::*;

/// The values of a path under each type that it may have.
fn typed(json: &str) -> Vec<String> {
    use ColumnType::{Bigint, Boolean, Double, Text, Timestamp};
    let show = |kind: ColumnType| {
        let path = vec!["x".to_owned()];
        let mut projection = Projection::default();
        projection.types.insert(path.clone(), kind);
        let slot = projection.slot(&Field::Path(path));
        let plan = DecodePlan::new(settings(), projection);
        let payload = format!("{{\"x\":{json}}}");
        let decoded = plan.decode(batch(&[payload.as_bytes()]));
        let view = decoded.batch.view(0);
        // What an expression sees is what a column of the type holds.
        let value = view.get(slot).to_value(kind);
        let fits = match (view.get(slot), kind) {
            (Val::Null, _) => value.is_null(),
            (Val::Text(_), Text) | (Val::Integer(_), Bigint) | (Val::Float(_), Double) => true,
            (Val::Boolean(_), Boolean) | (Val::Timestamp(_), Timestamp) => true,
            _ => false,
        };
        assert!(fits, "{json} as {kind}: {:?}", view.get(slot));
        if value.is_null() { "-".to_owned() } else { value.to_plain() }
    };
    [Text, Bigint, Double, Boolean, Timestamp].map(show).into()
}

#[test]
fn what_does_not_fit_the_type_of_a_path_is_null() {
    const TIME: &str = "1970-01-01T00:00:01Z";
    #[rustfmt::skip]
    let table: &[(&str, [&str; 5])] = &[
        ("1", ["1", "1", "1", "-", TIME]),
        ("1.0", ["1", "1", "1", "-", "-"]),
        ("1.5", ["1.5", "-", "1.5", "-", "-"]),
        ("\"1.50\"", ["1.50", "-", "1.5", "-", "-"]),
        ("\"12\"", ["12", "12", "12", "-", "-"]),
        ("\"\\u0031\"", ["1", "1", "1", "-", "-"]),
        ("18446744073709551615", ["18446744073709551615", "-", "18446744073709552000", "-", "2554-07-21T23:34:33.709551Z"]),
        ("-9223372036854775808", ["-9223372036854775808", "-9223372036854775808", "-9223372036854776000", "-", "1677-09-21T00:12:43.145224Z"]),
        ("true", ["true", "-", "-", "true", "-"]),
        ("\"true\"", ["true", "-", "-", "-", "-"]),
        ("\"1970-01-01 00:00:01\"", ["1970-01-01 00:00:01", "-", "-", "-", TIME]),
        ("\"x\"", ["x", "-", "-", "-", "-"]),
        ("null", ["-", "-", "-", "-", "-"]),
        ("[1]", ["[1]", "-", "-", "-", "-"]),
        ("{\"a\":\"\\u0000\"}", ["{\"a\":\"\\ufffd\"}", "-", "-", "-", "-"]),
        ("\"\\u0000\"", ["\u{fffd}", "-", "-", "-", "-"]),
    ];
    for (json, expected) in table {
        assert_eq!(typed(json), *expected, "{json}");
    }
}

const SIGNAL: &str = r##"{
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["properties"],
    "properties": {"properties": {"$ref": "#/$defs/signal"}},
    "$defs": {"signal": {
        "type": "object",
        "required": ["symbol", "strength"],
        "properties": {
            "symbol": {"type": "string", "pattern": "^[A-Z]+-[A-Z]+$"},
            "strength": {"type": "number", "minimum": 0, "maximum": 1}
        }
    }}
}"##;

fn with_schema(event_type: &str, schema: &str) -> DecodePlan {
    let mut schemas = Schemas::default();
    schemas.add(event_type, schema).unwrap();
    let settings = EventSettings { schemas: Arc::new(schemas), ..settings() };
    DecodePlan::new(settings, Projection::default())
}

#[test]
fn violations_are_dead_letters_that_name_the_place() {
    let plan = with_schema("signal", SIGNAL);
    let event = |properties: &str| {
        format!(r#"{{"event_type":"signal","timestamp":1000,"properties":{properties}}}"#)
    };
    let good = r#"{"symbol":"BTC-USD","strength":0.5,"more":[]}"#;
    for (payload, place) in [
        (event(good), None),
        // Of duplicate keys the last counts, here as everywhere.
        (event(r#"{"symbol":5,"symbol":"BTC-USD","strength":0.5}"#), None),
        // U+0000, half a pair and very long numbers are read as they are everywhere.
        (event(r#"{"symbol":"BTC-USD","strength":1e-99999,"x":"\u0000\ud800"}"#), None),
        (event(r#"{"symbol":"btc","strength":0.5}"#), Some("/properties/symbol: ")),
        (event(r#"{"symbol":"BTC-USD","strength":2}"#), Some("/properties/strength: ")),
        (event(r#"{"symbol":"BTC-USD"}"#), Some("/properties: ")),
        (event("7"), Some("/properties: ")),
        (r#"{"event_type":"signal"}"#.to_owned(), Some("the payload: ")),
        // Another type has no schema.
        (r#"{"event_type":"other","properties":7}"#.to_owned(), None),
        (r#"{"properties":7}"#.to_owned(), None),
    ] {
        let decoded = plan.decode(batch(&[payload.as_bytes()]));
        let details: Vec<String> = decoded
            .dead
            .iter()
            .map(|row| format!("{} {}", row.values()[5].to_plain(), row.values()[6].to_plain()))
            .collect();
        match place {
            None => assert_eq!(details, [""; 0], "{payload}"),
            Some(place) => {
                assert_eq!(details.len(), 1, "{payload}");
                assert!(details[0].starts_with(&format!("schema {place}")), "{details:?}");
            }
        }
    }
}

#[test]
fn a_violation_keeps_the_time_of_the_event_and_a_short_detail() {
    let plan = with_schema("signal", r#"{"properties": {"note": {"maxLength": 3}}}"#);
    let payload =
        format!(r#"{{"event_type":"signal","timestamp":1000,"note":"{}"}}"#, "é".repeat(2_000));
    let decoded = plan.decode(batch(&[payload.as_bytes()]));
    let row = decoded.dead[0].values();
    assert_eq!(row[4].to_plain(), "1970-01-01T00:16:40Z");
    assert!(row[6].to_plain().chars().count() < 320, "{}", row[6].to_plain());
}

#[test]
fn of_several_violations_one_is_told_and_always_the_same() {
    let plan = with_schema("signal", r#"{"additionalProperties": {"type": "string"}}"#);
    let payload = br#"{"event_type":"signal","z":1,"b":2,"a":3,"y":4}"#;
    for _ in 0..20 {
        let decoded = plan.decode(batch(&[payload]));
        assert!(decoded.dead[0].values()[6].to_plain().starts_with("/a: "));
    }
}

#[test]
fn a_schema_that_is_none_is_refused() {
    for (schema, told) in [
        ("{", "it is no JSON"),
        ("7", ""),
        (r#"{"type": "strin"}"#, "/type: "),
        (r#"{"minimum": "x"}"#, "/minimum: "),
        (r#"{"pattern": "("}"#, "/pattern: "),
        (r##"{"$ref": "#/$defs/nowhere"}"##, ""),
        (r#"{"$ref": "https://example.com/signal.json"}"#, ""),
        (r#"{"$ref": "other.json"}"#, ""),
        (r#"{"$ref": "file:///etc/passwd"}"#, ""),
        (r#"{"$schema": "https://example.com/meta"}"#, "`https://example.com/meta` is no draft"),
    ] {
        let problem = Schemas::default().add("t", schema).err();
        let problem = problem.unwrap_or_else(|| panic!("{schema} was taken"));
        println!("{schema}: {problem}");
        assert!(problem.starts_with(told), "{schema}: {problem}");
        let is_elsewhere = schema.contains("$ref") && !schema.contains("$defs");
        assert_eq!(problem.contains("nothing is fetched"), is_elsewhere, "{problem}");
    }
}

/// What a schema costs, and that an event of another type does not pay for it.
#[test]
fn what_a_schema_costs() {
    let payload = |event_type: &str| {
        format!(
            r#"{{"id":"01JD8Q3Z5V","event_type":"{event_type}","timestamp":"1970-01-01T00:16:40Z","user_id":"u1","session_id":"s1","correlation_id":"c1","properties":{{"symbol":"BTC-USD","strength":0.5,"side":"buy","price":64000.5,"quantity":0.25,"venue":"one","tags":["a","b"]}}}}"#
        )
    };
    let micros_per_event = |plan: &DecodePlan, event_type: &str| {
        let payload = payload(event_type);
        let slices = vec![payload.as_bytes(); 2_000];
        let raw = batch(&slices);
        let best = (0..5).map(|_| {
            let raw = raw.clone();
            let started = std::time::Instant::now();
            let decoded = plan.decode(raw);
            let took = started.elapsed();
            assert_eq!((decoded.dead.len(), decoded.batch.events.len()), (0, 2_000));
            took.as_secs_f64() * 1e6 / 2_000.0
        });
        best.fold(f64::INFINITY, f64::min)
    };
    let (with, without) =
        (with_schema("signal", SIGNAL), DecodePlan::new(settings(), Projection::default()));
    let checked = micros_per_event(&with, "signal");
    let others = micros_per_event(&with, "order.filled");
    let plain = micros_per_event(&without, "order.filled");
    println!(
        "decoding an event of 300 bytes: {plain:.2} us without schemas, {others:.2} us of another type, {checked:.2} us with a schema"
    );
    assert!(others < checked, "an event of another type pays for the schema");
}
