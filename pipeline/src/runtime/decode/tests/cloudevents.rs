//! CloudEvents in both modes.

use proptest::prelude::*;
use waterwheel_config::expr::Fields;

use super::*;
use crate::contract::event::traceparent;

/// A decoder of CloudEvents that keeps raw columns, these paths, and two attributes.
struct Reader {
    plan: DecodePlan,
    columns: RawColumns,
    slots: Vec<usize>,
}

impl Reader {
    fn new(keys: &str, paths: &[&str]) -> Self {
        let mapping = mapping(&format!("format = \"cloudevents\"\n{keys}"));
        let mut projection =
            Projection { format: EventFormat::CloudEvents, ..Projection::default() };
        let columns = RawColumns::project(&mut projection);
        let path = |path: &&str| Field::Path(path.split('.').map(str::to_owned).collect());
        let attributes = ["subject", "datacontenttype", "partitionkey"];
        let attribute = |name: &str| Field::Attribute(name.to_owned());
        let fields: Vec<Field> = paths.iter().map(path).chain(attributes.map(attribute)).collect();
        let slots = fields.iter().map(|field| projection.slot(field)).collect();
        let plan = DecodePlan::new(EventSettings { mapping, ..settings() }, projection);
        Self { plan, columns, slots }
    }

    /// The envelope, the payload, and what was asked for; or why the message is a dead letter.
    fn read(&self, headers: &str, payload: &[u8]) -> Result<Vec<String>, String> {
        let mut builder = BatchBuilder::new("S".into(), 0);
        builder.push(7, 7, Some(1_800_000_000_000_000), b"in", headers.as_bytes(), payload);
        let decoded = self.plan.decode(builder.finish(None));
        if let [letter] = decoded.dead.as_slice() {
            let [reason, detail] = [5, 6].map(|column: usize| letter.values()[column].to_plain());
            return Err(format!("{reason}: {detail}"));
        }
        let view = decoded.batch.view(0);
        let row = RawEvents::new(decoded.batch.clone(), &self.columns).row(0);
        let own = |value: &Value| if value.is_null() { "-".to_owned() } else { value.to_plain() };
        let mut found: Vec<String> = row.values()[..9].iter().map(own).collect();
        found.push(own(&row.values()[13]));
        let asked = self.slots.iter().map(|slot| own(&view.get(*slot).to_value(ColumnType::Text)));
        found.extend(asked);
        Ok(found)
    }
}

const BINARY: &str = "ce-specversion: 1.0\r\nCe-Id: e1\r\nCE-TYPE: order.filled\r\nce-source: /desk/7\r\n\
     ce-time: 2023-11-14T22:13:20.5Z\r\nce-userid: u%2041\r\nce-subject: Z%C3%BCrich\r\n\
     ce-partitionkey: \"a \\\"b\\\" %2525\"\r\nce-datacontenttype: application/json\r\nNats-Msg-Id: m1\r\n";

const STRUCTURED: &str = r#"{"specversion":"1.0","id":"e1","type":"order.filled","source":"/desk/7",
     "time":"2023-11-14T22:13:20.5Z","userid":"u 41","subject":"Zürich","partitionkey":"a \"b\" %25",
     "datacontenttype":"application/json","DATA"}"#;

fn structured(data: &str) -> String {
    STRUCTURED.replace("\"DATA\"", data)
}

