//! Stand-ins for inputs that have errors of their own, so that what reads them is checked as well
//! and one `check` shows everything.

use std::sync::Arc;

use waterwheel_config::schema::{Finality, Schema};
use waterwheel_config::section::Section;

use super::InputRef;
use crate::contract::event::raw_schema;
use crate::contract::sink::{InputRole, SinkInput};

/// What is known of an input while what reads it is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Everything.
    Planned(InputRef),
    /// It is a source, with errors in its settings. Its events have the fields of any other's.
    UnplannedSource,
    /// It is an operator with errors, or nothing in this file. Nobody knows its columns.
    Unplanned,
}

impl Known {
    pub(super) fn planned(self) -> Option<InputRef> {
        match self {
            Self::Planned(input) => Some(input),
            Self::UnplannedSource | Self::Unplanned => None,
        }
    }
}

/// What a sink is told of such an input.
pub(super) fn sink_input(name: &str, known: Known) -> SinkInput {
    let (role, schema) = match known {
        Known::UnplannedSource => (InputRole::RawEvents, raw_schema()),
        _ => (InputRole::Operator, Arc::new(no_columns())),
    };
    SinkInput { name: name.to_owned(), role, schema, granularities: Vec::new() }
}

fn no_columns() -> Schema {
    Schema {
        columns: Vec::new(),
        key: Vec::new(),
        finality: Finality::Immediate,
        append_only: false,
        time: None,
    }
}

/// The settings whose values speak of the columns of inputs.
const SPEAK_OF_COLUMNS: [&str; 5] = ["from", "time", "partition", "subject", "retain"];

/// Forgets the findings from the index on that may only come from not knowing the columns.
pub(super) fn forget_guesses(section: &Section<'_>, from: usize) {
    let guessed: Vec<_> = SPEAK_OF_COLUMNS
        .iter()
        .filter(|key| section.has(key))
        .flat_map(|key| section.value_span(key).into_iter().chain([section.key_span(key)]))
        .collect();
    section.findings().retain_from(from, |finding| {
        !guessed.iter().any(|span| span.start <= finding.span.start && finding.span.end <= span.end)
    });
}
