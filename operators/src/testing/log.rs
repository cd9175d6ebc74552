//! Logs of messages, and scripts that cut them into batches and epochs.

use chrono::{DateTime, FixedOffset};
use chrono_tz::Tz;

use super::event::{Event, Judge, Verdict};
use super::naive;
use super::random::Random;

/// A message of one source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// The index of its source.
    pub(crate) source: usize,
    /// The sequence that users see; it stays with the message when a log is shuffled.
    pub(crate) sequence: u64,
    /// The subject.
    pub(crate) subject: String,
    /// The broker's timestamp.
    pub(crate) received_at_us: Option<i64>,
    /// The payload.
    pub(crate) payload: String,
}

impl Message {
    /// The name of the stream of a source.
    pub(crate) fn stream(source: usize) -> String {
        format!("S{source}")
    }
}

/// One step of a script.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The next message of its source.
    Message(Message),
    /// What has come since the last batch goes to a worker.
    Batch {
        /// The worker, modulo their number.
        worker: usize,
    },
    /// The epoch ends.
    Epoch,
}

/// A log with its cuts.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// What happens, in order.
    pub(crate) steps: Vec<Step>,
    /// How many epochs may flow before the first of them is waited for.
    pub(crate) in_flight: usize,
    /// True if the sources become final at the end.
    pub(crate) is_final: bool,
}

impl Script {
    /// Cuts a log at random.
    pub(crate) fn random(log: &[Message], random: &mut Random) -> Self {
        let epoch_every = random.pick(&[1, 3, 8, 20, 1_000]);
        let batch_every = random.pick(&[1, 2, 5, 1_000]);
        let mut steps = Vec::new();
        for message in log {
            steps.push(Step::Message(message.clone()));
            if random.once_in(batch_every) {
                steps.push(Step::Batch { worker: random.below(8) });
            }
            if random.once_in(epoch_every) {
                steps.push(Step::Batch { worker: random.below(8) });
                // Now and then an epoch without messages.
                let epochs = if random.once_in(5) { 1 + random.below(3) } else { 1 };
                steps.extend(std::iter::repeat_n(Step::Epoch, epochs));
            }
        }
        steps.push(Step::Batch { worker: random.below(8) });
        steps.push(Step::Epoch);
        Self { steps, in_flight: random.below(4), is_final: random.once_in(2) }
    }

    /// Adds an epoch long after with an event per source that has nothing but its time, and leaves the
    /// sources open.
    pub(crate) fn add_long_after(&mut self, sources: usize) {
        for source in 0..sources {
            let payload = "{\"timestamp\":4000000000000000}".to_owned();
            let message = Message { source, sequence: 1_000, payload, ..Message::default() };
            self.steps.push(Step::Message(message));
        }
        self.steps.push(Step::Epoch);
        (self.is_final, self.in_flight) = (false, 0);
    }
}

/// The script as a person reads it.
impl std::fmt::Display for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for step in &self.steps {
            match step {
                Step::Message(message) => writeln!(
                    f,
                    "{}:{} received {:?} on {}: {}",
                    Message::stream(message.source),
                    message.sequence,
                    message.received_at_us,
                    message.subject,
                    message.payload
                )?,
                Step::Batch { worker } => writeln!(f, "-- batch to worker {worker}")?,
                Step::Epoch => writeln!(f, "== epoch")?,
            }
        }
        write!(f, "in flight {}, final {}", self.in_flight, self.is_final)
    }
}

/// Leaves out steps while the script still fails; the failure of what is left.
pub(crate) fn minimise(
    script: &Script,
    check: impl Fn(&Script) -> Result<(), String>,
) -> Result<(), String> {
    let Err(mut failure) = check(script) else {
        return Ok(());
    };
    let mut least = script.clone();
    let mut chunk = least.steps.len().div_ceil(2);
    loop {
        let mut at = 0;
        let before = least.steps.len();
        while at < least.steps.len() {
            let mut shorter = least.clone();
            shorter.steps.drain(at..(at + chunk).min(shorter.steps.len()));
            match check(&shorter) {
                Err(other) => (least, failure) = (shorter, other),
                Ok(()) => at += chunk,
            }
        }
        if chunk == 1 && least.steps.len() == before {
            return Err(format!("{failure}\n{least}"));
        }
        chunk = (chunk / 2).max(1);
    }
}

/// The log in another order that means the same: every message has the verdict that it had, and
/// messages of one source and time keep their order.
pub(crate) fn shuffled(
    log: &[Message],
    lateness_us: &[i64],
    is_dead: &dyn Fn(&Event) -> bool,
    random: &mut Random,
) -> Vec<Message> {
    let verdicts = |log: &[Message]| -> Vec<(u8, Option<i64>)> {
        let mut judge = Judge::new(lateness_us);
        let verdict = |message| match judge.judge(message, is_dead) {
            Verdict::Accepted(event) => (0, Some(event.timestamp_us)),
            Verdict::Late(event) => (1, Some(event.timestamp_us)),
            Verdict::Dead => (2, None),
        };
        log.iter().map(verdict).collect()
    };
    let before = verdicts(log);
    // Positions in the log as it was.
    let mut order: Vec<usize> = (0..log.len()).collect();
    let is_late = |order: &[usize]| -> Vec<bool> {
        let mut largest_us = vec![None; lateness_us.len()];
        let late = |&index: &usize| {
            let (Some(time_us), source) = (before[index].1, log[index].source) else {
                return false;
            };
            match largest_us[source] {
                Some(largest) if time_us < largest - lateness_us[source] => true,
                _ => {
                    largest_us[source] = largest_us[source].max(Some(time_us));
                    false
                }
            }
        };
        order.iter().map(late).collect()
    };
    for _ in 0..2 * log.len() {
        let at = random.below(log.len().max(2) - 1);
        if at + 1 >= order.len() {
            break;
        }
        let (a, b) = (order[at], order[at + 1]);
        if log[a].source == log[b].source && before[a].1 == before[b].1 {
            continue;
        }
        order.swap(at, at + 1);
        let same = |(index, late): (&usize, bool)| (before[*index].0 == 1) == late;
        if !order.iter().zip(is_late(&order)).all(same) {
            order.swap(at, at + 1);
        }
    }
    order.into_iter().map(|index| log[index].clone()).collect()
}

