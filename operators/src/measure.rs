//! Measures: what an aggregate computes per group, from their SQL to the column they fill.

use std::collections::BTreeMap;
use std::sync::Arc;

use waterwheel_config::expr::{
    self, Argument, Ast, Call, ExprError, Kind, Program, Scope, compile, compile_predicate,
    parse_call,
};
use waterwheel_config::names::nearest;
use waterwheel_config::value::{ColumnType, Value, write_json_string};

use crate::accumulator::{Accumulator, AccumulatorKind};

/// The measures.
const MEASURES: [&str; 12] = [
    "count",
    "approx_count_distinct",
    "sum",
    "avg",
    "min",
    "max",
    "stddev",
    "first",
    "last",
    "quantile",
    "median",
    "share",
];

/// What fills an accumulator: an argument and a filter, for one input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Feed {
    /// `None` for `count(*)`.
    pub(crate) argument: Option<Program>,
    /// The condition of `FILTER (WHERE ...)`.
    pub(crate) filter: Option<Program>,
}

/// How a measure reads its accumulator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reading {
    Count,
    Sum,
    Average,
    Extreme,
    Distinct,
    Quantile(f64),
    Share,
    Edge,
    Deviation,
    Approximate,
    Breakdown,
}

/// One measure over one input.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub(crate) reading: Reading,
    pub(crate) accumulator: AccumulatorKind,
    pub(crate) feed: Feed,
    pub(crate) column: ColumnType,
}

impl Reading {
    /// The measure's value.
    pub(crate) fn read(self, accumulator: &Accumulator) -> Value {
        match (self, accumulator) {
            (Self::Count, Accumulator::Count(count)) => Value::Bigint(*count),
            (Self::Sum, Accumulator::Sum { sum, count }) if *count > 0 => {
                Value::double(sum.to_f64())
            }
            (Self::Average, Accumulator::Sum { sum, count }) if *count > 0 => {
                Value::double(sum.mean(*count))
            }
            (Self::Extreme, Accumulator::Extreme { value, .. }) => {
                value.clone().unwrap_or(Value::Null)
            }
            (Self::Extreme, Accumulator::ExtremeCounted { greatest, values, .. }) => {
                let mut present = values.iter().filter(|(_, count)| **count > 0);
                let found = if *greatest { present.next_back() } else { present.next() };
                found.map_or(Value::Null, |(value, _)| value.clone())
            }
            (Self::Distinct, Accumulator::DistinctFew(few)) => Value::Bigint(few.len() as i64),
            (Self::Distinct, Accumulator::Distinct(set)) => Value::Bigint(set.len() as i64),
            (Self::Distinct, Accumulator::DistinctCounted(counts)) => {
                Value::Bigint(counts.values().filter(|count| **count > 0).count() as i64)
            }
            (Self::Quantile(q), Accumulator::Sketch(sketch)) => {
                sketch.quantile(q).map_or(Value::Null, Value::double)
            }
            (Self::Share, Accumulator::Share { yes, known }) if *known > 0 => {
                Value::double(*yes as f64 / *known as f64)
            }
            (Self::Edge, Accumulator::Edge { value: Some(edge), .. }) => edge.1.clone(),
            (Self::Edge, Accumulator::EdgeCounted { last, values, .. }) => {
                let mut present = values.iter().filter(|(_, count)| **count > 0);
                let found = if *last { present.next_back() } else { present.next() };
                found.map_or(Value::Null, |((_, value), _)| value.clone())
            }
            (Self::Deviation, Accumulator::Moments(moments)) => {
                moments.deviation().map_or(Value::Null, Value::double)
            }
            (Self::Approximate, Accumulator::Registers(registers)) => {
                Value::Bigint(registers.estimate() as i64)
            }
            (Self::Breakdown, Accumulator::Breakdown(counts)) => Value::Json(object(counts)),
            _ => Value::Null,
        }
    }
}

impl Measure {
    /// How often each value comes.
    pub(crate) fn breakdown(argument: Program) -> Self {
        Self {
            reading: Reading::Breakdown,
            accumulator: AccumulatorKind::Breakdown,
            feed: Feed { argument: Some(argument), filter: None },
            column: ColumnType::Json,
        }
    }
}

