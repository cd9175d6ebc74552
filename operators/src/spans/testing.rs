//! Logs of a few people, for the tests of operators over spans.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono_tz::Tz;
use waterwheel_config::value::Value;
use waterwheel_pipeline::graph::Deployment;

use crate::testing::{
    Cell, Event, Holds, Item, Message, Random, Script, Step, Timeline, lateness_us, run,
};

/// Keys as payloads spell them; some are one and the same, some are none.
const KEYS: [&str; 8] = ["\"u1\"", "\"u2\"", "\"u3\"", "1", "1.0", "\"1\"", "null", "true"];

const TYPES: [&str; 6] = ["signup", "visit", "visit", "order", "fill", "q\\\"uote"];

/// Conditions in SQL and by hand.
pub(crate) const CONDITIONS: [(&str, Holds); 5] = [
    ("event_type = 'fill'", |e| Some(e.get("event_type").is_text("fill"))),
    ("event_type = 'signup'", |e| Some(e.get("event_type").is_text("signup"))),
    ("properties.amount > 2", |e| e.get("properties.amount").greater(2.0)),
    ("properties.amount > 4", |e| e.get("properties.amount").greater(4.0)),
    ("event_type IS NOT NULL", |e| Some(!e.get("event_type").is_null())),
];

/// What an operator may be told of `where`.
pub(crate) const WHERE: [Option<(&str, Holds)>; 4] = [
    None,
    None,
    None,
    Some(("properties.amount IS NOT NULL", |e| Some(!e.get("properties.amount").is_null()))),
];

/// A log in which many events lie just at a bound after another one, or just beyond it.
pub(crate) fn log(
    random: &mut Random,
    count: usize,
    zone: Tz,
    lateness_us: &[i64],
    bound_us: i64,
) -> Vec<Message> {
    let mut timelines = Timeline::each(random, zone, lateness_us);
    let keys = 1 + random.below(KEYS.len());
    let has_bad_messages = random.once_in(4);
    let mut times_us: Vec<i64> = Vec::new();
    let message = |sequence| {
        let source = random.below(timelines.len());
        let mut time_us = timelines[source].next(random);
        if !times_us.is_empty() && random.once_in(4) {
            let near_us = random.pick(&times_us) + bound_us + random.pick(&[0, 0, 1, -1]);
            let newest_us = times_us.iter().max().copied().unwrap_or_default();
            if near_us <= newest_us + bound_us.min(60_000_000) {
                time_us = near_us;
            }
        }
        times_us.push(time_us);
        let mut key = random.pick(&KEYS[..keys]).to_string();
        if has_bad_messages && random.once_in(15) {
            key = format!("\"{}\"", "u".repeat(random.pick(&[1024, 1025])));
        }
        let kind = random.pick(&TYPES);
        let amount = random.pick(&["1", "2.5", "3", "4", "null", "\"5\"", "true"]);
        let payload = format!(
            "{{\"timestamp\":{},\"event_type\":\"{kind}\",\"correlation_id\":{key},\"user_id\":{key},\
             \"session_id\":{},\"properties\":{{\"amount\":{amount}}}}}",
            Timeline::spell(time_us, random),
            random.pick(&KEYS[..keys])
        );
        let received_at_us = Some(time_us);
        Message { source, sequence, subject: "a.b".to_owned(), received_at_us, payload }
    };
    (1..=count as u64).map(message).collect()
}

/// What of an item counts, as it is read out of SPEC 4.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The columns of the key, as texts.
    pub(crate) key: Vec<String>,
    pub(crate) time_us: i64,
    pub(crate) source: usize,
    pub(crate) sequence: u64,
    pub(crate) event_type: Option<String>,
    /// Which conditions hold.
    pub(crate) marks: Vec<bool>,
}

/// What an operator over spans is told, apart from its bounds.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) from: Vec<&'static str>,
    pub(crate) time: &'static str,
    /// Paths whose last segment is the column.
    pub(crate) by: Vec<&'static str>,
    pub(crate) default_by: &'static str,
    pub(crate) zone: Tz,
    pub(crate) condition: Option<(&'static str, Holds)>,
    /// The operator's own conditions by key.
    pub(crate) marks: Vec<(&'static str, (&'static str, Holds))>,
}

