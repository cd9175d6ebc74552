//! Imagines the events of a trading venue, always the same ones for a seed: for demonstrations,
//! tests and measurements.
//!
//! ```toml
//! [sources.events]
//! type = "generate"
//! count = 100_000          # default: without end
//! rate = 1000              # events per second; default: as fast as they are taken
//! seed = 1
//! users = 1000             # a few of them do most
//! symbols = 20             # traded by Zipf's law; up to 10,000
//! interval = "10ms"        # event time from event to event
//! start_at = "2026-01-01T00:00:00Z"
//! ```
//!
//! People look around (`page.viewed`), sign up (`user.signup`), pay in (`deposit.made`) and trade;
//! programs trade on signals (`custom.trading.signal`). Orders (`order.placed`) are filled at once
//! or in parts (`order.filled`) or cancelled (`order.cancelled`), positions closed
//! (`position.closed`). The events of a story share their `correlation_id`, the `id` of its first
//! event, and name their cause in `causation_id`. Event time runs by `interval` and never by the
//! clock; 15 % of the events are told late, up to 30 seconds behind, and with a lateness of 30
//! seconds none is too late. The stream is `generate`, the subject `events.<event type>`, the
//! sequence counts from 1.

mod line;
pub mod market;
mod script;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use waterwheel_config::document::NodeKind;
use waterwheel_config::section::Section;
use waterwheel_config::timestamp;
use waterwheel_pipeline::contract::batch::{BatchBuilder, RawBatch};
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::position::{Position, fingerprint};
use waterwheel_pipeline::contract::source::{Next, Source, SourceKind, SourceSpec, Until};

pub use market::{EventRef, Market, MarketSpec};

/// The kind `generate`.
pub const KIND: SourceKind = SourceKind {
    name: "generate",
    summary: "Imagines the events of a trading venue, always the same ones for a seed.",
    example: "\
[sources.events]
type = \"generate\"
count = 100_000           # default: without end
rate = 1000               # events per second; default: as fast as they are taken
seed = 1
users = 1000
symbols = 20
interval = \"10ms\"         # event time from event to event
start_at = \"2026-01-01T00:00:00Z\"
",
    default_until: |section| if section.has("count") { Until::Final } else { Until::Forever },
    plan,
};

/// The name of the stream.
const STREAM: &str = "generate";

fn plan(section: &Section<'_>) -> Option<Box<dyn SourceSpec>> {
    let findings = section.findings();
    let known = findings.errors();
    let whole = |key, most| section.integer(key, 1, most).map(|number| number.value.unsigned_abs());
    let count = whole("count", i64::MAX);
    let rate = whole("rate", 100_000_000);
    let default = MarketSpec::default();
    let small = |key, most, default| {
        whole(key, most).and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
    };
    let users = small("users", 1_000_000_000, default.users);
    let symbols = small("symbols", 10_000, default.symbols);
    let seed = section.integer("seed", 0, i64::MAX).map(|seed| seed.value.unsigned_abs());
    let seed = seed.unwrap_or(default.seed);
    let interval_us = section.duration("interval").map_or(default.interval_us, |interval| {
        if interval.value == 0 {
            findings.error(interval.span, "`interval` must not be zero");
        }
        interval.value
    });
    let start_us = start_at(section).unwrap_or(default.start_us);
    if !section.has("count")
        && let Some(until) = section.text("until").filter(|until| until.value != "forever")
    {
        let message = "generated events have no end without a `count`";
        findings.error_help(until.span, message, "write `count`, or leave `until` out");
    }
    let market = MarketSpec { seed, users, symbols, interval_us, start_us };
    (findings.errors() == known).then(|| Box::new(GenerateSpec { market, count, rate }) as _)
}

/// The time of the first event: a string, or a date of TOML.
fn start_at(section: &Section<'_>) -> Option<i64> {
    let node = section.node("start_at")?;
    let text = match &node.kind {
        NodeKind::Datetime(text) => text.clone(),
        _ => section.node_text(node, "start_at")?.value,
    };
    let parsed = timestamp::parse(&text);
    if parsed.is_none() {
        let message = format!("`{text}` is not a time");
        let help = "write it as in RFC 3339: \"2026-01-01T00:00:00Z\"";
        section.findings().error_help(node.span.clone(), message, help);
    }
    parsed
}

