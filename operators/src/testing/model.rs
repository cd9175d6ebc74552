//! The naive recompute of aggregates: every group of every window as the list of what lies in it.

use std::collections::{BTreeMap, BTreeSet};

use chrono_tz::Tz;
use waterwheel_config::value::{ColumnType, Value};

use super::{Cell, Event, Expected, ExpectedRows, Item, naive};

/// An expression, computed by hand.
pub(crate) type Get = fn(&dyn Item, Tz) -> Cell;

/// A condition, computed by hand.
pub(crate) type Holds = fn(&dyn Item) -> Option<bool>;

/// A column of `by`.
#[derive(Clone, Copy)]
pub(crate) struct By {
    /// The column's name.
    pub(crate) alias: &'static str,
    /// The expression.
    pub(crate) sql: &'static str,
    /// The column's type.
    pub(crate) kind: ColumnType,
    /// The same by hand.
    pub(crate) get: Get,
}

/// What a measure computes of its argument's values.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Count,
    Distinct,
    Sum,
    Average,
    Least(ColumnType),
    Greatest(ColumnType),
    /// In thousandths.
    Quantile(usize),
    Share,
    First(ColumnType),
    Last(ColumnType),
    Deviation,
    /// Of few values, which are counted exactly.
    Approximate,
    /// A column of `breakdown`, behind all measures.
    Breakdown,
}

/// A measure.
#[derive(Clone, Copy)]
pub(crate) struct Measure {
    /// The column's name.
    pub(crate) alias: &'static str,
    /// The measure as written.
    pub(crate) sql: &'static str,
    /// What it computes.
    pub(crate) kind: Kind,
    /// Its argument by hand.
    pub(crate) argument: Get,
    /// Its filter by hand.
    pub(crate) filter: Option<Holds>,
}

/// An aggregate.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) from: Vec<&'static str>,
    /// The column of event time.
    pub(crate) time: &'static str,
    pub(crate) zone: Tz,
    pub(crate) windows: Vec<&'static str>,
    pub(crate) condition: Option<(&'static str, Holds)>,
    pub(crate) by: Vec<By>,
    pub(crate) measures: Vec<Measure>,
}

/// What one item adds to its groups.
#[derive(Clone, Debug)]
pub(crate) struct Contribution {
    /// One per window.
    groups: Vec<Group>,
    by: Vec<Value>,
    place: Place,
    arguments: Arguments,
}

/// Event time and the name of the stream; in a source the order of the log decides.
type Place = (i64, Option<String>);

/// A row's key, and the end of its window.
type Group = (Vec<Value>, i64);

/// Per measure the argument's value; `None` where the filter does not hold.
type Arguments = Vec<Option<Cell>>;

impl Model {
    /// How many events every user of `events0` has: rows that change, and disappear when taken back.
    pub(crate) fn trades_per_user(windows: Vec<&'static str>) -> Self {
        let trades = Measure::new("trades", "count(*)", Kind::Count, |_, _| Cell::Boolean(true));
        Self {
            from: vec!["events0"],
            time: "timestamp",
            zone: Tz::Europe__Berlin,
            windows,
            condition: None,
            by: vec![By::text("user_id", "user_id", |e, _| e.get("user_id"))],
            measures: vec![trades],
        }
    }

