//! The windows of an aggregate: its granularities, and the panes from which they are rolled up.

use chrono_tz::Tz;
use waterwheel_config::calendar::Period;
use waterwheel_config::document::{Node, NodeKind};
use waterwheel_config::section::Section;
use waterwheel_config::value::Value;

/// One granularity.
#[derive(Debug)]
pub(super) struct Level {
    /// As written: "1m".
    pub(super) granularity: Value,
    pub(super) period: Period,
    /// The index of its panes.
    pub(super) pane: usize,
}

/// Reads `windows`: the levels, and the panes that they need.
pub(super) fn levels(section: &Section<'_>, zone: Tz) -> Option<(Vec<Level>, Vec<Period>)> {
    if !section.has("windows") {
        let what = &section.what;
        let message =
            format!("{what} has no `windows`, and one row over all time is not built yet");
        let help = "write for example windows = [\"1m\", \"1h\"]";
        section.missing("windows", section.span.clone(), message, Some(help));
        return None;
    }
    if let Some(node) = section.node("windows")
        && is_hopping(node)
    {
        section.findings().error_help(
            node.span.clone(),
            "hopping windows are not built yet",
            "write lengths only: windows = [\"1m\", \"1h\"]",
        );
        return None;
    }
    let texts = section.texts("windows")?;
    let is_empty = texts.is_empty();
    let mut written: Vec<(String, Period)> = Vec::new();
    for text in texts {
        match Period::parse(&text.value, zone) {
            Ok(_) if written.iter().any(|(label, _)| *label == text.value) => {
                section
                    .findings()
                    .error(text.span, format!("the window `{}` is there twice", text.value));
            }
            Ok(period) => written.push((text.value, period)),
            Err(message) => section.findings().error(text.span, message),
        }
    }
    if is_empty {
        let help = "write for example windows = [\"1m\", \"1h\"]";
        let span = section.key_span("windows");
        section.findings().error_help(span, "`windows` names no window", help);
    }
    // Their order means nothing, and the state goes by it.
    written.sort_by_cached_key(|(label, period)| (period.longest_us(), label.clone()));
    let panes = panes(&written)?;
    let levels = written
        .into_iter()
        .map(|(label, period)| Level {
            granularity: Value::text(&label),
            period,
            pane: panes.iter().position(|pane| period.is_union_of(*pane)).unwrap_or(0),
        })
        .collect();
    Some((levels, panes))
}

fn is_hopping(node: &Node) -> bool {
    match &node.kind {
        NodeKind::Table(_) => true,
        NodeKind::Array(items) => items.iter().any(|item| matches!(item.kind, NodeKind::Table(_))),
        _ => false,
    }
}

/// The panes from which all windows can be rolled up: the greatest common divisor of the fixed
/// lengths, and the finest calendar period where a timezone's days are no union of those.
fn panes(written: &[(String, Period)]) -> Option<Vec<Period>> {
    let fixed = written.iter().filter_map(|(_, period)| match period {
        Period::Fixed(length_us) => Some(*length_us),
        _ => None,
    });
    let mut panes: Vec<Period> =
        fixed.reduce(greatest_common_divisor).map(Period::Fixed).into_iter().collect();
    let mut calendar: Vec<Period> = written
        .iter()
        .map(|(_, period)| *period)
        .filter(|period| !panes.iter().any(|pane| period.is_union_of(*pane)))
        .collect();
    // Days come before weeks and months, which are unions of them.
    calendar.sort_by_key(|period| period.longest_us());
    for period in calendar {
        if !panes.iter().any(|pane| period.is_union_of(*pane)) {
            panes.push(period);
        }
    }
    (!panes.is_empty()).then_some(panes)
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