struct GenerateSpec {
    market: MarketSpec,
    count: Option<u64>,
    rate: Option<u64>,
}

impl SourceSpec for GenerateSpec {
    fn build(&self, until: Until) -> Box<dyn Source> {
        let market = Market::new(self.market);
        let created = market.identity().cast_signed();
        Box::new(GenerateSource {
            builder: BatchBuilder::new(Arc::from(STREAM), created),
            created,
            market,
            count: self.count,
            until,
            ordinal: 0,
            pace: self.rate.map(Pace::new),
            event: Vec::new(),
        })
    }

    fn describe(&self) -> String {
        let MarketSpec { seed, users, .. } = self.market;
        let count = self.count.map_or_else(String::new, |count| format!("{count} "));
        format!("{count}generated events of {users} users, seed {seed}")
    }

    fn meaning(&self) -> String {
        format!("{:?}", self.market)
    }

    fn has_broker_time(&self) -> bool {
        false
    }

    fn stream(&self) -> Option<String> {
        Some(STREAM.to_owned())
    }

    fn may_hold(&self, position: &Position) -> bool {
        let created = Market::new(self.market).identity().cast_signed();
        position.stream == STREAM && position.created == created
    }
}

struct GenerateSource {
    market: Market,
    /// Tells the events of other settings apart.
    created: i64,
    count: Option<u64>,
    until: Until,
    /// Of the last event handed on.
    ordinal: u64,
    pace: Option<Pace>,
    builder: BatchBuilder,
    /// One event; kept for its capacity.
    event: Vec<u8>,
}

impl GenerateSource {
    fn left(&self) -> u64 {
        self.count.map_or(u64::MAX, |count| count.saturating_sub(self.ordinal))
    }

    /// The next `most` events, or as many as a batch takes.
    fn batch(&mut self, most: u64) -> RawBatch {
        for _ in 0..most {
            self.ordinal += 1;
            self.event.clear();
            let event = self.market.write_event(self.ordinal, &mut self.event);
            let subject = event.subject.as_bytes();
            self.builder.push(self.ordinal, self.ordinal, None, subject, b"", &self.event);
            if self.builder.is_full() {
                break;
            }
        }
        self.builder.finish(self.count.map(|_| self.left()))
    }

    /// Why reading cannot go on after this position.
    fn refuse(&mut self, resume: &Position) -> Option<&'static str> {
        if resume.stream != STREAM {
            return Some("they were not generated");
        }
        if resume.created != self.created {
            return Some("the settings, or the version of waterwheel, made other events then");
        }
        if self.count.is_some_and(|count| count < resume.ordinal) {
            return Some("`count` is smaller now");
        }
        self.event.clear();
        self.market.write_event(resume.ordinal, &mut self.event);
        let same = [0, fingerprint(None, &self.event)].contains(&resume.fingerprint);
        (!same).then_some("the last of them was another one")
    }
}

#[async_trait]
impl Source for GenerateSource {
    async fn open(&mut self, resume: Option<&Position>) -> Result<Position, Fault> {
        let start = Position {
            stream: STREAM.to_owned(),
            created: self.created,
            ordinal: 0,
            fingerprint: 0,
            gaps: Vec::new(),
            messages: 0,
        };
        let position = resume.filter(|resume| resume.ordinal > 0).unwrap_or(&start);
        if position.ordinal > 0
            && let Some(reason) = self.refuse(position)
        {
            return Err(Fault::halt(format!(
                "the generated events are not those of which {} were read before: {reason}",
                position.ordinal
            ))
            .help("put the settings back, or give the pipeline another `name` to begin again"));
        }
        self.ordinal = position.ordinal;
        self.pace = self.pace.as_ref().map(|pace| Pace::new(pace.rate));
        Ok(position.clone())
    }