    /// The operator's table.
    pub(crate) fn toml(&self, name: &str) -> String {
        let quoted = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| format!("\"{text}\"")).collect();
            format!("[{}]", texts.join(", "))
        };
        let mut toml = format!("[operators.{name}]\ntype = \"aggregate\"\n");
        toml += &format!("from = {}\n", quoted(&self.from));
        if !self.windows.is_empty() {
            let windows: Vec<String> = self.windows.iter().map(|window| spelled(window)).collect();
            toml += &format!("windows = [{}]\n", windows.join(", "));
        }
        if self.time != "timestamp" {
            toml += &format!("time = \"{}\"\n", self.time);
        }
        if self.zone != Tz::UTC {
            toml += &format!("timezone = \"{}\"\n", self.zone.name());
        }
        if let Some((condition, _)) = self.condition {
            toml += &format!("where = \"{condition}\"\n");
        }
        let is_bare = |by: &By| by.sql.rsplit('.').next() == Some(by.alias);
        if self.by.iter().all(is_bare) {
            let paths: Vec<&str> = self.by.iter().map(|by| by.sql).collect();
            toml += &format!("by = {}\n", quoted(&paths));
        } else {
            for by in &self.by {
                toml += &format!("by.{} = \"{}\"\n", by.alias, by.sql);
            }
        }
        for measure in &self.measures {
            toml += &match measure.kind {
                Kind::Breakdown => {
                    let alias = measure.alias.trim_end_matches("_breakdown");
                    format!("breakdown.{alias} = \"{}\"\n", measure.sql)
                }
                _ => format!("measures.{} = \"{}\"\n", measure.alias, measure.sql),
            };
        }
        toml
    }

    /// The names of the columns.
    pub(crate) fn columns(&self) -> Vec<&'static str> {
        let by = self.by.iter().map(|by| by.alias);
        let measures = self.measures.iter().map(|measure| measure.alias);
        ["granularity", "window_start", "window_end"]
            .into_iter()
            .chain(by)
            .chain(measures)
            .collect()
    }

    /// What an item adds; `None` if it does not pass the condition.
    pub(crate) fn contribution(&self, item: &dyn Item) -> Option<Contribution> {
        if let Some((_, holds)) = self.condition
            && holds(item) != Some(true)
        {
            return None;
        }
        let Cell::Time(time_us) = item.get(self.time) else {
            return None;
        };
        let by: Vec<Value> = self.by.iter().map(|by| by.value(item, self.zone)).collect();
        let groups = |granularity: &&str| -> Vec<Group> {
            let windows = naive::windows(granularity, self.zone, time_us).into_iter();
            let head = |start_us| [Value::text(granularity), Value::Timestamp(start_us)];
            windows
                .map(|(start_us, end_us)| {
                    (head(start_us).into_iter().chain(by.iter().cloned()).collect(), end_us)
                })
                .collect()
        };
        let stream = match item.get("stream") {
            Cell::Text(stream) => Some(stream),
            _ => None,
        };
        let argument = |measure: &Measure| {
            let passes = measure.filter.is_none_or(|filter| filter(item) == Some(true));
            passes.then(|| (measure.argument)(item, self.zone))
        };
        Some(Contribution {
            groups: self.windows.iter().flat_map(groups).collect(),
            by: by.clone(),
            place: (time_us, stream),
            arguments: self.measures.iter().map(argument).collect(),
        })
    }

    /// The rows of all that was added.
    pub(crate) fn expected<'a>(
        &self,
        contributions: impl IntoIterator<Item = &'a Contribution>,
    ) -> ExpectedRows {
        let mut groups: BTreeMap<&Group, Vec<&Contribution>> = BTreeMap::new();
        for contribution in contributions {
            for group in &contribution.groups {
                groups.entry(group).or_default().push(contribution);
            }
        }
        let row = |((key, end_us), members): (&Group, Vec<&Contribution>)| {
            let is = |value: &Value| Expected::Is(value.clone());
            let mut row: Vec<Expected> = key[..2].iter().map(is).collect();
            row.push(Expected::Is(Value::Timestamp(*end_us)));
            row.extend(key[2..].iter().map(is));
            row.extend(self.measures.iter().enumerate().map(|(index, measure)| {
                let value = |member: &&Contribution| {
                    let value = member.arguments[index].clone()?;
                    (!value.is_null()).then(|| (member.place.clone(), value))
                };
                measure.kind.of(members.iter().filter_map(value).collect())
            }));
            (key.clone(), row)
        };
        groups.into_iter().map(row).collect()
    }

    /// The expected rows as items of an aggregate that reads them.
    pub(crate) fn items(&self, rows: &ExpectedRows) -> Vec<RowItem> {
        let columns = self.columns();
        let item = |row: &Vec<Expected>| {
            let cells = row.iter().map(|expected| Cell::from_value(&expected.value()));
            RowItem(columns.iter().copied().zip(cells).collect())
        };
        rows.values().map(item).collect()
    }

    /// True if a text is too long for the key that it is wanted for.
    pub(crate) fn is_dead(&self, event: &Event) -> bool {
        let passes = self.condition.is_none_or(|(_, holds)| holds(event) == Some(true));
        let long = |by: &By| (by.get)(event, self.zone).canonical().is_some_and(|t| t.len() > 1024);
        passes && self.by.iter().any(long)
    }
}

