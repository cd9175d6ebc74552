//! Messages that a careless or hostile publisher may send, by category, and what must become of
//! each.

use crate::support::rounds::Chance;

/// What must become of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
    /// It is an event.
    Event,
    /// It is a dead letter for this reason.
    Dead(&'static str),
    /// It is an event that comes too late: kept, and a dead letter.
    Late,
    /// It is the one or the other.
    Either,
}

/// A message of the corpus.
pub(super) struct Message {
    pub(super) category: &'static str,
    pub(super) subject: String,
    pub(super) payload: Vec<u8>,
    pub(super) fate: Fate,
}

/// The longest text that an index of Postgres, a key, and a name of a directory must cope with.
const LONG: usize = 1_025;

/// The corpus for a run that begins at this time in Unix seconds: events of about that time are
/// neither late nor in the future.
pub(super) fn corpus(now: i64, mutations: usize, chance: &mut Chance) -> Vec<Message> {
    let mut corpus = Corpus { now, messages: Vec::new() };
    corpus.bytes();
    corpus.syntax();
    corpus.depth();
    corpus.numbers();
    corpus.timestamps();
    corpus.texts();
    corpus.types();
    corpus.keys();
    corpus.sizes();
    corpus.subjects();
    corpus.mutations(mutations, chance);
    corpus.messages
}

struct Corpus {
    now: i64,
    messages: Vec<Message>,
}

impl Corpus {
    fn push(&mut self, category: &'static str, fate: Fate, payload: impl Into<Vec<u8>>) {
        let (subject, payload) = ("events.x".to_owned(), payload.into());
        self.messages.push(Message { category, subject, payload, fate });
    }

