//! The windows of an aggregate: its granularities, and the panes from which they are rolled up.

use chrono_tz::Tz;
use waterwheel_config::calendar::{Period, Window};
use waterwheel_config::document::{Node, NodeKind};
use waterwheel_config::finding::Span;
use waterwheel_config::section::Section;
use waterwheel_config::units::DAY_US;
use waterwheel_config::value::Value;

/// One granularity.
#[derive(Debug)]
pub(super) struct Level {
    /// As written: "1m", or "1h/5m" for a window of an hour that moves on every five minutes.
    pub(super) granularity: Value,
    pub(super) shape: Shape,
    /// The index of its panes.
    pub(super) pane: usize,
}

/// How the windows of a granularity lie: each is `size` panes in a row, and one begins with every
/// `every`-th pane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pane: Period,
    every: i64,
    size: i64,
}

/// A window that hops in finer steps would change more rows with every event than anybody reads.
const HOPS_MAX: i64 = 20_000;

/// Longer windows that hop would leave the range of times.
const LONGEST_US: i64 = 1_000 * 365 * DAY_US;

const HELP: &str = "write for example windows = [\"1m\", \"1h\"]";

impl Shape {
    fn tumbling(pane: Period) -> Self {
        Self { pane, every: 1, size: 1 }
    }

    /// A window of `size` that moves on by `every`.
    fn hopping(size: &str, every: &str, zone: Tz) -> Result<Self, String> {
        let shape = match Period::parse(every, zone)? {
            Period::Fixed(every_us) => Self::fixed(fixed_us(size, every, zone)?, every_us),
            Period::Day(Tz::UTC) => Self::fixed(fixed_us(size, every, zone)?, DAY_US),
            pane => Self { pane, every: 1, size: periods(size, every, pane)? },
        };
        if shape.size < shape.every {
            let message = "windows of `{size}` every `{every}` leave out what lies between them";
            return Err(message.replace("{size}", size).replace("{every}", every));
        }
        let hops = shape.size / shape.every;
        if hops > HOPS_MAX {
            return Err(format!(
                "an event would lie in {hops} windows of `{size}` every `{every}`; at most {HOPS_MAX} are computed"
            ));
        }
        Ok(shape)
    }

    fn fixed(size_us: i64, every_us: i64) -> Self {
        let pane_us = greatest_common_divisor(size_us, every_us);
        Self { pane: Period::Fixed(pane_us), every: every_us / pane_us, size: size_us / pane_us }
    }

    /// The longest that one of its windows can be.
    pub(super) fn longest_us(self) -> i64 {
        let length_us = match self.pane {
            pane if self.size == 1 => return pane.longest_us(),
            Period::Fixed(pane_us) => return pane_us * self.size,
            Period::Day(_) => DAY_US,
            Period::Week(_) => 7 * DAY_US,
            Period::Month(_) => 31 * DAY_US,
        };
        // However many days there are, the hours that a zone skips or repeats are at most a day.
        length_us * self.size + DAY_US
    }

    /// Writes the windows that hold a moment over `windows`, in order.
    pub(super) fn windows(self, at: i64, windows: &mut Vec<Window>) {
        windows.clear();
        if self.size == 1 {
            windows.push(self.pane.window(at));
            return;
        }
        if let Period::Fixed(pane_us) = self.pane {
            let (size_us, every_us) = (pane_us * self.size, pane_us * self.every);
            let mut start = at - at.rem_euclid(every_us);
            while start + size_us > at {
                windows.push(Window { start, end: start + size_us });
                start -= every_us;
            }
            windows.reverse();
            return;
        }
        let pane = self.pane.window(at);
        let mut starts = vec![pane.start];
        let mut ends = vec![pane.end];
        for _ in 1..self.size {
            starts.push(self.pane.window(starts[starts.len() - 1] - 1).start);
            ends.push(self.pane.window(ends[ends.len() - 1]).end);
        }
        let pairs = starts.into_iter().rev().zip(ends);
        windows.extend(pairs.map(|(start, end)| Window { start, end }));
    }

    /// The window before this one.
    pub(super) fn previous(self, window: Window) -> Window {
        let back = |edge: i64| match self.pane {
            Period::Fixed(pane_us) => edge - pane_us * self.every,
            pane => pane.window(edge - 1).start,
        };
        Window { start: back(window.start), end: back(window.end) }
    }

    /// The window after this one.
    pub(super) fn next(self, window: Window) -> Window {
        let onward = |edge: i64| match self.pane {
            Period::Fixed(pane_us) => edge.saturating_add(pane_us * self.every),
            pane => pane.window(edge).end,
        };
        Window { start: onward(window.start), end: onward(window.end) }
    }
}