impl Contribution {
    /// The time of the item.
    pub(crate) fn time_us(&self) -> i64 {
        self.place.0
    }

    /// The values of `by`.
    pub(crate) fn by(&self) -> &[Value] {
        &self.by
    }

    /// The same in one window alone.
    pub(crate) fn moved(&self, granularity: &str, start_us: i64, end_us: i64) -> Self {
        let head = [Value::text(granularity), Value::Timestamp(start_us)];
        let key = head.into_iter().chain(self.by.iter().cloned()).collect();
        Self { groups: vec![(key, end_us)], ..self.clone() }
    }
}

/// A window as the file has it: `1h/5m` hops.
fn spelled(window: &str) -> String {
    match window.split_once('/') {
        Some((size, every)) => format!("{{ size = \"{size}\", every = \"{every}\" }}"),
        None => format!("\"{window}\""),
    }
}

impl Measure {
    /// A measure without a filter.
    pub(crate) const fn new(
        alias: &'static str,
        sql: &'static str,
        kind: Kind,
        argument: Get,
    ) -> Self {
        Self { alias, sql, kind, argument, filter: None }
    }

    /// The measure with a filter, which `sql` has already.
    pub(crate) const fn filtered(self, filter: Holds) -> Self {
        Self { filter: Some(filter), ..self }
    }
}

/// A row by the names of its columns.
#[derive(Clone, Debug)]
pub(crate) struct RowItem(pub(crate) BTreeMap<&'static str, Cell>);

impl Item for RowItem {
    fn get(&self, name: &str) -> Cell {
        self.0.get(name).cloned().unwrap_or(Cell::Null)
    }
}

impl By {
    /// A text column.
    pub(crate) const fn text(alias: &'static str, sql: &'static str, get: Get) -> Self {
        Self { alias, sql, kind: ColumnType::Text, get }
    }

    fn value(&self, item: &dyn Item, zone: Tz) -> Value {
        let cell = (self.get)(item, zone);
        match (self.kind, &cell) {
            (ColumnType::Text, _) => cell.text_value(),
            (ColumnType::Bigint, Cell::Integer(number)) => {
                i64::try_from(*number).map_or(Value::Null, Value::Bigint)
            }
            (ColumnType::Timestamp, Cell::Time(micros)) => Value::Timestamp(*micros),
            _ => Value::Null,
        }
    }
}

impl Kind {
    /// The measure of the values that are not NULL, with their places.
    fn of(self, mut placed: Vec<(Place, Cell)>) -> Expected {
        // What is equal keeps the order of the log.
        placed.sort_by(|(one, _), (other, _)| one.cmp(other));
        let values: Vec<&Cell> = placed.iter().map(|(_, value)| value).collect();
        let values = values.as_slice();
        let doubles = || -> Vec<f64> { values.iter().filter_map(|value| value.double()).collect() };
        match self {
            Self::Count => Expected::bigint(values.len() as i64),
            Self::Distinct => {
                let different: BTreeSet<_> = values.iter().map(|value| value.canonical()).collect();
                Expected::bigint(different.len() as i64)
            }
            Self::Sum => Expected::near(sum(values).map(|(sum, _)| sum.total())),
            Self::Average => Expected::near(sum(values).map(|(sum, count)| average(&sum, count))),
            Self::Least(ColumnType::Double) => {
                Expected::near(doubles().into_iter().reduce(f64::min))
            }
            Self::Greatest(ColumnType::Double) => {
                Expected::near(doubles().into_iter().reduce(f64::max))
            }
            Self::Least(kind) => {
                Expected::Is(typed(values, kind).first().cloned().unwrap_or(Value::Null))
            }
            Self::Greatest(kind) => {
                Expected::Is(typed(values, kind).last().cloned().unwrap_or(Value::Null))
            }
            Self::Quantile(q) => {
                naive::quantile(q, &doubles()).map_or(Expected::Is(Value::Null), Expected::Within)
            }
            Self::Share => {
                let known: Vec<bool> = values.iter().filter_map(|value| value.truth()).collect();
                let yes = known.iter().filter(|flag| **flag).count();
                let share = (!known.is_empty()).then(|| yes as f64 / known.len() as f64);
                Expected::near(share)
            }
            Self::First(kind) => edge(placed.iter(), kind),
            Self::Last(kind) => edge(placed.iter().rev(), kind),
            Self::Deviation => Expected::near(deviation(values)),
            Self::Approximate => Self::Distinct.of(placed),
            Self::Breakdown => {
                let mut counts: BTreeMap<String, usize> = BTreeMap::new();
                for value in values {
                    *counts.entry(value.canonical().expect("not NULL")).or_default() += 1;
                }
                let json = serde_json::to_string(&counts).expect("JSON");
                Expected::Is(Value::Json(json.into()))
            }
        }
    }
}

/// The first value that the column can hold. Of rows at one time nobody says which it is.
fn edge<'a>(placed: impl Iterator<Item = &'a (Place, Cell)>, kind: ColumnType) -> Expected {
    let placed = placed.filter_map(|(place, value)| Some((place, typed(&[value], kind).pop()?)));
    let mut placed = placed.peekable();
    let Some((place, first)) = placed.next() else {
        return Expected::Is(Value::Null);
    };
    if place.1.is_some() {
        return Expected::Is(first);
    }
    let ties = placed.take_while(|(other, _)| *other == place).map(|(_, value)| value);
    Expected::OneOf(std::iter::once(first).chain(ties).collect())
}