impl Told {
    /// The operator's table, without its bounds.
    pub(crate) fn toml(&self, kind: &str, name: &str) -> String {
        let quoted = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| format!("\"{text}\"")).collect();
            if let [text] = texts.as_slice() {
                text.clone()
            } else {
                format!("[{}]", texts.join(", "))
            }
        };
        let mut toml =
            format!("[operators.{name}]\ntype = \"{kind}\"\nfrom = {}\n", quoted(&self.from));
        if self.by != [self.default_by] {
            toml += &format!("by = {}\n", quoted(&self.by));
        }
        if self.time != "timestamp" {
            toml += &format!("time = \"{}\"\n", self.time);
        }
        if self.zone != Tz::UTC {
            toml += &format!("timezone = \"{}\"\n", self.zone.name());
        }
        let own = self.condition.map(|condition| ("where", condition));
        for (key, (sql, _)) in own.iter().chain(&self.marks) {
            toml += &format!("{key} = \"{sql}\"\n");
        }
        toml
    }

    fn passes(&self, item: &dyn Item) -> bool {
        self.condition.is_none_or(|(_, holds)| holds(item) == Some(true))
    }

    /// What of an item counts, if it does.
    pub(crate) fn entry(&self, item: &dyn Item, source: usize, sequence: u64) -> Option<Entry> {
        let Cell::Time(time_us) = item.get(self.time) else { return None };
        let key: Option<Vec<String>> = self.by.iter().map(|by| item.get(by).canonical()).collect();
        let marks = self.marks.iter().map(|(_, (_, holds))| holds(item) == Some(true)).collect();
        let event_type = item.get("event_type").canonical();
        let entry = Entry { key: key?, time_us, source, sequence, event_type, marks };
        self.passes(item).then_some(entry)
    }

    /// The entries of events, by key and in order.
    pub(crate) fn entries<'a>(
        &self,
        events: impl IntoIterator<Item = &'a Event>,
    ) -> BTreeMap<Vec<String>, Vec<Entry>> {
        let entry = |event: &Event| self.entry(event, event.source, event.sequence);
        in_order(events.into_iter().filter_map(entry))
    }

    /// True if a text is too long for a key.
    pub(crate) fn is_dead(&self, event: &Event) -> bool {
        let is_long = |by: &&str| event.get(by).canonical().is_some_and(|text| text.len() > 1024);
        self.passes(event) && self.by.iter().any(is_long)
    }
}

/// Entries by key and in order.
pub(crate) fn in_order(
    entries: impl IntoIterator<Item = Entry>,
) -> BTreeMap<Vec<String>, Vec<Entry>> {
    let mut keys: BTreeMap<Vec<String>, Vec<Entry>> = Default::default();
    for entry in entries {
        keys.entry(entry.key.clone()).or_default().push(entry);
    }
    for entries in keys.values_mut() {
        entries.sort_by_key(|entry| (entry.time_us, entry.source, entry.sequence));
    }
    keys
}

/// Runs a log message by message: no row may come, change or go that was final before, or whose times
/// lie further behind the watermark that goes out than their columns say.
pub(crate) fn check_final_rows(
    deployment: &Arc<Deployment>,
    log: &[Message],
) -> Result<(), String> {
    // A dead message moves no watermark.
    let log: Vec<&Message> = log.iter().filter(|message| message.payload.len() < 1_000).collect();
    let steps = log.iter().flat_map(|message| [Step::Message((*message).clone()), Step::Epoch]);
    let script = Script { steps: steps.collect(), in_flight: 2, is_final: false };
    let run = run(deployment, 2, &script)?;
    let planned = &deployment.operators[0].planned;
    let mut largest_us = i64::MIN;
    for (message, epoch) in log.iter().zip(&run.epochs) {
        let watermark_us = largest_us
            .saturating_sub(lateness_us(deployment)[0])
            .saturating_sub(planned.held_back_us);
        for (row, diff) in &epoch.changes[0] {
            let final_us = planned.schema.finality.of(row).expect("they become final");
            if final_us <= watermark_us {
                return Err(format!("{row:?} {diff:+} was final at {final_us} of {watermark_us}"));
            }
            for (column, value) in planned.schema.columns.iter().zip(row.values()) {
                if let (Some(behind_us), Value::Timestamp(micros)) = (column.behind_us, value)
                    && *micros < watermark_us.saturating_sub(behind_us)
                {
                    return Err(format!("{} of {row:?} lies behind {watermark_us}", column.name));
                }
            }
        }
        largest_us = largest_us.max(message.received_at_us.expect("a time"));
    }
    Ok(())
}