/// The size of a window that hops by a fixed length.
fn fixed_us(size: &str, every: &str, zone: Tz) -> Result<i64, String> {
    match Period::parse(size, zone)? {
        Period::Fixed(size_us) if size_us <= LONGEST_US => Ok(size_us),
        Period::Fixed(_) => Err(format!("`{size}` is too long for a window that hops")),
        Period::Day(Tz::UTC) => Ok(DAY_US),
        Period::Week(Tz::UTC) => Ok(7 * DAY_US),
        Period::Day(_) | Period::Week(_) => {
            let hours = if size == "1d" { "24h" } else { "168h" };
            Err(format!(
                "`{size}` is not always as long in {zone}, so that it cannot move on every `{every}`; write `{hours}`"
            ))
        }
        Period::Month(_) => {
            Err(format!("`{size}` is not always as long; let it move on every `1mo`"))
        }
    }
}

/// How many calendar periods a size is.
fn periods(size: &str, every: &str, pane: Period) -> Result<i64, String> {
    let refusal = || format!("`{size}` is not a whole number of `{every}`");
    let number = |unit: &str| size.strip_suffix(unit).and_then(|count| count.parse::<i64>().ok());
    let count = match pane {
        Period::Month(_) => match (number("mo"), number("y")) {
            (Some(months), _) => months,
            (_, Some(years)) => years.saturating_mul(12),
            _ => {
                Period::parse(size, Tz::UTC)?;
                return Err(refusal());
            }
        },
        pane => {
            let period_us = if matches!(pane, Period::Week(_)) { 7 * DAY_US } else { DAY_US };
            let size_us = fixed_us(size, every, Tz::UTC)?;
            if size_us % period_us != 0 {
                return Err(refusal());
            }
            size_us / period_us
        }
    };
    if (1..=12_000).contains(&count) { Ok(count) } else { Err(refusal()) }
}

/// A window as it is written, before anything is made of it.
pub(super) struct WrittenWindow {
    /// "1m", or "1h/5m".
    pub(super) label: String,
    span: Span,
    shape: Result<Shape, String>,
}

/// Reads the list; `None` where it is none.
pub(super) fn written_windows(section: &Section<'_>, zone: Tz) -> Option<Vec<WrittenWindow>> {
    let node = section.node("windows")?;
    let items: &[Node] = match &node.kind {
        NodeKind::Array(items) => items,
        _ => std::slice::from_ref(node),
    };
    if !matches!(node.kind, NodeKind::Array(_) | NodeKind::Table(_) | NodeKind::Text(_)) {
        section.texts("windows");
        return None;
    }
    // What is wrong with one must not hide what is wrong with the next.
    let windows: Vec<_> = items.iter().map(|item| written_window(section, item, zone)).collect();
    windows.into_iter().collect()
}

fn written_window<'d>(section: &Section<'d>, item: &'d Node, zone: Tz) -> Option<WrittenWindow> {
    let span = item.span.clone();
    if !matches!(item.kind, NodeKind::Table(_)) {
        let label = section.node_text(item, "windows")?.value;
        let shape = Period::parse(&label, zone).map(Shape::tumbling);
        return Some(WrittenWindow { label, span, shape });
    }
    let what = format!("a window of {}", section.what);
    let table = section.node_table(item, &item.span, &what)?;
    let (size, every) = (table.required_text("size"), table.required_text("every"));
    table.finish();
    let (size, every) = (size?.value, every?.value);
    let shape = Shape::hopping(&size, &every, zone);
    Some(WrittenWindow { label: format!("{size}/{every}"), span, shape })
}

/// Reads `windows`: the levels, and the panes that they need.
pub(super) fn levels(section: &Section<'_>, zone: Tz) -> Option<(Vec<Level>, Vec<Period>)> {
    let windows = written_windows(section, zone)?;
    if windows.is_empty() {
        let span = section.key_span("windows");
        section.findings().error_help(span, "`windows` names no window", HELP);
    }
    let mut known: Vec<(String, Shape)> = Vec::new();
    for WrittenWindow { label, span, shape } in windows {
        match shape {
            Ok(_) if known.iter().any(|(other, _)| *other == label) => {
                section.findings().error(span, format!("the window `{label}` is there twice"));
            }
            Ok(shape) => known.push((label, shape)),
            Err(message) => section.findings().error(span, message),
        }
    }
    // Their order means nothing, and the state goes by it.
    known.sort_by_cached_key(|(label, shape)| (shape.longest_us(), label.clone()));
    let panes = panes(&known)?;
    let levels = known
        .into_iter()
        .map(|(label, shape)| Level {
            granularity: Value::text(&label),
            shape,
            pane: panes.iter().position(|pane| shape.pane.is_union_of(*pane)).unwrap_or(0),
        })
        .collect();
    Some((levels, panes))
}

/// The panes from which all windows can be rolled up: the greatest common divisor of the fixed
/// lengths, and the finest calendar period where a timezone's days are no union of those.
fn panes(known: &[(String, Shape)]) -> Option<Vec<Period>> {
    let fixed = known.iter().filter_map(|(_, shape)| match shape.pane {
        Period::Fixed(length_us) => Some(length_us),
        _ => None,
    });
    let mut panes: Vec<Period> =
        fixed.reduce(greatest_common_divisor).map(Period::Fixed).into_iter().collect();
    let mut calendar: Vec<Period> = known
        .iter()
        .map(|(_, shape)| shape.pane)
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