/// From the differences of all pairs, none of which can cancel.
fn deviation(values: &[&Cell]) -> Option<f64> {
    let numbers: Vec<Cell> = values.iter().filter_map(|value| value.number()).collect();
    let whole = |cell: &Cell| match cell {
        Cell::Integer(number) => Some(*number),
        Cell::Float(number) if number.fract() == 0.0 && number.abs() < 1e20 => {
            Some(*number as i128)
        }
        _ => None,
    };
    // The difference of two doubles may be beyond double range, where the deviation is not.
    let is_large = |cell: &Cell| cell.double().is_some_and(|number| number.abs() > 1e300);
    let scale = if numbers.iter().any(is_large) { 0.5 } else { 1.0 };
    let mut differences = Vec::new();
    for (index, one) in numbers.iter().enumerate() {
        for other in &numbers[..index] {
            differences.push(match (whole(one), whole(other)) {
                (Some(one), Some(other)) => (one - other) as f64 * scale,
                _ => one.double()? * scale - other.double()? * scale,
            });
        }
    }
    let largest = differences.iter().fold(0f64, |most, one| most.max(one.abs()));
    if numbers.len() < 2 || largest == 0.0 {
        return (numbers.len() >= 2).then_some(0.0);
    }
    let squares: f64 = differences.iter().map(|one| (one / largest).powi(2)).sum();
    let (n, m) = (numbers.len() as f64, numbers.len() as f64 - 1.0);
    Some((squares / (n * m)).sqrt() * largest / scale)
}

fn sum(values: &[&Cell]) -> Option<(naive::BigSum, usize)> {
    let mut sum = naive::BigSum::default();
    let numbers: Vec<Cell> = values.iter().filter_map(|value| value.number()).collect();
    for number in &numbers {
        match number {
            Cell::Integer(number) => sum.add_integer(*number),
            Cell::Float(number) => sum.add_float(*number),
            _ => {}
        }
    }
    (!numbers.is_empty()).then_some((sum, numbers.len()))
}

/// The average may be a double where the sum is none.
fn average(sum: &naive::BigSum, count: usize) -> f64 {
    let total = sum.total();
    if total.is_finite() {
        return total / count as f64;
    }
    sum.scaled(-64) / count as f64 * 2f64.powi(64)
}

/// The values of a type that is not double, sorted.
fn typed(values: &[&Cell], kind: ColumnType) -> Vec<Value> {
    let typed = |cell: &&Cell| match (kind, cell) {
        (ColumnType::Text, cell) => Some(cell.text_value()),
        (ColumnType::Timestamp, Cell::Time(micros)) => Some(Value::Timestamp(*micros)),
        (ColumnType::Bigint, Cell::Integer(number)) => {
            i64::try_from(*number).ok().map(Value::Bigint)
        }
        (ColumnType::Double, cell) => cell.double().map(Value::double),
        _ => None,
    };
    let mut values: Vec<Value> = values.iter().filter_map(typed).collect();
    values.sort();
    values
}
