//! Settings that several kinds of operator share: the timezone, the time of the events, and which of
//! them count.

use chrono_tz::Tz;
use waterwheel_config::document::NodeKind;
use waterwheel_config::expr::{self, Program};
use waterwheel_config::section::{Section, Spanned};
use waterwheel_config::value::ColumnType;
use waterwheel_pipeline::contract::operator::{InputFlow, InputPlan, InputScope};

/// Reads `timezone`; UTC by default.
pub(crate) fn timezone(section: &Section<'_>) -> Tz {
    let parse = |text: &str| {
        text.parse::<Tz>().map_err(|_| {
            let near = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
            let near = waterwheel_config::names::nearest(text, near);
            match near {
                Some(near) => format!("there is no timezone `{text}`; did you mean `{near}`?"),
                None => {
                    format!("there is no timezone `{text}`; write a name such as Europe/Berlin")
                }
            }
        })
    };
    section.parsed("timezone", parse).map_or(Tz::UTC, |zone| zone.value)
}

/// What an operator takes from each of its inputs: `time` and `where`.
pub(crate) struct Intake {
    zone: Tz,
    time: Option<Spanned<String>>,
    condition: Option<Spanned<String>>,
}

/// An [`Intake`] applied to one input.
pub(crate) struct InputIntake<'a> {
    /// The time of its items; none where a finding says why.
    pub(crate) time: Option<TimeColumn>,
    /// The names that expressions over the input may use.
    pub(crate) scope: InputScope<'a>,
    /// What an item must meet to count.
    pub(crate) condition: Option<Program>,
}

/// Where the time of an input's items stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeColumn {
    /// The column; events have a time of their own.
    pub(crate) slot: Option<usize>,
    /// How far it may lie behind the input's watermark.
    pub(crate) behind_us: i64,
}

/// What an operator needs the times of its items for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeNeed {
    /// For windows: the watermark must bound them.
    Bounded,
    /// For their order alone.
    Any,
    /// For nothing.
    None,
}

impl Intake {
    /// Reads the settings.
    pub(crate) fn read(section: &Section<'_>, zone: Tz) -> Self {
        Self { zone, time: section.text("time"), condition: section.text("where") }
    }

    /// Applies them to an input. What is wrong with one must not hide what is wrong with the next.
    pub(crate) fn of<'a>(&self, section: &Section<'_>, input: &'a InputPlan) -> InputIntake<'a> {
        self.for_need(section, input, TimeNeed::Bounded)
    }

    /// Applies them to an input whose times are needed for less than windows.
    pub(crate) fn for_need<'a>(
        &self,
        section: &Section<'_>,
        input: &'a InputPlan,
        need: TimeNeed,
    ) -> InputIntake<'a> {
        let time = match need {
            TimeNeed::None => Some(TimeColumn { slot: None, behind_us: 0 }),
            _ => self.time_column(section, input, need),
        };
        let mut scope = input.scope(self.zone);
        let condition = self.condition.as_ref();
        let condition = condition.and_then(|text| expr::condition(section, text, &mut scope));
        InputIntake { time, scope, condition }
    }

    fn time_column(
        &self,
        section: &Section<'_>,
        input: &InputPlan,
        need: TimeNeed,
    ) -> Option<TimeColumn> {
        let time = self.time.as_ref();
        let name = time.map_or("timestamp", |time| time.value.as_str());
        let span =
            time.map_or_else(|| section.word_in("from", &input.name), |time| time.span.clone());
        let InputFlow::Rows(schema) = &input.flow else {
            if name == "timestamp" {
                return Some(TimeColumn { slot: None, behind_us: 0 });
            }
            section.findings().error_help(
                span,
                format!("events of `{}` have their time in `timestamp`", input.name),
                "leave `time` out; to take another field as event time, map it in the source's `event` table",
            );
            return None;
        };
        let usable = || {
            let times = schema.columns.iter().filter(|column| column.behind_us.is_some());
            let names: Vec<&str> = times.map(|column| column.name.as_str()).collect();
            match names.as_slice() {
                [] => format!("`{}` has no column that can drive windows", input.name),
                names => format!("choose with time = \"...\" one of: {}", names.join(", ")),
            }
        };
        let Some(slot) = schema.index_of(name) else {
            section.findings().error_help(
                span,
                format!("`{}` has no column `{name}` to take the time from", input.name),
                usable(),
            );
            return None;
        };
        let column = &schema.columns[slot];
        if need == TimeNeed::Any && column.kind == ColumnType::Timestamp {
            return Some(TimeColumn { slot: Some(slot), behind_us: 0 });
        }
        let Some(behind_us) = column.behind_us else {
            section.findings().error_help(
                span,
                format!(
                    "nothing bounds how far `{name}` of `{}` lies behind the watermark",
                    input.name
                ),
                usable(),
            );
            return None;
        };
        Some(TimeColumn { slot: Some(slot), behind_us })
    }
}

/// The columns that make the key of an input's rows; events have none.
pub(crate) fn key_columns(input: &InputPlan) -> Vec<usize> {
    match &input.flow {
        InputFlow::Events(_) => Vec::new(),
        InputFlow::Rows(schema) => schema.key.clone(),
    }
}

/// True where a setting is written as a table.
pub(crate) fn is_table(section: &Section<'_>, key: &str) -> bool {
    section.node(key).is_some_and(|node| matches!(node.kind, NodeKind::Table(_)))
}
