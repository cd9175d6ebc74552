//! The messages of a commit, one per changed row, made as they are published.

use std::sync::Arc;

use async_nats::HeaderMap;
use bytes::Bytes;
use waterwheel_config::schema::Schema;
use waterwheel_config::value::{Row, Value, format_timestamp};
use waterwheel_pipeline::contract::epoch::{EpochRecord, FINAL_WATERMARK, NO_WATERMARK, Progress};
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
    /// The columns that are NULL here because the message would be too large, with commas.
    pub(super) left_out: Option<String>,
    /// The row's key, for the person who must act on it.
    pub(super) key: String,
    /// True if it takes its key out of a bucket.
    pub(super) is_marker: bool,
}

/// What a message holds of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The columns, and `op`: readers are told of every change.
    Change,
    /// The columns: a bucket keeps them, and forgets a key by a marker.
    Entry,
}

/// The messages of a commit, in the order of the inputs, deletes before upserts.
pub(super) struct Messages<'c> {
    rows: Box<dyn Iterator<Item = (usize, &'c str, &'c Row)> + Send + 'c>,
    len: usize,
    inputs: &'c [SinkInput],
    templates: &'c [Template],
    form: Form,
    headers: Arc<[(&'static str, String)]>,
    id_prefix: String,
    size_bytes_max: usize,
}

impl<'c> Messages<'c> {
    /// Messages of at most so many bytes, as far as their keys allow. `since` is the progress that the
    /// commit moves on from.
    ///
    /// What may be taken for a repetition is the same step once more, with the same beginning and end,
    /// and nothing else: after a crash a commit may stop halfway to where the one before it ended, and
    /// then the rows of the second half, which are there already, must win over those of the first.
    pub(super) fn new(
        context: &'c SinkContext,
        templates: &'c [Template],
        form: Form,
        (since, commit): (Option<&Progress>, &'c Commit),
        size_bytes_max: usize,
    ) -> Self {
        let rows = commit.changes.iter().enumerate().flat_map(|(input, changes)| {
            let Changes { upserts, deletes, .. } = changes;
            let deletes = deletes.iter().map(move |row| (input, "delete", row));
            deletes.chain(upserts.iter().map(move |row| (input, "upsert", row)))
        });
        let record = &commit.progress.record;
        let of = |progress: &Progress| place(&progress.record, progress.finished);
        let (begin, end) = (since.map_or(0, of), of(&commit.progress));
        Self {
            rows: Box::new(rows),
            len: commit.changes.iter().map(Changes::len).sum(),
            inputs: &context.inputs,
            templates,
            form,
            headers: headers(record).into(),
            id_prefix: format!("{}.{}.{begin:016x}.{end:016x}", context.pipeline, context.sink),
            size_bytes_max,
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
        let is_marker = self.form == Form::Entry && op == "delete";
        let op = (self.form == Form::Change).then_some(op);
        let mut payload = match is_marker {
            true => String::new(),
            false => write_payload(&input.schema, op, row),
        };
        let mut left_out = None;
        if payload.len() > self.size_bytes_max {
            let shorter = fit(&input.schema, op, row, self.size_bytes_max);
            (payload, left_out) = (shorter.0, Some(shorter.1));
        }
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
            left_out,
            key,
            is_marker,
        })
    }
}

fn write_payload(schema: &Schema, op: Option<&str>, row: &Row) -> String {
    let mut payload = String::with_capacity(256);
    payload.push('{');
    if let Some(op) = op {
        payload.push_str("\"op\":\"");
        payload.push_str(op);
        payload.push_str("\",");
    }
    write_row(schema, row, &mut payload);
    payload.push('}');
    payload
}

/// A row without its longest texts, as NULL, so that it fits; and the names of their columns. A
/// message of its source may be as large as a message can be, and must not stop the pipeline.
fn fit(schema: &Schema, op: Option<&str>, row: &Row, size_bytes_max: usize) -> (String, String) {
    let mut values = row.values().to_vec();
    let mut sizes: Vec<(usize, usize)> = values
        .iter()
        .enumerate()
        .filter_map(|(column, value)| Some((value.written()?.len(), column)))
        .filter(|(_, column)| !schema.key.contains(column))
        .collect();
    sizes.sort_unstable();
    let mut names = Vec::new();
    let mut payload = write_payload(schema, op, row);
    while payload.len() > size_bytes_max
        && let Some((_, column)) = sizes.pop()
    {
        values[column] = Value::Null;
        // A trace goes on behind the columns.
        names.extend(schema.columns.get(column).map(|column| column.name.as_str()));
        payload = write_payload(schema, op, &values.iter().cloned().collect());
    }
    // They become a header, of one line.
    (payload, names.join(",").replace(['\r', '\n'], " "))
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

#[cfg(test)]
mod tests {
    use super::*;
    use waterwheel_config::schema::{Column, Finality};
    use waterwheel_config::value::ColumnType;

    #[test]
    fn what_does_not_fit_is_left_out_the_longest_first() {
        let column = |name| Column::new(name, ColumnType::Text);
        let schema = Schema {
            columns: ["key", "short", "long", "longer"].map(column).to_vec(),
            key: vec![0],
            finality: Finality::Immediate,
            append_only: true,
            time: None,
        };
        let texts = [(90, "k"), (20, "s"), (50, "l"), (80, "m")];
        let row: Row = texts.iter().map(|(size, text)| Value::text(&text.repeat(*size))).collect();
        for (size_bytes_max, left_out, is_fitting) in
            [(250, "longer", true), (200, "longer,long", true), (60, "longer,long,short", false)]
        {
            let (payload, names) = fit(&schema, Some("upsert"), &row, size_bytes_max);
            assert_eq!(names, left_out, "{payload}");
            assert_eq!(payload.len() <= size_bytes_max, is_fitting, "{payload}");
            let written: serde_json::Value = serde_json::from_str(&payload).unwrap();
            assert_eq!(written["key"], "k".repeat(90));
            let nulls = left_out.split(',').all(|name| written[name].is_null());
            assert!(nulls && written.as_object().unwrap().len() == 5, "{payload}");
        }
    }
}