/// True of a measure that goes by the order of the events.
pub(crate) fn goes_by_time(text: &str) -> bool {
    let call = expr::parse(text).and_then(|ast| parse_call(&ast));
    call.is_ok_and(|call| matches!(call.name.as_str(), "first" | "last"))
}

/// How a measure changed since the window before: the difference, and that in percent.
pub(crate) fn change(now: &Value, before: Option<&Value>) -> [Value; 2] {
    let (difference, base) = match (now, before) {
        (Value::Bigint(now), Some(Value::Bigint(before))) => {
            ((i128::from(*now) - i128::from(*before)) as f64, *before as f64)
        }
        (Value::Double(now), Some(Value::Double(before))) => {
            (now.get() - before.get(), before.get())
        }
        _ => return [Value::Null, Value::Null],
    };
    // In percent of nothing it is nothing: a quotient that is not finite is NULL.
    [Value::double(difference), Value::double(difference / base * 100.0)]
}

/// A JSON object of counts, in the order of the values' bytes.
fn object(counts: &BTreeMap<Box<str>, i64>) -> Arc<str> {
    let mut json = String::from("{");
    for (value, count) in counts.iter().filter(|(_, count)| **count > 0) {
        if json.len() > 1 {
            json.push(',');
        }
        write_json_string(value, &mut json);
        json.push_str(&format!(":{count}"));
    }
    json.push('}');
    json.into()
}

/// The type of a column that holds values as they come: text (SPEC 2), unless a cast chooses, or
/// what is named has a type.
pub(crate) fn bare_type(ast: &Ast, kind: Kind) -> ColumnType {
    match ast {
        Ast::Nested(inner) => bare_type(inner, kind),
        Ast::Cast { .. } | Ast::Identifier(_) | Ast::CompoundIdentifier(_) => kind.column_type(),
        _ if kind == Kind::Timestamp => ColumnType::Timestamp,
        _ => ColumnType::Text,
    }
}