#[test]
fn both_modes_give_the_same_event() {
    let reader = Reader::new("", &["price", "order.id"]);
    let data = r#"{"price":64000.5,"order":{"id":"o1"},"user_id":"no","session_id":"s 1"}"#;
    let expected = [
        "e1",
        "order.filled",
        "2023-11-14T22:13:20.5Z",
        "u 41",
        // The data's field where there is no extension.
        "s 1",
        "-",
        "-",
        "/desk/7",
        // The subject of the envelope is the broker's.
        "in",
        data,
        "64000.5",
        "o1",
        "Zürich",
        "application/json",
        "a \"b\" %25",
    ]
    .map(str::to_owned)
    .to_vec();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, data);
    assert_eq!(reader.read(BINARY, data.as_bytes()), Ok(expected.clone()));
    for headers in ["", "Content-Type: application/cloudevents+json; charset=UTF-8\r\n", "a:b\r\n"]
    {
        let whole = structured(&format!("\"data\":{data}"));
        assert_eq!(reader.read(headers, whole.as_bytes()), Ok(expected.clone()), "{headers}");
        for encoded in [base64.as_str(), base64.trim_end_matches('=')] {
            let whole = structured(&format!("\"data_base64\":\"{encoded}\""));
            assert_eq!(reader.read(headers, whole.as_bytes()), Ok(expected.clone()), "{headers}");
        }
    }
}

