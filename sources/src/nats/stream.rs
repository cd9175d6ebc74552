//! Whether a stream is still the one that was read, and where to begin in it.
//!
//! A server takes any start for good: one that is purged moves to the first message left, one
//! beyond the end waits for ever, and a restored backup gives old sequences to new messages. So the
//! stream is compared with the position at every start and after every reconnect.

use std::collections::VecDeque;

use waterwheel_config::value::format_timestamp;
use waterwheel_pipeline::contract::batch::RawBatch;
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::nats::api::{Api, STREAM_NOT_FOUND, StreamInfo};
use waterwheel_pipeline::contract::position::{
    Gap, Position, fingerprint, join_gaps, outside_gaps,
};

use super::retention::Retention;
use super::{Settings, Start};

pub(super) const START_OVER: &str = "what the sinks hold rests on messages that this stream does not have: \
    restore the stream as it was, or start over under another `name` with empty sinks";

/// The stream's state; a missing stream stops.
pub(super) async fn info(api: &Api, stream: &str) -> Result<StreamInfo, Fault> {
    api.stream_info(stream).await.map_err(|error| {
        if error.err_code() == STREAM_NOT_FOUND {
            return Fault::stop(format!("there is no stream {stream}")).help(format!(
                "waterwheel never creates a stream: `nats stream add {stream}`, or correct `stream`"
            ));
        }
        error.fault(&format!("stream {stream}"))
    })
}

/// Halts unless the stream still holds what the position was taken from, and everything behind it.
///
/// `clear_through` is a sequence up to which, as far as the filter goes, nothing lies behind the
/// position: what is gone there was never to be read.
pub(super) async fn verify(
    api: &Api,
    settings: &Settings,
    retention: &Retention,
    position: &Position,
    anchors: &Anchors,
    clear_through: u64,
) -> Result<StreamInfo, Fault> {
    let info = info(api, &position.stream).await?;
    check_identity(&info, position)?;
    let read = position.ordinal.max(clear_through);
    if let Some(gap) = retention.gap(settings, read, info.first_seq) {
        return Err(gone(&info, gap));
    }
    check_anchors(api, &info, position, anchors).await?;
    failpoint::reach("nats.source.verified");
    Ok(info)
}

/// Halts unless the last message that was read and is still there is what it was.
async fn check_anchors(
    api: &Api,
    info: &StreamInfo,
    position: &Position,
    anchors: &Anchors,
) -> Result<(), Fault> {
    if check_message(api, info, position.ordinal, position.fingerprint).await? {
        return Ok(());
    }
    for (sequence, fingerprint) in anchors.newest_first() {
        if sequence < position.ordinal && check_message(api, info, sequence, fingerprint).await? {
            break;
        }
    }
    Ok(())
}

/// Messages that were read, by which a stream is known again where the last one of them is gone: a
/// few of the last batches, closer to each other towards the end of each.
#[derive(Clone, Debug, Default)]
pub(super) struct Anchors(VecDeque<(u64, u64)>);

/// How many messages are remembered.
const ANCHORS_MAX: usize = 48;

impl Anchors {
    /// Remembers messages of a batch that was handed on.
    pub(super) fn note(&mut self, batch: &RawBatch) {
        let count = batch.messages.len();
        let back = std::iter::successors(Some(1), |back| Some(back * 2));
        let mut places: Vec<usize> = back.map_while(|back| count.checked_sub(back)).collect();
        places.reverse();
        for message in places.into_iter().filter_map(|place| batch.messages.get(place)) {
            let payload = batch.bytes(&message.payload);
            self.0.push_back((message.ordinal, fingerprint(message.received_at_us, payload)));
        }
        self.0.drain(..self.0.len().saturating_sub(ANCHORS_MAX));
    }

    fn newest_first(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().rev().copied()
    }
}

