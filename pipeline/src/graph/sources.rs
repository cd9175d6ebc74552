//! Reads the keys that all sources share.

use std::cell::RefCell;
use std::rc::Rc;

use waterwheel_config::section::Section;
use waterwheel_config::units::SECOND_US;

use super::fingerprint::source_meaning;
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
    section: &Section<'_>,
    name: &str,
    index: u16,
    catalog: &Catalog,
) -> Option<SourceDraft> {
    let names: Vec<&'static str> = catalog.sources.iter().map(|kind| kind.name).collect();
    section.require("type")?;
    let chosen = section.choice("type", &names)?;
    let kind = catalog.sources.iter().find(|kind| kind.name == chosen.value)?;
    let until = match section.choice("until", &["forever", "end", "final"]).map(|until| until.value)
    {
        Some("forever") => Until::Forever,
        Some("end") => Until::End,
        Some("final") => Until::Final,
        _ => (kind.default_until)(section),
    };
    let lateness_us =
        section.duration("lateness").map_or(LATENESS_DEFAULT_US, |lateness| lateness.value);
    let future_max_us = section.duration("max_future").map_or(lateness_us, |future| future.value);
    let bytes_max = section.size("max_bytes").map_or(BYTES_MAX_DEFAULT, |size| size.value);
    let mapping = EventMapping::read(section);
    if let Some(format) = section.choice("format", &["json", "cloudevents"])
        && format.value == "cloudevents"
    {
        section.findings().error_help(
            format.span,
            "the format `cloudevents` is not built yet",
            "map the fields in the source's `event` table: id = \"header:ce-id\"",
        );
    }
    section.refuse(&["schemas", "types", "idle_after", "max_skew"]);
    let spec = (kind.plan)(section)?;
    let settings = EventSettings {
        name: name.to_owned(),
        index,
        mapping,
        bytes_max,
        future_max_us,
        lateness_us,
    };
    Some(SourceDraft {
        name: name.to_owned(),
        kind: kind.name,
        spec,
        until,
        settings,
        projection: Rc::default(),
        meaning: meaning_without_asking(section),
    })
}

/// The meaning reads every key, which must not count as asking for it: unknown keys are findings.
fn meaning_without_asking(section: &Section<'_>) -> String {
    source_meaning(&section.copy())
}
