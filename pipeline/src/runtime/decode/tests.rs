//! Messages in, events and dead letters out.

use waterwheel_config::document::Document;
use waterwheel_config::expr::Val;
use waterwheel_config::value::Value;

use super::*;
use crate::contract::batch::BatchBuilder;
use crate::contract::event::Envelope;
use crate::contract::raw::{RawColumns, RawEvents};

mod cloudevents;
mod declared;

fn settings() -> EventSettings {
    EventSettings {
        name: "events".to_owned(),
        index: 0,
        mapping: EventMapping::default(),
        schemas: Arc::default(),
        bytes_max: 4096,
        future_max_us: 30_000_000,
        lateness_us: 10_000_000,
    }
}

/// The mapping of a source with these keys.
fn mapping(toml: &str) -> EventMapping {
    let document = Document::parse("t", toml, Box::new(|_| None));
    let root = document.root();
    let mapping = EventMapping::read(&root, EventFormat::read(&root));
    drop(root);
    assert!(document.findings.is_empty(), "{}", document.render_findings(false));
    mapping
}

/// The event time of a message, or the reason for which it is a dead letter.
fn event_time(plan: &DecodePlan, headers: &str, payload: &str) -> Result<String, String> {
    let mut builder = BatchBuilder::new("S".into(), 0);
    let received_us = 1_800_000_000_000_000;
    builder.push(
        1,
        1,
        Some(received_us),
        b"a.1700000000123.c",
        headers.as_bytes(),
        payload.as_bytes(),
    );
    let decoded = plan.decode(builder.finish(None));
    match decoded.batch.events.first() {
        Some(event) => Ok(waterwheel_config::value::format_timestamp(event.timestamp_us)),
        None => Err(reasons(&decoded.dead).join(" ")),
    }
}

fn batch(payloads: &[&[u8]]) -> RawBatch {
    let mut builder = BatchBuilder::new("S".into(), 0);
    for (index, payload) in payloads.iter().enumerate() {
        let sequence = index as u64 + 1;
        builder.push(sequence, sequence, Some(1_000_000_000), b"a.b.c", b"", payload);
    }
    builder.finish(None)
}

fn reasons(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.values()[5].to_plain()).collect()
}

