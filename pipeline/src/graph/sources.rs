//! Reads the keys that all sources share.

use std::cell::RefCell;
use std::rc::Rc;

use waterwheel_config::section::Section;
use waterwheel_config::units::SECOND_US;

use super::tables::chosen_kind;
use crate::contract::catalog::Catalog;
use crate::contract::event::Projection;
use crate::contract::mapping::EventMapping;
use crate::contract::source::{SourceSpec, Until};
use crate::runtime::decode::EventSettings;

/// Where the deployment does not say: events may come half a minute out of order.
const LATENESS_DEFAULT_US: i64 = 30 * SECOND_US;
const BYTES_MAX_DEFAULT: u64 = 1 << 20;

/// A source while the operators that read it are planned.
pub(super) struct SourceDraft {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) spec: Box<dyn SourceSpec>,
    pub(super) until: Until,
    pub(super) settings: EventSettings,
    /// Grows with every field that an operator or a sink names.
    pub(super) projection: Rc<RefCell<Projection>>,
    pub(super) meaning: String,
}

/// Plans one source; its index is its place in the file.
pub(super) fn plan_source(
    section: Section<'_>,
    name: &str,
    index: u16,
    catalog: &Catalog,
    is_rehearsal: bool,
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
    let mapping = EventMapping::read(&section);
    refuse_format(&section);
    section.refuse(&["schemas", "types", "idle_after", "max_skew"]);
    let spec = match is_rehearsal {
        // What only says where the log is, nobody needs.
        true => section.with_stand_in_variables(|section| (kind.plan)(section)),
        false => (kind.plan)(&section),
    };
    section.finish();
    let spec = spec?;
    let settings = EventSettings {
        name: name.to_owned(),
        index,
        mapping,
        bytes_max,
        future_max_us,
        lateness_us,
    };
    let meaning = source_meaning(kind.name, &settings, &*spec);
    Some(SourceDraft {
        name: name.to_owned(),
        kind: kind.name,
        spec,
        until,
        settings,
        projection: Rc::default(),
        meaning,
    })
}

fn refuse_format(section: &Section<'_>) {
    let node = section.node("format");
    match node.and_then(|node| section.node_text(node, "format")) {
        Some(format) if format.value == "cloudevents" => section.findings().error_help(
            format.span,
            "the format `cloudevents` is not built yet",
            "map the fields in the source's `event` table: id = \"header:ce-id\"",
        ),
        Some(_) => {
            section.choice("format", &["json"]);
        }
        None => {}
    }
}

/// What gives a source's events their meaning; not where they come from or how much is read of them.
/// Its name is part of it: positions and dead letters go by the name.
fn source_meaning(kind: &str, settings: &EventSettings, spec: &dyn SourceSpec) -> String {
    let EventSettings { name, index: _, mapping, bytes_max, future_max_us, lateness_us } = settings;
    let future_us = if spec.has_broker_time() { *future_max_us } else { 0 };
    format!(
        "{kind} {name}\n{}\nlateness {lateness_us} max_future {future_us} max_bytes {bytes_max}\nevent {}",
        spec.meaning(),
        mapping.meaning(),
    )
}