    /// An event with these fields besides, written as JSON.
    fn event(&self, fields: &str) -> String {
        let comma = if fields.is_empty() { "" } else { "," };
        format!(r#"{{"timestamp":{}{comma}{fields}}}"#, self.now)
    }

    /// An event with this JSON as a property.
    fn with_property(&self, json: &str) -> String {
        self.event(&format!(r#""properties":{{"symbol":"X","quantity":{json}}}"#))
    }

    fn bytes(&mut self) {
        let invalid: &[&[u8]] = &[
            b"\xff",
            b"\x80",
            b"\xc0\x80",
            b"\xc0\xaf",
            b"\xe0\x80\xaf",
            b"\xf0\x80\x80\xaf",
            b"\xed\xa0\x80",
            b"\xed\xbf\xbf",
            b"\xed\xa0\xbd\xed\xb8\x80",
            b"\xf4\x90\x80\x80",
            b"\xf8\x88\x80\x80\x80",
            b"\xfe\xfe\xff\xff",
            b"\xe2\x82",
            b"\xf0\x9f\x98",
        ];
        for bytes in invalid {
            for place in [r#""note":"?""#, r#""event_type":"?""#, r#""?":1"#] {
                let event = self.event(place).into_bytes();
                let at = event.iter().position(|byte| *byte == b'?').unwrap();
                let payload = [&event[..at], bytes, &event[at + 1..]].concat();
                self.push("invalid UTF-8", Fate::Dead("not_utf8"), payload);
            }
        }
        self.push("invalid UTF-8", Fate::Dead("not_utf8"), b"{}\xff".to_vec());
        self.push("invalid UTF-8", Fate::Dead("not_utf8"), b"\x1f\x8b\x08".to_vec());
        self.push("invalid UTF-8", Fate::Dead("not_utf8"), b"\xff\xfe{\0}\0".to_vec());
        let not_json: &[&[u8]] = &[
            b"",
            b" ",
            b"\0",
            b"{}\0",
            b"\xef\xbb\xbf{}",
            b"\x00\x01\x02\x03",
            b"{\"a\":\"\x01\"}",
            b"{\"a\":\"\n\"}",
            b"{\"a\":\"\x1f\"}",
            b"{\x0c}",
            b"{\xc2\xa0}",
            b"{\xe2\x80\x8b}",
        ];
        for bytes in not_json {
            self.push("bytes", Fate::Dead("not_json"), *bytes);
        }
    }

    fn syntax(&mut self) {
        for text in [
            "{",
            "}",
            "{}{}",
            "{},",
            "{}x",
            "{} {}",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{'a':1}",
            "{\"a\" 1}",
            "{\"a\":1 \"b\":2}",
            "{1:1}",
            "{\"a\":[1,]}",
            "{\"a\":[,]}",
            "{\"a\":[}",
            "{\"a\":(1)}",
            "{\"a\":tru}",
            "{\"a\":True}",
            "{\"a\":nul}",
            "{\"a\":undefined}",
            "{\"a\":NaN}",
            "{\"a\":-NaN}",
            "{\"a\":Infinity}",
            "{\"a\":-Infinity}",
            "{\"a\":inf}",
            "{\"a\":+1}",
            "{\"a\":01}",
            "{\"a\":-}",
            "{\"a\":-01}",
            "{\"a\":.5}",
            "{\"a\":5.}",
            "{\"a\":1e}",
            "{\"a\":1e+}",
            "{\"a\":0x10}",
            "{\"a\":1_000}",
            "{\"a\":1,000}",
            "{\"a\":1n}",
            "{\"a\":--1}",
            "{\"a\":\"\\x41\"}",
            "{\"a\":\"\\u12\"}",
            "{\"a\":\"\\u{41}\"}",
            "{\"a\":\"\\U0041\"}",
            "{\"a\":\"\\\"}",
            "{\"a\":\"",
            "{\"a\":\"x",
            "{\"a\":1}//x",
            "/**/{}",
            "<xml/>",
            "a=1&b=2",
            "{\"a\":1]",
            "nul",
            "tru",
            "-",
        ] {
            self.push("syntax", Fate::Dead("not_json"), text);
        }
        for text in ["[]", "[{}]", "null", "true", "1", "-0", "1e5", "\"text\"", "\"{}\"", "[1,2]"]
        {
            self.push("no object", Fate::Dead("not_object"), text);
        }
        for fields in [
            "",
            r#""event_type":"a","event_type":"b""#,
            r#""id":1,"id":{},"id":"x""#,
            r#""properties":{"symbol":"A"},"properties":{"symbol":"B"}"#,
            r#""properties":{"symbol":"A","symbol":"B"}"#,
            r#""timestamp":0,"timestamp":"never","timestamp":null"#,
            r#""":1"#,
            r#"" ":1,"\t":2,"\u0000":3,"\u0000":4,"\ud800":5"#,
            r#""\u0065vent_type":"spelled""#,
            r#""__proto__":{"x":1},"constructor":{"prototype":{}}"#,
            r#""$where":"sleep(1000)","a.b":1,"properties.symbol":"no""#,
        ] {
            let event = self.event(fields);
            self.push("keys of objects", Fate::Event, event);
        }
    }

    fn depth(&mut self) {
        for (depth, fate) in [
            (60, Fate::Event),
            (63, Fate::Event),
            (66, Fate::Dead("too_deep")),
            (129, Fate::Dead("too_deep")),
            (10_000, Fate::Dead("too_deep")),
            (200_000, Fate::Dead("too_deep")),
        ] {
            let lists = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let objects = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
            for json in [lists, objects] {
                if json.len() < 1_000_000 {
                    let event = self.event(&format!(r#""deep":{json}"#));
                    self.push("depth", fate, event);
                }
            }
        }
        // The opening half alone, too.
        self.push("depth", Fate::Either, "[".repeat(500_000));
        self.push("depth", Fate::Either, r#"{"a":"#.repeat(100_000));
    }

    fn numbers(&mut self) {
        let digits = |count: usize| "7".repeat(count);
        let numbers = [
            "0",
            "-0",
            "-0.0",
            "0.0",
            "1",
            "1.0",
            "1e0",
            "1E+0",
            "0e0",
            "0e400",
            "0e-400",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "-9223372036854775809",
            "18446744073709551615",
            "18446744073709551616",
            "9007199254740993",
            "1e-400",
            "-1e-400",
            "5e-324",
            "2e-324",
            "2.2250738585072011e-308",
            "1.7976931348623157e308",
            "1e308",
            "-1e308",
            "1e22",
            "0.1",
            "0.30000000000000004",
            "1e-16383",
            "1e-16384",
            "1e-20000",
            "1e-999999999",
            "1e-99999999999999999999",
            "0.0e-99999",
            "0e-16384",
            "0e99999",
            "123456789012345678901234567890",
            "1.0000000000000000000000001",
        ];
        let mut all: Vec<String> = numbers.iter().map(|text| (*text).to_owned()).collect();
        all.extend([
            digits(300),
            format!("0.{}", digits(400)),
            format!("1.{}", digits(16_383)),
            format!("{}e-400", digits(400)),
            format!("1e{}0", "0".repeat(1_000)),
            format!("1.{}", digits(16_384)),
            format!("0.{}1", "0".repeat(20_000)),
            format!("{}e-16500", digits(16_400)),
            format!("1{}e-131073", "0".repeat(131_073)),
            format!("0e{}", digits(1_000)),
        ]);
        for number in all {
            let event = self.with_property(&number);
            self.push("numbers", Fate::Event, event);
            let text = self.with_property(&format!("\"{number}\""));
            self.push("numbers as text", Fate::Event, text);
        }
        let over = ["1e309", "-1e309", "1e999", "1.8e308", "1e99999999999999999999"];
        let mut over: Vec<String> = over.iter().map(|text| (*text).to_owned()).collect();
        over.extend([digits(400), format!("-{}", digits(5_000)), format!("{}.5", digits(310))]);
        for number in over {
            for event in [self.with_property(&number), self.event(&format!(r#""x":[[{number}]]"#))]
            {
                self.push("number range", Fate::Dead("number_range"), event);
            }
        }
        for word in ["NaN", "Infinity", "-Infinity", "inf", "1e999", "0x7f", "١٢", "１", "½", ""]
        {
            let event = self.with_property(&format!("\"{word}\""));
            self.push("words for numbers", Fate::Event, event);
        }
    }

    fn timestamps(&mut self) {
        let now = self.now;
        let time = civil(now);
        let of = |timestamp: &str| format!(r#"{{"timestamp":{timestamp},"event_type":"time"}}"#);
        let good = [
            now.to_string(),
            format!("{now}000"),
            format!("{now}000000"),
            format!("{now}000000000"),
            format!("\"{time}Z\""),
            format!("\"{time}z\""),
            format!("\"{time}\""),
            format!("\"{}\"", time.replace('T', " ")),
            format!("\"{}z\"", time.replace('T', "t")),
            format!("\"{time}.5Z\""),
            format!("\"{time},5Z\""),
            format!("\"{time}.123456789123456789Z\""),
            format!("\"{time}+00:00\""),
            format!("\"{time}-00:00\""),
            format!("\"{time}+05:30\""),
            format!("\"{time}-05:30\""),
            "null".to_owned(),
        ];
        for timestamp in good {
            self.push("timestamps", Fate::Event, of(&timestamp));
        }
        self.push("timestamps", Fate::Event, "{}");
        for timestamp in [
            "\"0001-01-01T00:00:00Z\"",
            "\"1582-10-10T00:00:00Z\"",
            "\"1900-02-28T23:59:60Z\"",
            "\"1969-12-31T23:59:59.999999Z\"",
            "\"2000-02-29T00:00:00+23:59\"",
            "0",
            "-1",
            "-62135596800",
            "100000000000",
            "253402300799",
        ] {
            self.push("times of long ago", Fate::Late, of(timestamp));
        }
        for timestamp in [
            "\"9999-12-31T23:59:59.999999Z\"",
            "\"2100-01-01T00:00:00Z\"",
            "4102444800",
            "99999999999",
            "9223372036854775808",
            "18446744073709551615",
            "\"2999-12-31 23:59:59\"",
        ] {
            self.push("times to come", Fate::Dead("future"), of(timestamp));
        }
        for timestamp in [
            "\"\"",
            "\"now\"",
            "\"0000-01-01T00:00:00Z\"",
            "\"0000-00-00T00:00:00Z\"",
            "\"10000-01-01T00:00:00Z\"",
            "\"30000-01-01T00:00:00Z\"",
            "\"+030000-01-01T00:00:00Z\"",
            "\"-0001-01-01T00:00:00Z\"",
            "\"2026-13-01T00:00:00Z\"",
            "\"2026-02-30T00:00:00Z\"",
            "\"2026-01-01T24:00:00Z\"",
            "\"2026-01-01T00:60:00Z\"",
            "\"2026-01-01T00:00:61Z\"",
            "\"2026-01-01\"",
            "\"2026-01-01T00:00Z\"",
            "\"20260101T000000Z\"",
            "\"2026-W01-1\"",
            "\"Mon, 01 Jan 2026 00:00:00 GMT\"",
            "\"2026-01-01T00:00:00 Z\"",
            "\"2026-01-01T00:00:00+24:00\"",
            "\"2026-01-01T00:00:00+0100\"",
            "\"2026-01-01T00:00:00[Europe/Berlin]\"",
            "\"2026-01-01T00:00:00.Z\"",
            "\" 2026-01-01T00:00:00Z\"",
            "\"2026-01-01T00:00:00Z \"",
            "\"２０２６-01-01T00:00:00Z\"",
            "\"1767225600\"",
            "\"infinity\"",
            "\"-infinity\"",
            "\"epoch\"",
            "\"\\u0000\"",
            "1767225600.5",
            "1e18",
            "-1e300",
            "0.1",
            "-9223372036854775809",
            "123456789012345678901234567890",
            "true",
            "false",
            "[]",
            "{}",
            "[1767225600]",
            "{\"seconds\":1767225600}",
            "\"2026-01-01T00:00:00Z'; drop table x\"",
        ] {
            self.push("no timestamps", Fate::Dead("bad_timestamp"), of(timestamp));
        }
    }

    /// Each nasty text in every place that names something.
    fn texts(&mut self) {
        let texts = [
            "'; drop table events; --",
            "\"; drop table volume; --",
            "'); delete from volume; --",
            "$$; select pg_sleep(60); $$",
            "1; copy volume to program 'id'",
            "Robert'); --",
            "''''",
            "\\'",
            "\\\\",
            "E'\\x00'",
            "%s%n%d",
            "{0}",
            "${HOME}",
            "$(id)",
            "`id`",
            "| id",
            "&& id",
            "../../../../etc/passwd",
            "/etc/passwd",
            "..",
            ".",
            "...",
            "a/../b",
            "C:\\x",
            "a\\b",
            "./x",
            "~",
            "~root",
            "-rf",
            "--",
            "con",
            "nul.txt",
            "a/b/c",
            "file://x",
            "a=b",
            "date=x",
            "__HIVE_DEFAULT_PARTITION__",
            "_waterwheel",
            ".hidden",
            "_hidden",
            "x.parquet",
            "a.b",
            "a.b.c",
            "*",
            ">",
            "a.*",
            "a.>",
            ".a",
            "a.",
            "$JS.API.STREAM.DELETE.EVENTS",
            "$SYS.>",
            "_INBOX.x",
            "waterwheel.progress.hostile.results",
            "a b",
            " ",
            "  x  ",
            "\t",
            "x\r\nPUB results.x 1\r\nx",
            "\r\n",
            "\r",
            "\n",
            "x\r\nInjected: yes\r\n\r\n",
            "NATS/1.0",
            "\u{7f}",
            "\u{1}",
            "\u{1b}[31mred\u{1b}[0m",
            "\u{85}",
            "\u{a0}",
            "\u{ad}",
            "\u{200b}",
            "\u{200d}",
            "\u{202e}desrever",
            "\u{2028}",
            "\u{2066}x\u{2069}",
            "\u{feff}x",
            "\u{fffd}",
            "\u{fffe}",
            "\u{ffff}",
            "\u{10fffd}",
            "\u{e000}",
            "\u{1f600}",
            "\u{1f468}\u{200d}\u{1f469}",
            "\u{1f1e9}\u{1f1ea}",
            "e\u{301}",
            "\u{e9}",
            "Z\u{351}\u{36b}\u{343}",
            "\u{130}",
            "\u{df}",
            "\u{fb03}",
            "עברית",
            "日本語",
            "null",
            "NULL",
            "None",
            "true",
            "NaN",
            "-0",
            "1e5",
            "<script>alert(1)</script>",
            "\"quoted\"",
            "a,b;c",
            "a|b",
            "=cmd|' /C calc'!A0",
            "",
            "_",
            "%",
            "%2E%2E",
            "%00",
            "&amp;",
            "\u{1f4a9}/..\u{2028}'\"\\",
        ];
        for text in texts {
            let json = serde_json::Value::from(text).to_string();
            let all = format!(
                r#""id":{json},"event_type":{json},"user_id":{json},"session_id":{json},"correlation_id":{json},"causation_id":{json},"source":{json},"properties":{{"symbol":{json},"quantity":1}},"note":[{json},{{{json}:{json}}}]"#
            );
            let event = self.event(&all);
            self.push("texts", Fate::Event, event);
        }
        for escape in [
            r"\u0000",
            r"a\u0000b",
            r"\ud800",
            r"\udc00",
            r"\udc00\ud800",
            r"\ud800x",
            r"\ud83d\ude00",
            r"\ud83d\ud83d\ude00",
            r"\uDBFF\uDFFD",
            r"\ufffe",
            r"\u007f",
            r"\u001f",
            r"\\u0000",
            r"\/",
            r"\b\f\n\r\t",
            r"\u2028\u2029",
            r"\ud800\u0000",
            r"\u0022; --",
            r"\u005cu0000",
        ] {
            let all = format!(
                r#""id":"{escape}","event_type":"{escape}","correlation_id":"{escape}","properties":{{"symbol":"{escape}","quantity":1}},"note":["{escape}",{{"{escape}":"{escape}"}}]"#
            );
            let event = self.event(&all);
            self.push("escapes", Fate::Event, event);
        }
    }

    /// Envelope fields and keys of every JSON type.
    fn types(&mut self) {
        let fields = [
            "id",
            "event_type",
            "user_id",
            "session_id",
            "correlation_id",
            "causation_id",
            "source",
            "properties",
        ];
        let values = [
            "null",
            "true",
            "7",
            "-0.0",
            "1e300",
            "[]",
            "{}",
            "[1,\"\\u0000\"]",
            "{\"a\":{}}",
            "\"\"",
        ];
        for field in fields {
            for value in values {
                let event = self.event(&format!(r#""{field}":{value}"#));
                self.push("types", Fate::Event, event);
            }
        }
        for value in values {
            let event = self.event(&format!(r#""properties":{{"symbol":{value},"quantity":1}}"#));
            self.push("types", Fate::Event, event);
        }
    }

    /// Texts around the limit of a key.
    fn keys(&mut self) {
        for (filler, count) in [("k", LONG), ("\u{e9}", 513), ("\u{1f600}", 257), ("\\u0000", 342)]
        {
            let long = filler.repeat(count);
            let symbol = self.event(&format!(r#""properties":{{"symbol":"{long}","quantity":1}}"#));
            self.push("long keys", Fate::Dead("key_too_long"), symbol);
            let joined = self.event(&format!(r#""correlation_id":"{long}""#));
            self.push("long keys", Fate::Dead("key_too_long"), joined);
            for field in ["id", "event_type", "user_id", "session_id", "source"] {
                let event = self.event(&format!(r#""{field}":"{long}""#));
                self.push("long texts", Fate::Event, event);
            }
        }
        let list = format!("[{}1]", "1,".repeat(LONG));
        let event = self.event(&format!(r#""properties":{{"symbol":{list},"quantity":1}}"#));
        self.push("long keys", Fate::Dead("key_too_long"), event);
        let just = self.event(&format!(
            r#""correlation_id":"{0}","properties":{{"symbol":"{0}","quantity":1}}"#,
            "k".repeat(LONG - 1)
        ));
        self.push("long keys", Fate::Event, just);
    }

    fn sizes(&mut self) {
        let large = 900 << 10;
        for (field, filler) in [
            ("note", "x"),
            ("note", "\u{e9}"),
            ("note", "\\n"),
            ("note", "\\u0000"),
            ("source", "'"),
        ] {
            let text = filler.repeat(large / filler.len());
            let event = self.event(&format!(r#""{field}":"{text}""#));
            self.push("large", Fate::Event, event);
        }
        let keys: Vec<String> = (0..60_000).map(|n| format!(r#""k{n}":{n}"#)).collect();
        let event = self.event(&keys.join(","));
        self.push("large", Fate::Event, event);
        for element in ["0,", "[],", "{},", "\"\","] {
            let list = element.repeat(200_000);
            let event = self.event(&format!(r#""list":[{list}0]"#));
            self.push("large", Fate::Event, event);
        }
        let key = "k".repeat(500_000);
        let event = self.event(&format!(r#""{key}":1"#));
        self.push("large", Fate::Event, event);
        let spaces = format!("{}{}", " ".repeat(large), self.event(""));
        self.push("large", Fate::Event, spaces);
        let over = self.event(&format!(r#""note":"{}""#, "x".repeat(1 << 20)));
        self.push("large", Fate::Dead("too_large"), over);
        self.push("large", Fate::Dead("too_large"), vec![b'{'; 1_500_000]);
        self.push("large", Fate::Dead("not_utf8"), vec![0xff; 1_500_000]);
    }

    fn subjects(&mut self) {
        for token in [
            "a.b.c.d.e.f.g.h",
            "ünï",
            "日本語",
            "😀",
            "a'b",
            "\"q\"",
            "'; drop table events; --".trim(),
            "a/b",
            "%2E%2E%2F",
            "%2E",
            "$x",
            "a$b",
            "_",
            "-",
            "a*b",
            "a>b",
            "{operator}",
            "=",
            "a,b",
            "\u{1}",
            "\u{7f}",
            "\u{202e}x",
            "\u{feff}",
            "a\\b",
            "EVENTS",
            "~",
        ] {
            // White space and empty tokens no client sends.
            let token = token.replace(' ', "_");
            let (payload, category) = (self.event("").into_bytes(), "subjects");
            let subject = format!("events.{token}");
            self.messages.push(Message { category, subject, payload, fate: Fate::Event });
        }
        let (payload, category) = (self.event("").into_bytes(), "subjects");
        let subject = format!("events.{}", "long.".repeat(40) + &"t".repeat(1_500));
        self.messages.push(Message { category, subject, payload, fate: Fate::Event });
    }

    /// An event in which bytes were changed, added or taken away by chance.
    fn mutations(&mut self, count: usize, chance: &mut Chance) {
        let event = self.event(
            r#""id":"i1","event_type":"e","correlation_id":"c\u00e9","properties":{"symbol":"X","quantity":1.5e2},"list":[1,-2,true,null,"\ud83d\ude00"]"#,
        );
        for _ in 0..count {
            let mut bytes = event.clone().into_bytes();
            for _ in 0..chance.between(1, 4) {
                // The timestamp stays: one that is off by a digit makes everything after it late.
                let at = chance.between(26, bytes.len() as u64) as usize;
                let byte = chance.between(0, 256) as u8;
                match chance.between(0, 4) {
                    0 => bytes[at] = byte,
                    1 => bytes[at] ^= 1 << (byte % 8),
                    2 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            self.push("mutations", Fate::Either, bytes);
        }
    }
}

/// An instant as `2026-05-04T12:00:00`.
fn civil(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date, after Howard Hinnant.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}", second % 60)
}