/// Where to go on reading: the position, or behind what is gone since and was accepted as gone, now
/// or by an earlier run. Halts as [`verify`] does.
pub(super) async fn resume(
    api: &Api,
    info: &StreamInfo,
    settings: &Settings,
    retention: &Retention,
    position: &Position,
    anchors: &Anchors,
    clear_through: u64,
) -> Result<Position, Fault> {
    check_identity(info, position)?;
    check_anchors(api, info, position, anchors).await?;
    failpoint::reach("nats.source.verified");
    match retention.gap(settings, position.ordinal.max(clear_through), info.first_seq) {
        None => Ok(position.clone()),
        Some(gap) => settings.pass(info, position, gap),
    }
}

/// What is gone between the last message that was read, or need not be, and the first one left.
pub(super) fn gap_behind(read: u64, first_seq: u64) -> Option<Gap> {
    let gap = Gap { from: read + 1, to: first_seq.saturating_sub(1) };
    (gap.from <= gap.to && !failpoint::has_bug("gap-unchecked")).then_some(gap)
}

impl Settings {
    /// The position behind a gap, with the gap recorded, if all of it was accepted.
    pub(super) fn pass(
        &self,
        info: &StreamInfo,
        position: &Position,
        gap: Gap,
    ) -> Result<Position, Fault> {
        let missing = outside_gaps(gap, &position.gaps);
        if !missing.iter().all(|gap| self.accepted_gaps.contains(gap)) {
            return Err(self.refuse(info, gap, &missing));
        }
        for gap in &missing {
            tracing::warn!(
                source = %self.name,
                stream = %info.name,
                "going on without {} messages that were never read, as accepted: {gap}",
                gap.count()
            );
        }
        Ok(Position {
            ordinal: gap.to,
            // Nothing was read there.
            fingerprint: 0,
            gaps: join_gaps(position.gaps.iter().copied().chain(missing)),
            ..position.clone()
        })
    }

    fn refuse(&self, info: &StreamInfo, gap: Gap, missing: &[Gap]) -> Fault {
        let flags: Vec<String> =
            missing.iter().map(|gap| format!("--accept-gap {}:{gap}", self.name)).collect();
        let mut fault = gone(info, gap);
        if !self.accepted_gaps.is_empty() {
            let accepted: Vec<String> = self.accepted_gaps.iter().map(Gap::to_string).collect();
            fault.message.push_str(&format!(
                "; that is not what --accept-gap names: {}",
                accepted.join(", ")
            ));
        }
        fault.help(format!(
            "{REMOVED}. Restore them from a backup of the stream; or start over under another \
             `name` with empty sinks; or go on without them for good, which every sink records: \
             waterwheel run FILE {}",
            flags.join(" ")
        ))
    }
}

/// Halts if the stream is another one, or ends before the position.
pub(super) fn check_identity(info: &StreamInfo, position: &Position) -> Result<(), Fault> {
    let name = &info.name;
    if position.stream != *name {
        return Err(Fault::halt(format!(
            "the progress is of stream {}, and the deployment names stream {name}",
            position.stream
        ))
        .help("give the source its old stream back, or start over under another `name`"));
    }
    let bug = failpoint::has_bug("anchor-unchecked");
    if position.created != info.created_ns && !bug {
        let time = |ns: i64| format_timestamp(ns.div_euclid(1000));
        return Err(Fault::halt(format!(
            "stream {name} was deleted and created again: the progress is of the one created at {}, this one was created at {}",
            time(position.created),
            time(info.created_ns)
        ))
        .help(START_OVER));
    }
    if info.last_seq < position.ordinal {
        return Err(Fault::halt(format!(
            "stream {name} lost messages at its end: {} was read up to, and it now ends at {}",
            position.ordinal, info.last_seq
        ))
        .help(START_OVER));
    }
    Ok(())
}

const REMOVED: &str = "limits of the stream (max_age, max_bytes, max_msgs) or a purge removed them, \
    and every result that rests on them would be too small";

