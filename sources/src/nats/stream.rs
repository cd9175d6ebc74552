//! Whether a stream is still the one that was read, and where to begin in it.
//!
//! A server takes any start for good: one that is purged moves to the first message left, one
//! beyond the end waits for ever, and a restored backup gives old sequences to new messages. So the
//! stream is compared with the position at every start and after every reconnect.

use waterwheel_config::value::format_timestamp;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::nats::api::{Api, STREAM_NOT_FOUND, StreamInfo};
use waterwheel_pipeline::contract::position::{Position, fingerprint};

use super::Start;

const START_OVER: &str =
    "restore the stream as it was, or start over under another `name` with empty sinks";

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

/// Refuses what cannot be read without being consumed.
pub(super) fn check_retention(info: &StreamInfo) -> Result<(), Fault> {
    match info.config["retention"].as_str() {
        None | Some("limits") => Ok(()),
        Some(other) => Err(Fault::stop(format!(
            "stream {} has {other} retention, and this version reads streams with limits retention only",
            info.name
        ))
        .help("let a stream with limits retention source this one, and read that")),
    }
}

/// Halts unless the stream still holds what the position was taken from, and everything behind it.
///
/// `clear_through` is a sequence up to which, as far as the filter goes, nothing lies behind the
/// position: what is gone there was never to be read.
pub(super) async fn verify(
    api: &Api,
    position: &Position,
    clear_through: u64,
) -> Result<StreamInfo, Fault> {
    let info = info(api, &position.stream).await?;
    check_identity(&info, position)?;
    let next = position.ordinal.max(clear_through) + 1;
    if info.first_seq > next {
        return Err(gone(&info, position.ordinal + 1, info.first_seq));
    }
    check_fingerprint(api, &info, position).await?;
    Ok(info)
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
    if position.created != info.created_ns {
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

/// Messages from `from` to before `to` are gone, and were not read.
pub(super) fn gone(info: &StreamInfo, from: u64, to: u64) -> Fault {
    let count = to.saturating_sub(from);
    Fault::halt(format!(
        "stream {} no longer holds {count} messages that were not read: {from} to {}",
        info.name,
        to.saturating_sub(1)
    ))
    .help(
        "its limits or a purge removed them: raise max_age, max_bytes or max_msgs; to go on without \
         them, start over under another `name`",
    )
}

async fn check_fingerprint(api: &Api, info: &StreamInfo, position: &Position) -> Result<(), Fault> {
    if position.fingerprint == 0 || position.ordinal < info.first_seq {
        return Ok(());
    }
    let stored = api
        .message(&info.name, position.ordinal)
        .await
        .map_err(|error| error.fault(&format!("stream {}", info.name)))?;
    // A message that was deleted by itself says nothing about its neighbours.
    let Some(stored) = stored else { return Ok(()) };
    let found = fingerprint(Some(stored.time_ns.div_euclid(1000)), &stored.payload);
    if found == position.fingerprint {
        return Ok(());
    }
    Err(Fault::halt(format!(
        "stream {} was rewritten: message {} is not the one that was read",
        info.name, position.ordinal
    ))
    .help(START_OVER))
}

/// The position before the first message to read, where there is no progress.
pub(super) async fn begin(api: &Api, info: &StreamInfo, start: Start) -> Result<Position, Fault> {
    let name = &info.name;
    let ordinal = match start {
        Start::First => info.first_seq - 1,
        Start::New => info.last_seq,
        Start::Sequence(sequence) if sequence < info.first_seq => {
            return Err(Fault::stop(format!(
                "`start` is {sequence}, and stream {name} begins at {}",
                info.first_seq
            ))
            .help("write `start = \"first\"` to begin with what is there"));
        }
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
    let stream = name.clone();
    Ok(Position { stream, created: info.created_ns, ordinal, fingerprint: 0 })
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