#[test]
fn what_is_absent_falls_back() {
    let reader = Reader::new("", &["price"]);
    let read = |headers: &str, payload: &str| {
        let found = reader.read(headers, payload.as_bytes()).unwrap();
        [&found[0], &found[1], &found[2], &found[7], &found[9], &found[10]].map(String::clone)
    };
    let received = "2027-01-15T08:00:00Z";
    assert_eq!(read("ce-type: t\r\n", ""), ["S:7", "t", received, "-", "-", "-"]);
    assert_eq!(read("ce-id: i\r\n", "null"), ["i", "in", received, "-", "-", "-"]);
    let header = "Nats-Msg-Id: m\r\n";
    for payload in [r#"{"specversion":"1.0"}"#, r#"{"specversion":"1.0","data":null,"id":null}"#] {
        assert_eq!(read(header, payload), ["m", "in", received, "-", "-", "-"], "{payload}");
    }
    // The empty data of binary mode, and of a text in base64.
    assert_eq!(read("", r#"{"specversion":"1.0","data_base64":""}"#)[4], "-");
}

#[test]
fn what_is_no_cloudevent_is_a_dead_letter() {
    let reader = Reader::new("", &["price"]);
    let json = "content-type: application/cloudevents+json\r\n";
    let batch = "content-type: application/cloudevents-batch+json\r\n";
    let binary = "ce-specversion: 1.0\r\n";
    let not_utf8 = r#"{"specversion":"1.0","data_base64":"/w=="}"#;
    for (headers, payload, told) in [
        ("", r#"{"id":"e1"}"#, "not_cloudevent: no CloudEvent: no `ce-` headers"),
        (json, r#"{"id":"e1"}"#, "not_cloudevent: no CloudEvent: no `specversion`"),
        (
            batch,
            "[]",
            "not_cloudevent: its content type is application/cloudevents-batch+json, a batch",
        ),
        (
            "Content-Type: Application/CloudEvents+avro\r\n",
            "x",
            "not_cloudevent: its content type is application/cloudevents+avro, only",
        ),
        ("ce-specversion: 0.3\r\n", "{}", "not_cloudevent: its specversion"),
        ("", r#"{"specversion":"0.3","data":{}}"#, "not_cloudevent: its specversion"),
        ("", r#"{"specversion":[],"data":{}}"#, "not_cloudevent: its specversion"),
        (
            "",
            r#"{"specversion":"1.0","data":{},"data_base64":"e30="}"#,
            "not_cloudevent: it has both",
        ),
        ("", r#"{"specversion":"1.0","data_base64":"e30=!"}"#, "not_cloudevent: `data_base64`"),
        ("", r#"{"specversion":"1.0","data_base64":{}}"#, "not_cloudevent: `data_base64`"),
        ("", not_utf8, "not_utf8: the data"),
        ("", r#"{"specversion":"1.0","data":[1]}"#, "not_object: the data"),
        ("", r#"{"specversion":"1.0","data":"<xml/>"}"#, "not_object: the data"),
        ("", r#"{"specversion":"1.0","data_base64":"WzFd"}"#, "not_object: the data"),
        ("", r#"{"specversion":"1.0","data":{"x":1e999}}"#, "number_range: "),
        ("", "[1]", "not_object: "),
        ("", "hello", "not_json: "),
        (json, "", "not_json: "),
        (binary, "hello", "not_json: the data"),
        (binary, "[1]", "not_object: the data"),
        ("ce-time: now\r\nce-id: i\r\n", "{}", "bad_timestamp: "),
        // A header that only looks like one.
        ("c: d\r\nceid: i\r\nce-more: x\r\n", "{}", "not_cloudevent: "),
    ] {
        let found = reader.read(headers, payload.as_bytes());
        let letter = found.expect_err(payload);
        assert!(letter.starts_with(told), "{headers}{payload}: {letter}");
    }
}

#[test]
fn overrides_are_paths_in_the_data_headers_and_attributes() {
    let keys = "event.id = \"order.id\"\nevent.user_id = \"attribute:partitionkey\"\n\
        event.event_type = \"data.kind\"\nevent.source = \"header:X-Desk\"\n\
        event.session_id = \"payload.data.s\"\nevent.correlation_id = \"attribute:subject\"\n";
    let reader = Reader::new(keys, &[]);
    let data = r#"{"order":{"id":"o1"},"kind":"k","data":{"s":"s1"},"correlation_id":"no","user_id":"no"}"#;
    let headers = "ce-id: e1\r\nce-type: t\r\nce-partitionkey: p1\r\nX-Desk: d%201\r\n";
    let expected = ["o1", "k", "2027-01-15T08:00:00Z", "p1", "s1", "-", "-", "d%201"];
    assert_eq!(reader.read(headers, data.as_bytes()).unwrap()[..8], expected);
    let whole = format!(
        r#"{{"specversion":"1.0","id":"e1","type":"t","partitionkey":"p1","data":{data}}}"#
    );
    assert_eq!(reader.read("X-Desk: d%201\r\n", whole.as_bytes()).unwrap()[..8], expected);
}

#[test]
fn a_trace_goes_on_from_the_extension() {
    let reader = Reader::new("", &[]);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let own = "00-11111111111111111111111111111111-2222222222222222-01";
    let with = |headers: &str, payload: &str| {
        let mut builder = BatchBuilder::new("S".into(), 0);
        builder.push(1, 1, Some(0), b"in", headers.as_bytes(), payload.as_bytes());
        let decoded = reader.plan.decode(builder.finish(None));
        let row = RawEvents::new(decoded.batch, &reader.columns).row(0);
        traceparent(&row, &crate::contract::event::raw_schema()).map(str::to_owned)
    };
    let binary = format!("ce-id: i\r\nce-traceparent: {trace}\r\n");
    assert_eq!(with(&binary, "").as_deref(), Some(trace));
    let whole = format!(r#"{{"specversion":"1.0","traceparent":"{trace}"}}"#);
    assert_eq!(with("", &whole).as_deref(), Some(trace));
    // The hop that brought the message goes before the one that made the event.
    let both = format!("{binary}traceparent: {own}\r\n");
    assert_eq!(with(&both, "").as_deref(), Some(own));
    assert_eq!(with(&format!("traceparent: {own}\r\n"), &whole).as_deref(), Some(own));
}

#[test]
fn schemas_and_types_are_of_the_data() {
    let mut schemas = Schemas::default();
    schemas.add("t", r#"{"required": ["price"], "type": "object"}"#).unwrap();
    let mut projection = Projection { format: EventFormat::CloudEvents, ..Projection::default() };
    projection.types.insert(vec!["price".to_owned()], ColumnType::Bigint);
    let slot = projection.slot(&Field::Path(vec!["price".to_owned()]));
    let mapping = mapping("format = \"cloudevents\"");
    let settings = EventSettings { mapping, schemas: Arc::new(schemas), ..settings() };
    let plan = DecodePlan::new(settings, projection);
    let read = |headers: &str, payload: &str| {
        let mut builder = BatchBuilder::new("S".into(), 0);
        builder.push(1, 1, Some(0), b"in", headers.as_bytes(), payload.as_bytes());
        let decoded = plan.decode(builder.finish(None));
        match decoded.dead.first() {
            Some(row) => row.values()[5].to_plain(),
            None => decoded.batch.view(0).get(slot).to_value(ColumnType::Text).to_plain(),
        }
    };
    assert_eq!(read("ce-type: t\r\n", r#"{"price":"5"}"#), "5");
    assert_eq!(read("ce-type: t\r\n", r#"{"price":5.5}"#), "");
    assert_eq!(read("ce-type: t\r\n", r#"{"prices":5}"#), "schema");
    assert_eq!(read("ce-type: t\r\n", ""), "schema");
    assert_eq!(read("ce-type: u\r\n", r#"{"prices":5}"#), "");
    assert_eq!(read("", r#"{"specversion":"1.0","type":"t","data":{"price":5.0}}"#), "5");
    assert_eq!(read("", r#"{"specversion":"1.0","type":"t","price":5}"#), "schema");
    let base64 = r#"{"specversion":"1.0","type":"t","data_base64":"eyJwcmljZXMiOjV9"}"#;
    assert_eq!(read("", base64), "schema");
}

/// As publishers do: everything but letters, digits and `-` as `%XX`, or only what must be.
fn percent(value: &str, all: bool) -> String {
    let must = |byte: u8| !(0x21..=0x7e).contains(&byte) || matches!(byte, b'"' | b'%');
    let spell = |byte: u8| match (all && !byte.is_ascii_alphanumeric()) || must(byte) {
        true => format!("%{byte:02x}"),
        false => char::from(byte).to_string(),
    };
    value.bytes().map(spell).collect()
}

proptest! {
    /// Whatever the attributes and the data are, binary, structured and encoded events are one.
    #[test]
    fn no_mode_changes_an_event(
        id in "[^\0\r\n]{1,12}",
        user in prop::option::of("[a-zé %\"\\\\]{1,8}"),
        price in any::<i64>(),
        note in "[^\0]{0,12}",
        all in any::<bool>(),
    ) {
        let reader = Reader::new("", &["price", "note"]);
        let data = serde_json::json!({ "price": price, "note": note }).to_string();
        let mut headers = format!("ce-specversion:1.0\r\nce-id:{}\r\n", percent(&id, all));
        let mut event = serde_json::json!({ "specversion": "1.0", "id": id });
        if let Some(user) = &user {
            headers.push_str(&format!("ce-userid: {}\r\n", percent(user, all)));
            event["userid"] = user.as_str().into();
        }
        let binary = reader.read(&headers, data.as_bytes()).unwrap();
        prop_assert_eq!(&binary[0], &id);
        prop_assert_eq!(binary[3].as_str(), user.as_deref().unwrap_or("-"));
        prop_assert_eq!(&binary[10], &price.to_string());
        prop_assert_eq!(&binary[11], &note);
        let mut encoded = event.clone();
        encoded["data_base64"] =
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &data).into();
        event["data"] = serde_json::from_str(&data).unwrap();
        let structured = reader.read("", event.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&reader.read("", encoded.to_string().as_bytes()).unwrap(), &binary);
        prop_assert_eq!(structured, binary);
    }

    #[test]
    fn no_message_makes_it_panic(
        headers in "(ce-(id|type|time|specversion)|content-type|x): ?(application/cloudevents|[%\"\\\\0-9a-f]{0,6}|1\\.0)\r\n",
        payload in "\\{(\"(data|data_base64|id|specversion)\":(\\{\\}|1|\"[a-zA-Z=/+]{0,4}\"|null|\\[),?){0,3}\\}?",
    ) {
        let _ = Reader::new("", &["a"]).read(&headers, payload.as_bytes());
    }
}