/// Messages are gone that were not read.
pub(super) fn gone(info: &StreamInfo, gap: Gap) -> Fault {
    let count = gap.count();
    let noun = if count == 1 { "message that is" } else { "messages that are" };
    Fault::halt(format!(
        "stream {} no longer holds {count} {noun} still to be read: {} to {}",
        info.name, gap.from, gap.to
    ))
    .help(format!(
        "{REMOVED}. Raise the limits if the pipeline is too slow for them; then start it again: it \
         says what is missing from where it resumes, and what can be done"
    ))
}

/// Halts unless a message that a sink has seen is still what it was.
pub(super) async fn check_seen(api: &Api, position: &Position) -> Result<(), Fault> {
    let info = info(api, &position.stream).await?;
    check_identity(&info, position)?;
    check_fingerprint(api, &info, position).await
}

async fn check_fingerprint(api: &Api, info: &StreamInfo, position: &Position) -> Result<(), Fault> {
    check_message(api, info, position.ordinal, position.fingerprint).await.map(|_| ())
}

/// Halts if another message is where one was read; false if none is.
async fn check_message(
    api: &Api,
    info: &StreamInfo,
    sequence: u64,
    fingerprint_read: u64,
) -> Result<bool, Fault> {
    let bug = failpoint::has_bug("anchor-unchecked");
    if fingerprint_read == 0 || sequence < info.first_seq || bug {
        return Ok(false);
    }
    let stored = api
        .message(&info.name, sequence)
        .await
        .map_err(|error| error.fault(&format!("stream {}", info.name)))?;
    // A message that was deleted by itself says nothing about its neighbours.
    let Some(stored) = stored else { return Ok(false) };
    let found = fingerprint(Some(stored.time_ns.div_euclid(1000)), &stored.payload);
    if found == fingerprint_read {
        return Ok(true);
    }
    Err(Fault::halt(format!(
        "stream {} was rewritten: message {sequence} is not the one that was read",
        info.name
    ))
    .help(START_OVER))
}

/// The position before the first message to read, where there is no progress.
pub(super) async fn begin(
    api: &Api,
    info: &StreamInfo,
    settings: &Settings,
) -> Result<Position, Fault> {
    let name = &info.name;
    let ordinal = match settings.start {
        Start::First => info.first_seq - 1,
        Start::New => info.last_seq,
        Start::Sequence(sequence) if sequence > info.last_seq + 1 => {
            return Err(Fault::stop(format!(
                "`start` is {sequence}, and stream {name} ends at {}",
                info.last_seq
            ))
            .help("write `start = \"new\"` to begin with what comes next"));
        }
        Start::Sequence(sequence) => sequence - 1,
        Start::Time(micros) => last_before(api, info, micros).await?,
    };
    let (stream, created, gaps) = (name.clone(), info.created_ns, Vec::new());
    let position = Position { stream, created, ordinal, fingerprint: 0, gaps, messages: 0 };
    // Only a sequence can lie before what is there.
    match gap_behind(ordinal, info.first_seq) {
        None => Ok(position),
        Some(gap) => settings.pass(info, &position, gap).map_err(|fault| {
            let help = fault.help.clone().unwrap_or_default();
            fault
                .within(format!("`start` is {}", gap.from))
                .help(format!("{help}; or begin with what is there: start = \"first\""))
        }),
    }
}

/// The sequence of the last message before a time. The server would look for it too, but gives the
/// beginning for a time behind the end.
async fn last_before(api: &Api, info: &StreamInfo, micros: i64) -> Result<u64, Fault> {
    let what = format!("stream {}: looking for `start`", info.name);
    // Everything before `from` is too early; everything from `to` on is not, or is not there.
    let (mut from, mut to) = (info.first_seq, info.last_seq + 1);
    while from < to {
        let middle = from + (to - from) / 2;
        let found = api
            .message_at_or_after(&info.name, middle)
            .await
            .map_err(|error| error.fault(&what))?;
        match found {
            Some(message) if message.time_ns.div_euclid(1000) < micros => {
                from = message.sequence + 1;
            }
            _ => to = middle,
        }
    }
    Ok(from - 1)
}
