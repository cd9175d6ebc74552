//! Reads the keys that all sources share.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use waterwheel_config::section::Section;
use waterwheel_config::units::SECOND_US;

use super::declared;
use super::tables::chosen_kind;
use crate::contract::catalog::Catalog;
use crate::contract::event::Projection;
use crate::contract::mapping::{EventFormat, EventMapping};
use crate::contract::source::{SourceSpec, Until};
use crate::runtime::decode::EventSettings;

/// Where the deployment does not say: events may come half a minute out of order.
const LATENESS_DEFAULT_US: i64 = 30 * SECOND_US;
const BYTES_MAX_DEFAULT: u64 = 1 << 20;

/// Where the deployment does not say: so far ahead of another source is one read.
const SKEW_MAX_DEFAULT_US: i64 = 10 * 60 * SECOND_US;

/// The server that a source reads from says every second that nothing has come.
const IDLE_AFTER_LEAST_US: i64 = SECOND_US;

/// What a source must know of what stands beside it.
#[derive(Clone, Copy)]
pub(super) struct Beside {
    /// There is no other source.
    pub(super) is_alone: bool,
    /// There is a place for checkpoints, and so for what the clock decides.
    pub(super) keeps_checkpoints: bool,
    /// The tests of the deployment are run: its logs are in memory.
    pub(super) is_rehearsal: bool,
}

/// A source while the operators that read it are planned.
pub(super) struct SourceDraft {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) spec: Box<dyn SourceSpec>,
    pub(super) until: Until,
    pub(super) settings: EventSettings,
    pub(super) idle_after_us: Option<i64>,
    pub(super) skew_max_us: i64,
    /// Grows with every field that an operator or a sink names.
    pub(super) projection: Rc<RefCell<Projection>>,
    pub(super) meaning: String,
}

/// Plans one source; its index is its place in the file.
pub(super) fn plan_source(
    section: Section<'_>,
    name: &str,
    index: u16,
    beside: Beside,
    catalog: &Catalog,
) -> Option<SourceDraft> {
    let names: Vec<&'static str> = catalog.sources.iter().map(|kind| kind.name).collect();
    let chosen = chosen_kind(&section, &names);
    let kind = catalog.sources.iter().find(|kind| Some(kind.name) == chosen);
    let Some(kind) = kind else {
        section.abandon();
        return None;
    };
    let until = match section.choice("until", &["forever", "end", "final"]).map(|until| until.value)
    {
        Some("forever") => Until::Forever,
        Some("end") => Until::End,
        Some("final") => Until::Final,
        _ => (kind.default_until)(&section),
    };
    let lateness_us =
        section.duration("lateness").map_or(LATENESS_DEFAULT_US, |lateness| lateness.value);
    let future_max_us = section.duration("max_future").map_or(lateness_us, |future| future.value);
    let bytes_max = section.size("max_bytes").map_or(BYTES_MAX_DEFAULT, |size| size.value);
    let format = EventFormat::read(&section);
    let mapping = EventMapping::read(&section, format);
    let types = declared::types(&section, format);
    let schemas = declared::schemas(&section);
    let skew_max_us = section.duration("max_skew").map_or(SKEW_MAX_DEFAULT_US, |skew| skew.value);
    let spec = match beside.is_rehearsal {
        // What only says where the log is, nobody needs.
        true => section.with_stand_in_variables(|section| (kind.plan)(section)),
        false => (kind.plan)(&section),
    };
    let idle_after_us = idle_after(&section, spec.as_deref(), kind.name, beside);
    if beside.is_alone && section.has("max_skew") {
        warn_of_one(&section, "max_skew");
    }
    section.finish();
    let spec = spec?;
    let settings = EventSettings {
        name: name.to_owned(),
        index,
        mapping,
        schemas: Arc::new(schemas),
        bytes_max,
        future_max_us,
        lateness_us,
    };
    let projection = Projection { format, types, ..Projection::default() };
    let meaning = source_meaning(kind.name, &settings, &*spec);
    Some(SourceDraft {
        name: name.to_owned(),
        kind: kind.name,
        spec,
        until,
        settings,
        idle_after_us,
        skew_max_us,
        projection: Rc::new(RefCell::new(projection)),
        meaning,
    })
}

/// After how long a silence others no longer wait for the source.
fn idle_after(
    section: &Section<'_>,
    spec: Option<&dyn SourceSpec>,
    kind: &str,
    beside: Beside,
) -> Option<i64> {
    let is_never_silent = spec.is_some_and(|spec| !spec.can_be_silent());
    if is_never_silent && !section.has("idle_after") {
        return None;
    }
    let after = section.duration("idle_after")?;
    let findings = section.findings();
    if is_never_silent {
        findings.error_help(
            section.key_span("idle_after"),
            format!("a source of type `{kind}` is never silent: `idle_after` has no meaning"),
            "leave it out: such a source comes to its end, and then nothing waits for it",
        );
    } else if after.value < IDLE_AFTER_LEAST_US {
        findings.error(after.span, "`idle_after` must be 1s or more");
    } else if !beside.keeps_checkpoints {
        findings.error_help(
            section.key_span("idle_after"),
            "`idle_after` needs a place for what the clock decides, so that a restart decides the same",
            "add it: [engine] with checkpoint = { path = \"state\" }, a directory on this machine",
        );
    } else if beside.is_alone {
        warn_of_one(section, "idle_after");
    }
    Some(after.value)
}

fn warn_of_one(section: &Section<'_>, key: &str) {
    section.findings().warning(
        section.key_span(key),
        format!("`{key}` does nothing: there is no other source that could wait or be waited for"),
        "leave it out",
    );
}

/// What gives a source's events their meaning; not where they come from or how much is read of them.
/// Its name is part of it: positions and dead letters go by the name.
fn source_meaning(kind: &str, settings: &EventSettings, spec: &dyn SourceSpec) -> String {
    let EventSettings { name, index: _, mapping, schemas, bytes_max, future_max_us, lateness_us } =
        settings;
    let future_us = if spec.has_broker_time() { *future_max_us } else { 0 };
    format!(
        "{kind} {name}\n{}\nlateness {lateness_us} max_future {future_us} max_bytes {bytes_max}\nevent {}{}",
        spec.meaning(),
        mapping.meaning(),
        schemas.meaning(),
    )
}