#[test]
fn messages_become_raw_rows() {
    let mut projection = Projection::default();
    let columns = RawColumns::project(&mut projection);
    let plan = DecodePlan::new(settings(), projection);
    let mut builder = BatchBuilder::new("S".into(), 0);
    let payload = br#"{"user_id":42,"timestamp":1000,"x":"\u0000"}"#;
    builder.push(7, 7, Some(1_000_000_000), b"a.b.c", b"Nats-Msg-Id: m1\r\n", payload);
    builder.push(8, 8, Some(1_000_000_000), b"a.b.c", b"", br#"{"id":"i","event_type":"t"}"#);
    let decoded = plan.decode(builder.finish(None));
    let rows: Vec<Vec<String>> = RawEvents::new(decoded.batch, &columns)
        .rows()
        .map(|row| row.values().iter().map(Value::to_plain).collect())
        .collect();
    let received = "1970-01-01T00:16:40Z";
    assert_eq!(
        rows[0],
        [
            "m1",
            "a.b.c",
            received,
            "42",
            "",
            "",
            "",
            "",
            "a.b.c",
            "S",
            "7",
            received,
            "false",
            r#"{"user_id":42,"timestamp":1000,"x":"\ufffd"}"#
        ]
    );
    assert_eq!(rows[1][..3], ["i", "t", received]);
}

#[test]
fn a_trace_goes_on_behind_the_columns() {
    use crate::contract::event::{dead_letter_schema, raw_schema, traceparent};
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut projection = Projection::default();
    let columns = RawColumns::project(&mut projection);
    let plan = DecodePlan::new(settings(), projection);
    let mut builder = BatchBuilder::new("S".into(), 0);
    let header = format!("a:b\r\nTraceparent: {trace}\r\n");
    builder.push(1, 1, Some(0), b"s", header.as_bytes(), b"{}");
    builder.push(2, 2, Some(0), b"s", header.as_bytes(), b"[]");
    builder.push(3, 3, Some(0), b"s", b"traceparent:a\nb\r\n", b"{}");
    let decoded = plan.decode(builder.finish(None));
    let events = RawEvents::new(decoded.batch, &columns);
    let row = |index| events.row(index);
    assert_eq!(traceparent(&row(0), &raw_schema()), Some(trace));
    assert_eq!(traceparent(&decoded.dead[0], &dead_letter_schema()), Some(trace));
    assert_eq!(traceparent(&row(1), &raw_schema()), None);
}

#[test]
fn bad_messages_become_dead_letters() {
    let plan = DecodePlan::new(settings(), Projection::default());
    let large = [b"{\"a\":\"".to_vec(), vec![b'x'; 5000], b"\"}".to_vec()].concat();
    let deep = vec![b'['; 100_000];
    let cases: [(&[u8], &str); 13] = [
        (b"", "not_json"),
        (b"hello", "not_json"),
        (b"[1,2]", "not_object"),
        (b"{\"a\":\"\xff\"}", "not_utf8"),
        (&large, "too_large"),
        (&deep[..4000], "too_deep"),
        (br#"{"a":1e999}"#, "number_range"),
        (br#"{"timestamp":"30000-01-01T00:00:00Z"}"#, "bad_timestamp"),
        (br#"{"timestamp":true}"#, "bad_timestamp"),
        (br#"{"timestamp":1.5}"#, "bad_timestamp"),
        (br#"{"timestamp":1031}"#, "future"),
        (br#"{"timestamp":1030}"#, ""),
        (br#"{"a":"\u0000","a":2}"#, ""),
    ];
    for (payload, reason) in cases {
        let decoded = plan.decode(batch(&[payload]));
        let wanted: Vec<&str> = if reason.is_empty() { vec![] } else { vec![reason] };
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(60)]).into_owned();
        assert_eq!(reasons(&decoded.dead), wanted, "{shown}");
        assert_eq!(decoded.batch.events.len() + decoded.dead.len(), 1, "{shown}");
    }
    // All at once: one bad message does not touch its neighbours.
    let all: Vec<&[u8]> = cases.iter().map(|(payload, _)| *payload).collect();
    let decoded = plan.decode(batch(&all));
    assert_eq!((decoded.dead.len(), decoded.batch.events.len()), (11, 2));
}

#[test]
fn bytes_that_are_text_only_together_are_not_utf8() {
    let plan = DecodePlan::new(settings(), Projection::default());
    let decoded = plan.decode(batch(&[b"{\"a\":\"\"}\xc3", b"\xa9{\"a\":\"\"}"]));
    assert_eq!(reasons(&decoded.dead), ["not_utf8", "not_utf8"]);
}

/// A batch that is split goes on as two with one buffer, in which the other's messages lie too.
#[test]
fn what_is_not_text_in_the_other_half_of_a_split_batch_does_not_matter() {
    let plan = DecodePlan::new(settings(), Projection::default());
    let mut rest = batch(&[b"{\"a\":1}", b"\xff", b"{\"a\":2}"]);
    let head = plan.decode(rest.split_through(1));
    assert_eq!((head.batch.events.len(), head.dead.len()), (1, 0));
    let rest = plan.decode(rest);
    assert_eq!(reasons(&rest.dead), ["not_utf8"]);
    assert_eq!(rest.batch.view(0).text(&rest.batch.messages[1].payload), "{\"a\":2}");
}

#[test]
fn lateness_is_judged_in_log_order() {
    let plan = DecodePlan::new(settings(), Projection::default());
    let event = |seconds: i64| format!("{{\"timestamp\":{seconds}}}").into_bytes();
    let payloads = [event(100), event(90), event(89), event(120), event(110), event(109)];
    let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let mut whole = plan.decode(batch(&slices)).batch;
    let late = plan.judge(&mut whole, None);
    let flags: Vec<bool> = whole.events.iter().map(|event| event.late).collect();
    assert_eq!(flags, [false, false, true, false, false, true]);
    assert_eq!(reasons(&late), ["late", "late"]);
    // The same cut in two, the first part's largest timestamp carried in.
    let mut second = plan.decode(batch(&slices[3..])).batch;
    plan.judge(&mut second, Some(100_000_000));
    assert_eq!(second.events.iter().map(|event| event.late).collect::<Vec<_>>(), flags[3..]);
}

/// What the others have reached is a watermark like any other: an event at it is in time.
#[test]
fn behind_a_silence_an_event_is_late_below_what_the_others_had_reached() {
    let plan = DecodePlan::new(settings(), Projection::default());
    let event = |seconds: i64| format!("{{\"timestamp\":{seconds}}}").into_bytes();
    let payloads = [event(99), event(100), event(99), event(101)];
    let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let mut decoded = plan.decode(batch(&slices)).batch;
    let late = plan.judge_above(&mut decoded, Some(20_000_000), 100_000_000);
    let flags: Vec<bool> = decoded.events.iter().map(|event| event.late).collect();
    assert_eq!(flags, [true, false, true, false]);
    assert_eq!(reasons(&late), ["late", "late"]);
}

#[test]
fn long_keys_are_dead_letters_only_where_a_key_is_needed() {
    let mut projection = Projection::default();
    let kind = projection.slot(&Field::Envelope(Envelope::EventType));
    let user = projection.slot(&Field::Envelope(Envelope::UserId));
    let condition = waterwheel_config::expr::Program::IsNull(Box::new(
        waterwheel_config::expr::Program::Slot(kind),
    ));
    let condition = waterwheel_config::expr::Program::Not(Box::new(condition));
    let keys = vec![waterwheel_config::expr::Program::Slot(user)];
    projection.keys.push(crate::contract::event::KeyNeed { condition: Some(condition), keys });
    let plan = DecodePlan::new(settings(), projection);
    let payload = |bytes: usize| format!("{{\"user_id\":\"{}\"}}", "u".repeat(bytes)).into_bytes();
    let (fits, long) = (payload(1024), payload(1025));
    let decoded = plan.decode(batch(&[&fits, &long]));
    assert_eq!(reasons(&decoded.dead), ["key_too_long"]);
}

#[test]
fn the_envelope_can_be_mapped() {
    let toml = r#"[event]
id = "data.key"
event_type = "subject:2"
user_id = "header:X-User"
source = "'desk'"
timestamp = "data.ts"
"#;
    let mapping = mapping(toml);
    let mut projection = Projection::default();
    let columns = RawColumns::project(&mut projection);
    let plan = DecodePlan::new(EventSettings { mapping, ..settings() }, projection);
    let mut builder = BatchBuilder::new("S".into(), 0);
    let payload = br#"{"data":{"key":"k1","ts":"1970-01-01T00:00:09Z"},"id":"no"}"#;
    builder.push(1, 1, Some(0), b"a.fill.c", b"A: b\r\nx-user:  u7 \r\n", payload);
    let decoded = plan.decode(builder.finish(None));
    let row = RawEvents::new(decoded.batch, &columns).row(0);
    let plain: Vec<String> = row.values()[..8].iter().map(Value::to_plain).collect();
    assert_eq!(plain, ["k1", "fill", "1970-01-01T00:00:09Z", "u7", "", "", "", "desk"]);
}

#[test]
fn timestamps_are_read_in_every_form_wherever_they_are_mapped_from() {
    let good = [
        ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20Z"),
        ("2023-11-14 22:13:20", "2023-11-14T22:13:20Z"),
        ("2023-11-14T23:13:20.1234567+01:00", "2023-11-14T22:13:20.123456Z"),
    ];
    let numbers = [
        ("1700000000", "2023-11-14T22:13:20Z"),
        ("1700000000123", "2023-11-14T22:13:20.123Z"),
        ("1700000000123456", "2023-11-14T22:13:20.123456Z"),
        ("1700000000123456789", "2023-11-14T22:13:20.123456Z"),
        ("-1", "1969-12-31T23:59:59Z"),
    ];
    let bad = ["", "yesterday", "1.5", "+5", "1e9", "2023-11-14", "99999999999999999999999999"];
    let plan = |toml: &str| {
        let settings = EventSettings { mapping: mapping(toml), ..settings() };
        DecodePlan::new(settings, Projection::default())
    };
    let (default, path) = (plan(""), plan("event.timestamp = \"data.at\""));
    let header = plan("event.timestamp = \"header:X-At\"");
    let time = |written: &str| Ok(written.to_owned());
    for (written, read) in good {
        let text = format!("\"{written}\"");
        assert_eq!(event_time(&default, "", &format!(r#"{{"timestamp":{text}}}"#)), time(read));
        assert_eq!(event_time(&path, "", &format!(r#"{{"data":{{"at":{text}}}}}"#)), time(read));
        assert_eq!(event_time(&header, &format!("x-at: {written}\r\n"), "{}"), time(read));
        assert_eq!(
            event_time(&plan(&format!("event.timestamp = \"'{written}'\"")), "", "{}"),
            time(read)
        );
    }
    for (written, read) in numbers {
        assert_eq!(event_time(&default, "", &format!(r#"{{"timestamp":{written}}}"#)), time(read));
        assert_eq!(event_time(&path, "", &format!(r#"{{"data":{{"at":{written}}}}}"#)), time(read));
        // There everything is text; in the payload a text is one that somebody chose.
        assert_eq!(event_time(&header, &format!("x-at: {written}\r\n"), "{}"), time(read));
        let text = format!(r#"{{"timestamp":"{written}"}}"#);
        assert_eq!(event_time(&default, "", &text), Err("bad_timestamp".to_owned()), "{text}");
    }
    for written in bad {
        let headers = format!("x-at: {written}\r\n");
        assert_eq!(
            event_time(&header, &headers, "{}"),
            Err("bad_timestamp".to_owned()),
            "{written}"
        );
        let text = format!(r#"{{"timestamp":"{written}"}}"#);
        assert_eq!(event_time(&default, "", &text), Err("bad_timestamp".to_owned()), "{text}");
    }
    let token = plan("event.timestamp = \"subject:2\"");
    assert_eq!(event_time(&token, "", "{}"), time("2023-11-14T22:13:20.123Z"));
    // What is absent is the broker's.
    let received = time("2027-01-15T08:00:00Z");
    let absent = plan("event.timestamp = \"subject:4\"");
    for plan in [&default, &path, &header, &absent] {
        assert_eq!(event_time(plan, "x: y\r\n", r#"{"timestamp":null}"#), received);
    }
}

#[test]
fn a_text_is_compared_in_place_as_it_is_as_a_value() {
    use waterwheel_config::expr::{Comparison, Constant, Program};

    let mut projection = Projection::default();
    let paths = ["plain", "escaped", "number", "null", "object", "absent"];
    let slots = paths.map(|path| projection.slot(&Field::Path(vec![path.to_owned()])));
    let payload = br#"{"plain":"ab","escaped":"\u0061b","number":5,"null":null,"object":{"ab":1}}"#;
    let plan = DecodePlan::new(settings(), projection);
    let decoded = plan.decode(batch(&[payload]));
    let event = decoded.batch.view(0);
    let mut count = 0;
    for slot in slots.into_iter().chain([99]) {
        for text in ["ab", "ac", "a", "", "5", "null", "{\"ab\":1}"] {
            let [left, right] =
                [Program::Slot(slot), Program::Constant(Constant::Text(text.to_owned()))];
            let equal = Program::Compare(Comparison::Equal, Box::new(left), Box::new(right));
            let value = equal.eval(&event);
            assert_eq!(equal.holds(&event), value == Val::Boolean(true), "{slot} {text}");
            count += usize::from(equal.holds(&event));
        }
    }
    // `ab` twice, and 5.
    assert_eq!(count, 3);
}