    async fn next(&mut self) -> Result<Next, Fault> {
        let left = self.left();
        if left == 0 {
            if self.until == Until::Forever {
                std::future::pending::<()>().await;
            }
            return Ok(Next::End);
        }
        let most = match &mut self.pace {
            Some(pace) => pace.due().await.min(left),
            None => left,
        };
        let batch = self.batch(most);
        if let Some(pace) = &mut self.pace {
            pace.handed_on += batch.messages.len() as u64;
        }
        Ok(Next::Batch(batch))
    }
}

/// Holds to a rate by the clock, in steps of about ten milliseconds.
struct Pace {
    rate: u64,
    since: Instant,
    handed_on: u64,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate, since: Instant::now(), handed_on: 0 }
    }

    /// Waits until at least one event is due; returns how many are.
    async fn due(&mut self) -> u64 {
        loop {
            let now = Instant::now();
            let due = self.by(now.duration_since(self.since)).saturating_sub(self.handed_on);
            if due > self.rate {
                // Whoever takes them was slow for long: no more than a second's worth is made up.
                self.since = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
                self.handed_on = 0;
                return self.rate;
            }
            if due > 0 {
                return due;
            }
            let step = (self.rate / 100).max(1);
            let wait_us = u128::from(self.handed_on + step) * 1_000_000 / u128::from(self.rate) + 1;
            let wait = Duration::from_micros(u64::try_from(wait_us).unwrap_or(u64::MAX));
            tokio::time::sleep_until(self.since + wait).await;
        }
    }

    fn by(&self, elapsed: Duration) -> u64 {
        let due = elapsed.as_micros() * u128::from(self.rate) / 1_000_000;
        u64::try_from(due).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waterwheel_config::document::Document;
    use waterwheel_pipeline::contract::batch::BATCH_MESSAGES_MAX;
    use waterwheel_pipeline::contract::fault::Remedy;

    fn planned(text: &str) -> (Option<Box<dyn SourceSpec>>, String) {
        let document = Document::parse("t.toml", text, Box::new(|_| None));
        let spec = plan(&document.root());
        (spec, document.render_findings(false))
    }

    fn source(text: &str, until: Until) -> Box<dyn Source> {
        let (spec, findings) = planned(text);
        spec.expect(&findings).build(until)
    }

    async fn batch(source: &mut dyn Source) -> RawBatch {
        match source.next().await.unwrap() {
            Next::Batch(batch) => batch,
            Next::End => panic!("the end"),
        }
    }

    async fn all(source: &mut dyn Source, resume: Option<&Position>) -> Vec<RawBatch> {
        source.open(resume).await.unwrap();
        let mut batches = Vec::new();
        while let Next::Batch(batch) = source.next().await.unwrap() {
            assert!(batch.messages.len() <= BATCH_MESSAGES_MAX);
            batches.push(batch);
        }
        assert!(matches!(source.next().await, Ok(Next::End)));
        batches
    }

    /// Ordinal, subject and payload of every message.
    fn messages(batches: &[RawBatch]) -> Vec<(u64, Vec<u8>, Vec<u8>)> {
        let of_batch = |batch: &RawBatch| {
            let bytes = |range| batch.bytes(range).to_vec();
            let messages = batch.messages.iter();
            let parts = messages.map(|m| {
                assert_eq!((m.ordinal, m.received_at_us), (m.sequence, None));
                (m.ordinal, bytes(&m.subject), bytes(&m.payload))
            });
            parts.collect::<Vec<_>>()
        };
        batches.iter().flat_map(of_batch).collect()
    }

    #[tokio::test]
    async fn every_position_resumes_to_the_same_events() {
        let text = "count = 10000\nseed = 7";
        let whole = all(&mut *source(text, Until::Final), None).await;
        assert_eq!(whole[0].pending, Some(10_000 - BATCH_MESSAGES_MAX as u64));
        let events = messages(&whole);
        let ordinals: Vec<_> = events.iter().map(|event| event.0).collect();
        assert_eq!(ordinals, (1..=10_000).collect::<Vec<_>>());
        for ordinal in [1, 2, 4_095, 4_096, 4_097, 7_777, 9_999, 10_000] {
            let position = whole.iter().find_map(|batch| {
                let end = batch.clone().split_through(ordinal).end()?;
                (end.ordinal == ordinal).then_some(end)
            });
            // How many events there are to be does not change those that there are.
            let text =
                if ordinal % 2 == 0 { text } else { "rate = 9000000\ncount = 10000\nseed = 7" };
            let rest = all(&mut *source(text, Until::End), position.as_ref()).await;
            assert!(messages(&rest) == events[ordinal as usize..], "after {ordinal}");
        }
    }

    #[tokio::test]
    async fn other_settings_halt() {
        let mut first = source("count = 5000", Until::Final);
        let end = all(&mut *first, None).await.pop().unwrap().end().unwrap();
        for (text, words) in [
            ("count = 5000\nseed = 2", "the settings"),
            ("count = 5000\nusers = 999", "the settings"),
            ("count = 4999", "`count` is smaller"),
        ] {
            let fault = source(text, Until::Final).open(Some(&end)).await.expect_err(text);
            assert_eq!(fault.remedy, Remedy::Halt);
            assert!(fault.message.contains(words), "{fault}");
        }
        for position in [
            Position { stream: "EVENTS".into(), ..end.clone() },
            Position { ordinal: end.ordinal - 1, ..end.clone() },
        ] {
            let fault = first.open(Some(&position)).await.expect_err("another position");
            assert_eq!(fault.remedy, Remedy::Halt);
        }
        assert!(source("count = 6000", Until::Final).open(Some(&end)).await.is_ok());
    }

    #[tokio::test]
    async fn without_an_end_it_goes_on_and_with_forever_it_waits_at_the_count() {
        let mut endless = source("", Until::Forever);
        endless.open(None).await.unwrap();
        let more = batch(&mut *endless).await;
        assert_eq!((more.messages.len(), more.pending), (BATCH_MESSAGES_MAX, None));
        let mut waiting = source("count = 3", Until::Forever);
        waiting.open(None).await.unwrap();
        assert_eq!(batch(&mut *waiting).await.messages.len(), 3);
        assert!(futures::FutureExt::now_or_never(waiting.next()).is_none());
    }

    #[tokio::test]
    async fn a_rate_is_kept() {
        let begin = Instant::now();
        let mut source = source("count = 100\nrate = 1000", Until::Final);
        let events = messages(&all(&mut *source, None).await);
        assert_eq!(events.len(), 100);
        // The clock only bounds it from below: a busy machine may be as slow as it likes.
        assert!(begin.elapsed() >= Duration::from_millis(99), "{:?}", begin.elapsed());
    }

    #[test]
    fn what_is_made_up_for_is_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut pace = Pace::new(100);
            let Some(since) = pace.since.checked_sub(Duration::from_secs(60)) else { return };
            pace.since = since;
            assert_eq!(pace.due().await, 100);
        });
    }

    #[test]
    fn settings() {
        let (spec, findings) =
            planned("start_at = 2026-02-03T04:05:06Z\nusers = 5\nuntil = \"forever\"");
        assert_eq!(
            spec.map(|spec| spec.describe()).as_deref(),
            Some("generated events of 5 users, seed 1"),
            "{findings}"
        );
        for (text, words) in [
            ("count = 0", "`count` must be 1 or more"),
            ("rate = \"fast\"", "`rate` must be a whole number"),
            ("users = 0", "`users` must be from 1"),
            ("symbols = 10001", "`symbols` must be from 1"),
            ("seed = -1", "`seed` must be 0 or more"),
            ("interval = \"0s\"", "`interval` must not be zero"),
            ("interval = \"soon\"", "is not a duration"),
            ("start_at = \"now\"", "`now` is not a time"),
            ("start_at = 5", "`start_at` must be a string"),
            ("until = \"end\"", "no end without a `count`"),
        ] {
            let (spec, findings) = planned(text);
            assert!(spec.is_none() && findings.contains(words), "{text}: {findings}");
        }
        let document = Document::parse("t.toml", KIND.example, Box::new(|_| None));
        let table = document.root().table("sources").and_then(|table| table.table("events"));
        let table = table.unwrap();
        assert!(plan(&table).is_some());
        assert_eq!((KIND.default_until)(&table), Until::Final);
        assert_eq!((KIND.default_until)(&document.root()), Until::Forever);
    }
}