/// Compiles a measure over one input.
pub(crate) fn compile_measure(text: &str, scope: &mut dyn Scope) -> Result<Measure, ExprError> {
    let ast = expr::parse(text)?;
    let call = parse_call(&ast).map_err(|error| {
        error.help(format!("a measure is one call of: {}", MEASURES.join(", ")))
    })?;
    // A misspelt name is told before what it is called with.
    if !MEASURES.contains(&call.name.as_str()) {
        return Err(refusal(&call.name));
    }
    let filter = match &call.filter {
        Some(filter) => Some(compile_predicate(filter, scope)?),
        None => None,
    };
    if call.distinct && call.name != "count" {
        return Err(ExprError::new(&call.name, format!("`{}` takes no DISTINCT", call.name))
            .help("only count does: count(distinct x)"));
    }
    let build = |reading, accumulator, argument, column| {
        Ok(Measure {
            reading,
            accumulator,
            feed: Feed { argument, filter: filter.clone() },
            column,
        })
    };
    match (call.name.as_str(), call.arguments.as_slice()) {
        ("count", [Argument::Star]) if !call.distinct => {
            build(Reading::Count, AccumulatorKind::Count, None, ColumnType::Bigint)
        }
        ("count", [Argument::Expr(argument)]) => {
            let argument = Some(compile(argument, scope)?.program);
            if call.distinct {
                build(Reading::Distinct, AccumulatorKind::Distinct, argument, ColumnType::Bigint)
            } else {
                build(Reading::Count, AccumulatorKind::Count, argument, ColumnType::Bigint)
            }
        }
        ("sum" | "avg", [Argument::Expr(argument)]) => {
            let reading = if call.name == "sum" { Reading::Sum } else { Reading::Average };
            let argument = number(argument, &call, scope)?;
            build(reading, AccumulatorKind::Sum, Some(argument), ColumnType::Double)
        }
        ("min" | "max", [Argument::Expr(argument)]) => {
            let typed = compile(argument, scope)?;
            let kind = match typed.kind {
                Kind::Any | Kind::Null => ColumnType::Double,
                Kind::Interval => return Err(interval(&call)),
                kind => kind.column_type(),
            };
            let accumulator = AccumulatorKind::Extreme { greatest: call.name == "max", kind };
            build(Reading::Extreme, accumulator, Some(typed.program), kind)
        }
        ("approx_count_distinct", [Argument::Expr(argument)]) => {
            let argument = Some(compile(argument, scope)?.program);
            build(Reading::Approximate, AccumulatorKind::Registers, argument, ColumnType::Bigint)
        }
        ("first" | "last", [Argument::Expr(argument)]) => {
            let typed = compile(argument, scope)?;
            if typed.kind == Kind::Interval {
                return Err(interval(&call));
            }
            let kind = bare_type(argument, typed.kind);
            let accumulator = AccumulatorKind::Edge { last: call.name == "last", kind };
            build(Reading::Edge, accumulator, Some(typed.program), kind)
        }
        ("stddev", [Argument::Expr(argument)]) => {
            let argument = Some(number(argument, &call, scope)?);
            build(Reading::Deviation, AccumulatorKind::Moments, argument, ColumnType::Double)
        }
        ("quantile", [Argument::Expr(q), Argument::Expr(argument)]) => {
            let reading = Reading::Quantile(fraction(q)?);
            let argument = number(argument, &call, scope)?;
            build(reading, AccumulatorKind::Sketch, Some(argument), ColumnType::Double)
        }
        ("median", [Argument::Expr(argument)]) => {
            let argument = number(argument, &call, scope)?;
            let reading = Reading::Quantile(0.5);
            build(reading, AccumulatorKind::Sketch, Some(argument), ColumnType::Double)
        }
        ("share", [Argument::Expr(condition)]) => {
            let condition = Some(compile_predicate(condition, scope)?);
            build(Reading::Share, AccumulatorKind::Share, condition, ColumnType::Double)
        }
        (name, _) => Err(refusal(name)),
    }
}

fn refusal(name: &str) -> ExprError {
    if MEASURES.contains(&name) {
        let usage = match name {
            "count" => "count(*), count(x) or count(distinct x)".to_owned(),
            "quantile" => "quantile(0.95, x)".to_owned(),
            "share" => "share(condition)".to_owned(),
            name => format!("{name}(x)"),
        };
        let message = format!("`{name}` does not take these arguments");
        return ExprError::new(name, message).help(format!("write {usage}"));
    }
    let error = ExprError::new(name, format!("there is no measure `{name}`"));
    match nearest(name, MEASURES) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help(format!("the measures are: {}", MEASURES.join(", "))),
    }
}

fn number(argument: &Ast, call: &Call, scope: &mut dyn Scope) -> Result<Program, ExprError> {
    let typed = compile(argument, scope)?;
    match typed.kind {
        Kind::Interval => Err(interval(call)),
        Kind::Boolean | Kind::Timestamp => {
            let message = format!("`{}` takes a number, not {}", call.name, typed.kind.name());
            Err(ExprError::new(&call.name, message))
        }
        _ => Ok(typed.program),
    }
}

fn interval(call: &Call) -> ExprError {
    let wanted = if matches!(call.name.as_str(), "first" | "last") { "value" } else { "number" };
    let message = format!("`{}` takes a {wanted}, not a time difference", call.name);
    ExprError::new(&call.name, message).help("write `millis(a - b)` for milliseconds")
}

fn fraction(ast: &Ast) -> Result<f64, ExprError> {
    let text = ast.to_string();
    let error = || ExprError::new(&text, format!("`{text}` is no quantile"));
    match text.parse::<f64>() {
        Ok(q) if (0.0..=1.0).contains(&q) => Ok(q),
        Ok(percent) if percent > 1.0 && percent <= 100.0 => {
            Err(error().help(format!("write a number from 0 to 1: {}", percent / 100.0)))
        }
        _ => Err(error().help("the first argument is a number from 0 to 1: quantile(0.95, x)")),
    }
}
