//! The messages of a commit, one per changed row, made as they are published.

use std::sync::Arc;

use async_nats::HeaderMap;
use bytes::Bytes;
use waterwheel_config::value::{Row, format_timestamp};
use waterwheel_pipeline::contract::epoch::{EpochRecord, FINAL_WATERMARK, NO_WATERMARK};
use waterwheel_pipeline::contract::event::traceparent;
use waterwheel_pipeline::contract::sink::{Changes, Commit, SinkContext, SinkInput};
use xxhash_rust::xxh3::xxh3_64;

use super::template::Template;
use crate::json::write_row;

/// One message, ready to be published.
pub(super) struct Outgoing {
    pub(super) subject: String,
    pub(super) payload: Bytes,
    /// The same for the same change of the same commit, so that a repetition is recognised.
    pub(super) id: String,
    /// The trace of the message that caused the row, where there is just one.
    pub(super) traceparent: Option<String>,
    /// The row's key, for the person who must act on it.
    pub(super) key: String,
}

/// The messages of a commit, in the order of the inputs, deletes before upserts.
pub(super) struct Messages<'c> {
    rows: Box<dyn Iterator<Item = (usize, &'c str, &'c Row)> + Send + 'c>,
    len: usize,
    inputs: &'c [SinkInput],
    templates: &'c [Template],
    headers: Arc<[(&'static str, String)]>,
    id_prefix: String,
}

impl<'c> Messages<'c> {
    pub(super) fn new(
        context: &'c SinkContext,
        templates: &'c [Template],
        commit: &'c Commit,
    ) -> Self {
        let rows = commit.changes.iter().enumerate().flat_map(|(input, changes)| {
            let Changes { upserts, deletes } = changes;
            let deletes = deletes.iter().map(move |row| (input, "delete", row));
            deletes.chain(upserts.iter().map(move |row| (input, "upsert", row)))
        });
        let record = &commit.progress.record;
        let place = place(record, commit.progress.finished);
        Self {
            rows: Box::new(rows),
            len: commit.changes.iter().map(|it| it.upserts.len() + it.deletes.len()).sum(),
            inputs: &context.inputs,
            templates,
            headers: headers(record).into(),
            id_prefix: format!("{}.{}.{place:016x}", context.pipeline, context.sink),
        }
    }

    /// How many there are in all.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Passes over the first ones, which are in already.
    pub(super) fn skip(&mut self, count: usize) {
        if count > 0 {
            self.rows.nth(count - 1);
        }
    }

    /// The next ones, at most `count`, and the headers that all have.
    pub(super) fn take(&mut self, count: usize) -> (Vec<Outgoing>, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers.iter() {
            headers.insert(*name, value.as_str());
        }
        let mut taken = Vec::with_capacity(count.min(self.len));
        while taken.len() < count {
            let Some((input, op, row)) = self.rows.next() else { break };
            taken.extend(self.message(input, op, row));
        }
        (taken, headers)
    }

    fn message(&self, index: usize, op: &str, row: &Row) -> Option<Outgoing> {
        let (input, template) = (self.inputs.get(index)?, self.templates.get(index)?);
        let mut payload = String::with_capacity(256);
        payload.push_str("{\"op\":\"");
        payload.push_str(op);
        payload.push_str("\",");
        write_row(&input.schema, row, &mut payload);
        payload.push('}');
        let key: Vec<String> = row.key(&input.schema.key).map(|value| value.to_plain()).collect();
        let key = key.join("|");
        let subject = template.subject(row);
        // With the content: another configuration gives other rows at the same place.
        let id = xxh3_64(format!("{}\n{subject}\n{payload}", input.name).as_bytes());
        Some(Outgoing {
            subject,
            payload: payload.into(),
            id: format!("{}.{id:016x}", self.id_prefix),
            traceparent: traceparent(row, &input.schema).map(str::to_owned),
            key,
        })
    }
}

/// A hash of where in its inputs a commit stands. Epochs are of a generation alone, and positions
/// stay where they are when windows close at the end of the input; together with the watermarks
/// they are the same again in a repetition, and in nothing else.
fn place(record: &EpochRecord, finished: bool) -> u64 {
    let mut text = String::new();
    for (source, position) in &record.positions {
        text.push_str(&format!("{source} {} {} ", position.created, position.ordinal));
    }
    for (source, watermark) in &record.watermarks {
        text.push_str(&format!("{source} {watermark} "));
    }
    text.push_str(if finished { "finished" } else { "running" });
    xxh3_64(text.as_bytes())
}

fn headers(record: &EpochRecord) -> Vec<(&'static str, String)> {
    let mut headers = vec![("Waterwheel-Epoch", record.epoch.to_string())];
    match record.watermark() {
        NO_WATERMARK => {}
        FINAL_WATERMARK => headers.push(("Waterwheel-Watermark", "final".to_owned())),
        micros => headers.push(("Waterwheel-Watermark", format_timestamp(micros))),
    }
    headers
}