/// Event times as logs have them: onward, out of order, late, equal, and on the edges of windows.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    zone: Tz,
    lateness_us: i64,
    scale_us: i64,
    largest_us: i64,
    last_us: i64,
}

/// Moments around which something happens: clocks set forward and back, ends of months and years,
/// midnights of zones, the epoch and the time before it.
const ANCHORS: [&str; 12] = [
    "2026-03-29T00:59:50Z",
    "2026-10-25T00:30:00Z",
    "2026-10-24T21:59:00Z",
    "2026-03-08T06:59:50Z",
    "2026-11-01T05:30:00Z",
    "2024-02-29T23:59:30Z",
    "2026-02-28T23:50:00Z",
    "2026-12-31T22:59:59Z",
    "2026-11-20T18:29:59Z",
    "1970-01-01T00:00:00Z",
    "1969-07-20T20:17:40Z",
    "2026-11-22T23:59:59Z",
];

impl Timeline {
    /// A timeline that begins at one of the moments where something happens.
    pub(crate) fn new(random: &mut Random, zone: Tz, lateness_us: i64) -> Self {
        let anchor: &str = random.pick(&ANCHORS);
        let anchor = DateTime::parse_from_rfc3339(anchor).expect("a time");
        let scales = [1_000_000, 20_000_000, 300_000_000, 3_600_000_000, 43_200_000_000];
        let scale_us = random.pick(&scales);
        let begin_us = anchor.timestamp_micros() - random.below_i64(scale_us);
        Self { zone, lateness_us, scale_us, largest_us: begin_us, last_us: begin_us }
    }

    /// A timeline per source, with one beginning.
    pub(crate) fn each(random: &mut Random, zone: Tz, lateness_us: &[i64]) -> Vec<Self> {
        let first = Self::new(random, zone, lateness_us[0]);
        lateness_us.iter().map(|&lateness_us| Self { lateness_us, ..first.clone() }).collect()
    }

    /// The next time.
    pub(crate) fn next(&mut self, random: &mut Random) -> i64 {
        let now_us = self.largest_us;
        let time_us = match random.below(22) {
            0..=5 => now_us + random.below_i64(self.scale_us),
            6..=8 => now_us + random.below_i64(1_000_000),
            9..=13 => now_us - random.below_i64(self.lateness_us + 1),
            14 => now_us - self.lateness_us,
            15 => now_us - self.lateness_us - 1,
            16 => now_us - self.lateness_us - 1 - random.below_i64(self.scale_us),
            17 => self.last_us,
            18 => now_us,
            19 => now_us + 10 * random.below_i64(self.scale_us),
            _ => self.edge(random),
        };
        self.largest_us = self.largest_us.max(time_us);
        self.last_us = time_us;
        time_us
    }

    /// The next edge of a window, or the microsecond before or after it.
    fn edge(&self, random: &mut Random) -> i64 {
        let windows: &[&str] = match self.scale_us {
            ..10_000_000 => &["1m"],
            10_000_000..1_000_000_000 => &["1m", "15m", "1h"],
            _ => &["1h", "1d", "1d", "1w", "1mo"],
        };
        let granularity: &str = random.pick(windows);
        let (_, end_us) = naive::window(granularity, self.zone, self.largest_us);
        end_us + random.pick(&[0, 0, -1, 1])
    }

    /// A time as an event may carry it, in JSON.
    pub(crate) fn spell(time_us: i64, random: &mut Random) -> String {
        let time = DateTime::from_timestamp_micros(time_us).expect("a time");
        let rfc = |hours| {
            let zone = FixedOffset::east_opt(hours * 1_800).expect("an offset");
            format!("\"{}\"", time.with_timezone(&zone).format("%Y-%m-%dT%H:%M:%S%.6f%:z"))
        };
        // Small integers mean something else.
        let is_plain = time_us < 200_000_000_000_000;
        match random.below(6) {
            0 if !is_plain => time_us.to_string(),
            1 if !is_plain => (time_us * 1_000 + random.below_i64(1_000)).to_string(),
            2 if !is_plain && time_us % 1_000_000 == 0 => (time_us / 1_000_000).to_string(),
            3 => rfc(random.pick(&[-10, 4, 11, 24])),
            4 => format!("\"{}\"", time.format("%Y-%m-%d %H:%M:%S%.6f")),
            _ => format!("\"{}\"", naive::time_text(time_us)),
        }
    }
}
