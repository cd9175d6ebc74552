//! From SQL's syntax tree to a typed program.

use chrono_tz::Tz;
use sqlparser::ast::{
    BinaryOperator, CeilFloorKind, DateTimeField, Expr, Ident, UnaryOperator, Value as Literal,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::call::{Argument, parse_call};
use super::date::DatePart;
use super::pattern::{LikeForm, Pattern};
use super::program::{Arithmetic, Comparison, Constant, Program, UnaryFunction};
use crate::names::nearest;
use crate::value::ColumnType;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The slot of the name in [`super::Fields`].
    pub slot: usize,
    /// What is known of its values.
    pub kind: Kind,
}

/// Resolves names to slots. Resolving may allot a slot, so that only what is named is decoded.
pub trait Scope {
    /// The slot of a (dotted) name.
    ///
    /// # Errors
    /// What is wrong with the name.
    fn resolve(&mut self, path: &[String]) -> Result<Binding, ExprError>;

    /// The timezone of `date_trunc` and `extract`.
    fn timezone(&self) -> Tz {
        Tz::UTC
    }
}

/// What is known of an expression's values before the first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any JSON value (a bare payload path, an envelope field).
    Any,
    /// Always NULL.
    Null,
    /// Text.
    Text,
    /// A number: arithmetic.
    Double,
    /// A whole number: by `cast` or from a `bigint` column.
    Bigint,
    /// True, false or unknown.
    Boolean,
    /// A timestamp.
    Timestamp,
    /// A difference of timestamps.
    Interval,
}

impl Kind {
    /// The type of a column that holds such values.
    pub fn column_type(self) -> ColumnType {
        match self {
            Self::Any | Self::Null | Self::Text => ColumnType::Text,
            Self::Double | Self::Interval => ColumnType::Double,
            Self::Bigint => ColumnType::Bigint,
            Self::Boolean => ColumnType::Boolean,
            Self::Timestamp => ColumnType::Timestamp,
        }
    }

    /// What to call it in a finding.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "a JSON value",
            Self::Null => "NULL",
            Self::Text => "a text",
            Self::Double | Self::Bigint => "a number",
            Self::Boolean => "a condition",
            Self::Timestamp => "a timestamp",
            Self::Interval => "a time difference",
        }
    }
}

impl From<ColumnType> for Kind {
    fn from(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Text => Self::Text,
            ColumnType::Bigint => Self::Bigint,
            ColumnType::Double => Self::Double,
            ColumnType::Boolean => Self::Boolean,
            ColumnType::Timestamp => Self::Timestamp,
            ColumnType::Json => Self::Any,
        }
    }
}

/// A program and what is known of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Typed {
    /// The compiled expression.
    pub program: Program,
    /// What is known of its values.
    pub kind: Kind,
}

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    /// The word in the text at which to point; empty for the whole text.
    pub word: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl ExprError {
    /// An error at a word.
    pub fn new(word: impl Into<String>, message: impl Into<String>) -> Self {
        Self { word: word.into(), message: message.into(), help: None }
    }

    /// With what to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Parses one SQL expression.
///
/// # Errors
/// Where the text is no expression.
pub fn parse(text: &str) -> Result<Expr, ExprError> {
    let dialect = PostgreSqlDialect {};
    let fail = |error: sqlparser::parser::ParserError| syntax_error(text, &error.to_string());
    let mut parser = Parser::new(&dialect).try_with_sql(text).map_err(fail)?;
    let expr = parser.parse_expr().map_err(fail)?;
    match parser.peek_token().token {
        Token::EOF => Ok(expr),
        token => {
            let message = format!("the expression ends before `{token}`");
            Err(ExprError::new(token.to_string(), message)
                .help("join conditions with AND or OR, and put a text in single quotes"))
        }
    }
}

/// The parser's message, pointing at the place that it names: `... at Line: 1, Column: 14`.
fn syntax_error(text: &str, message: &str) -> ExprError {
    let message = message.trim_start_matches("sql parser error: ");
    let (what, place) = message.split_once(" at Line: ").unwrap_or((message, ""));
    let mut place = place.split(", Column: ").map(str::parse::<usize>);
    let rest = match (place.next(), place.next()) {
        (Some(Ok(line)), Some(Ok(column))) => {
            text.lines().nth(line.saturating_sub(1)).and_then(|line| {
                line.char_indices().nth(column.saturating_sub(1)).map(|(at, _)| &line[at..])
            })
        }
        _ => None,
    };
    let what = what.trim();
    if what.is_empty() || text.trim().is_empty() {
        return ExprError::new("", "the expression is empty");
    }
    let mut letters = what.chars();
    let first = letters.next().map(|first| first.to_lowercase().to_string()).unwrap_or_default();
    let what = format!("{first}{}", letters.as_str()).replace("expected: ", "expected ");
    let what = match what.split_once(", found: ") {
        Some((expected, "EOF")) => format!("{expected}, but it ends"),
        Some((expected, found)) => format!("{expected}, found `{found}`"),
        None => what,
    };
    ExprError::new(rest.unwrap_or_default(), format!("this is no SQL expression: {what}"))
}

/// Compiles a parsed expression.
///
/// # Errors
/// At the first name, function or form that cannot be compiled.
pub fn compile(expr: &Expr, scope: &mut dyn Scope) -> Result<Typed, ExprError> {
    let typed = |program, kind| Ok(Typed { program, kind });
    match expr {
        Expr::Nested(inner) => compile(inner, scope),
        Expr::Identifier(name) => name_of(std::slice::from_ref(name), scope),
        Expr::CompoundIdentifier(names) => name_of(names, scope),
        Expr::Value(value) => literal(&value.value),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
            typed(Program::Not(Box::new(compile_predicate(expr, scope)?)), Kind::Boolean)
        }
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
            let inner = compile(expr, scope)?;
            let kind = if inner.kind == Kind::Interval { Kind::Interval } else { Kind::Double };
            typed(Program::Negate(Box::new(inner.program)), kind)
        }
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } => compile(expr, scope),
        Expr::BinaryOp { left, op, right } => binary(left, op, right, scope),
        Expr::IsNull(inner) => typed(Program::IsNull(boxed(inner, scope)?), Kind::Boolean),
        Expr::IsNotNull(inner) => typed(not(Program::IsNull(boxed(inner, scope)?)), Kind::Boolean),
        Expr::IsTrue(inner) => typed(Program::Is(true, boxed(inner, scope)?), Kind::Boolean),
        Expr::IsFalse(inner) => typed(Program::Is(false, boxed(inner, scope)?), Kind::Boolean),
        Expr::IsNotTrue(inner) => {
            typed(not(Program::Is(true, boxed(inner, scope)?)), Kind::Boolean)
        }
        Expr::IsNotFalse(inner) => {
            typed(not(Program::Is(false, boxed(inner, scope)?)), Kind::Boolean)
        }
        Expr::InList { expr, list, negated } => {
            let value = boxed(expr, scope)?;
            let list = programs(list, scope)?;
            typed(negate_if(*negated, Program::In(value, list)), Kind::Boolean)
        }
        Expr::Between { expr, negated, low, high } => {
            let value = boxed(expr, scope)?;
            let within = Program::And(vec![
                Program::Compare(Comparison::GreaterOrEqual, value.clone(), boxed(low, scope)?),
                Program::Compare(Comparison::LessOrEqual, value, boxed(high, scope)?),
            ]);
            typed(negate_if(*negated, within), Kind::Boolean)
        }
        Expr::Like { negated, any: false, expr, pattern, escape_char } => {
            let form = like_form(escape_char.as_deref(), false)?;
            typed(negate_if(*negated, like(expr, pattern, form, scope)?), Kind::Boolean)
        }
        Expr::ILike { negated, any: false, expr, pattern, escape_char } => {
            let form = like_form(escape_char.as_deref(), true)?;
            typed(negate_if(*negated, like(expr, pattern, form, scope)?), Kind::Boolean)
        }
        Expr::Case { operand, conditions, else_result, .. } => {
            let operand = operand.as_deref().map(|operand| boxed(operand, scope)).transpose()?;
            let mut branches = Vec::new();
            let mut kind = Kind::Null;
            for when in conditions {
                let condition = match &operand {
                    Some(operand) => Program::Compare(
                        Comparison::Equal,
                        operand.clone(),
                        boxed(&when.condition, scope)?,
                    ),
                    None => compile_predicate(&when.condition, scope)?,
                };
                let result = compile(&when.result, scope)?;
                kind = first_typed(kind, result.kind);
                branches.push((condition, result.program));
            }
            let otherwise = match else_result {
                Some(result) => compile(result, scope)?,
                None => Typed { program: Program::Constant(Constant::Null), kind: Kind::Null },
            };
            let kind = first_typed(kind, otherwise.kind);
            typed(Program::Case(branches, Box::new(otherwise.program)), kind)
        }
        Expr::Cast { expr, data_type, .. } => {
            let kind = column_type(&data_type.to_string())?;
            typed(Program::Cast(kind, boxed(expr, scope)?), kind.into())
        }
        Expr::Floor { expr, field } => whole(UnaryFunction::Floor, expr, field, scope),
        Expr::Ceil { expr, field } => whole(UnaryFunction::Ceil, expr, field, scope),
        Expr::Extract { field, expr, .. } => {
            let part = DatePart::part(&field.to_string())?;
            let inner = compile(expr, scope)?;
            if inner.kind == Kind::Interval && part != DatePart::Epoch {
                let message = format!("of a time difference there is no `{field}`");
                return Err(ExprError::new(field.to_string(), message)
                    .help("write extract(epoch from a - b) for seconds, or millis(a - b)"));
            }
            let program = Program::Extract(part, scope.timezone(), Box::new(inner.program));
            typed(program, Kind::Double)
        }
        Expr::Function(_) => function(expr, scope),
        other => Err(ExprError::new(other.to_string(), format!("`{other}` is not part of the expression language"))
            .help("there are comparisons, AND OR NOT, IN, BETWEEN, LIKE, IS NULL, + - * / %, CASE, COALESCE, cast and a few functions")),
    }
}

/// Compiles what must be a condition.
///
/// # Errors
/// As [`compile`], and where the expression is something else.
pub fn compile_predicate(expr: &Expr, scope: &mut dyn Scope) -> Result<Program, ExprError> {
    let typed = compile(expr, scope)?;
    if matches!(typed.kind, Kind::Boolean | Kind::Any | Kind::Null) {
        return Ok(typed.program);
    }
    let message = format!("`{expr}` is {} where a condition is wanted", typed.kind.name());
    Err(ExprError::new(expr.to_string(), message)
        .help("compare it with something: `= <> < <= > >= IN LIKE IS NULL`"))
}

fn name_of(names: &[Ident], scope: &mut dyn Scope) -> Result<Typed, ExprError> {
    let path: Vec<String> = names.iter().map(|name| name.value.clone()).collect();
    let binding = scope.resolve(&path)?;
    // Of a source's events every name is a path, so that a text in the wrong quotes would be one
    // that no event has.
    if let [Ident { value, quote_style: Some('"'), .. }] = names
        && binding.kind == Kind::Any
    {
        let message = format!("`{value}` in double quotes is the name of a field");
        return Err(ExprError::new(value, message)
            .help(format!("write '{value}' for the text, or payload.\"{value}\" for the field")));
    }
    Ok(Typed { program: Program::Slot(binding.slot), kind: binding.kind })
}

fn literal(value: &Literal) -> Result<Typed, ExprError> {
    let (constant, kind) = match value {
        Literal::Null => (Constant::Null, Kind::Null),
        Literal::Boolean(flag) => (Constant::Boolean(*flag), Kind::Boolean),
        Literal::SingleQuotedString(text) | Literal::EscapedStringLiteral(text) => {
            (Constant::Text(text.clone()), Kind::Text)
        }
        Literal::Number(text, _) => match text.parse::<u64>() {
            Ok(number) => (Constant::Integer(number.into()), Kind::Double),
            Err(_) => match text.parse::<f64>().ok().filter(|number| number.is_finite()) {
                Some(number) => (Constant::Float(number), Kind::Double),
                None => return Err(ExprError::new(text, format!("`{text}` is no double"))),
            },
        },
        other => {
            return Err(ExprError::new("", format!("`{other}` is not a literal of this language")));
        }
    };
    Ok(Typed { program: Program::Constant(constant), kind })
}

fn binary(
    left: &Expr,
    operator: &BinaryOperator,
    right: &Expr,
    scope: &mut dyn Scope,
) -> Result<Typed, ExprError> {
    if matches!(operator, BinaryOperator::And | BinaryOperator::Or) {
        let and = *operator == BinaryOperator::And;
        let (left, right) = (compile_predicate(left, scope)?, compile_predicate(right, scope)?);
        let parts = flatten(left, right, and);
        let program = if and { Program::And(parts) } else { Program::Or(parts) };
        return Ok(Typed { program, kind: Kind::Boolean });
    }
    let (left, right) = (compile(left, scope)?, compile(right, scope)?);
    let comparison = match operator {
        BinaryOperator::Eq => Some(Comparison::Equal),
        BinaryOperator::NotEq => Some(Comparison::NotEqual),
        BinaryOperator::Lt => Some(Comparison::Less),
        BinaryOperator::LtEq => Some(Comparison::LessOrEqual),
        BinaryOperator::Gt => Some(Comparison::Greater),
        BinaryOperator::GtEq => Some(Comparison::GreaterOrEqual),
        _ => None,
    };
    let arithmetic = match operator {
        BinaryOperator::Plus => Some(Arithmetic::Add),
        BinaryOperator::Minus => Some(Arithmetic::Subtract),
        BinaryOperator::Multiply => Some(Arithmetic::Multiply),
        BinaryOperator::Divide => Some(Arithmetic::Divide),
        BinaryOperator::Modulo => Some(Arithmetic::Remainder),
        _ => None,
    };
    let kinds = (left.kind, right.kind);
    let (left, right) = (Box::new(left.program), Box::new(right.program));
    let (program, kind) = match (comparison, arithmetic) {
        (Some(comparison), _) => (Program::Compare(comparison, left, right), Kind::Boolean),
        (_, Some(arithmetic)) => {
            (Program::Arithmetic(arithmetic, left, right), arithmetic_kind(arithmetic, kinds))
        }
        _ => {
            let word = operator.to_string();
            return Err(ExprError::new(&word, format!("there is no operator `{word}`"))
                .help("the operators are: = <> < <= > >= + - * / % AND OR NOT"));
        }
    };
    Ok(Typed { program, kind })
}

fn arithmetic_kind(arithmetic: Arithmetic, kinds: (Kind, Kind)) -> Kind {
    match (arithmetic, kinds) {
        (Arithmetic::Subtract, (Kind::Timestamp, Kind::Timestamp)) => Kind::Interval,
        (Arithmetic::Subtract | Arithmetic::Add, (Kind::Interval, Kind::Interval)) => {
            Kind::Interval
        }
        (Arithmetic::Subtract | Arithmetic::Add, (Kind::Timestamp, Kind::Interval))
        | (Arithmetic::Add, (Kind::Interval, Kind::Timestamp)) => Kind::Timestamp,
        _ => Kind::Double,
    }
}

/// `a AND (b AND c)` as one list, so that long conditions evaluate without deep recursion.
fn flatten(left: Program, right: Program, and: bool) -> Vec<Program> {
    let mut parts = Vec::new();
    for part in [left, right] {
        match part {
            Program::And(inner) if and => parts.extend(inner),
            Program::Or(inner) if !and => parts.extend(inner),
            other => parts.push(other),
        }
    }
    parts
}

fn function(expr: &Expr, scope: &mut dyn Scope) -> Result<Typed, ExprError> {
    const FUNCTIONS: [&str; 12] = [
        "coalesce",
        "lower",
        "upper",
        "abs",
        "round",
        "floor",
        "ceil",
        "ceiling",
        "ts",
        "millis",
        "date_trunc",
        "nullif",
    ];
    let call = parse_call(expr)?;
    if call.distinct || call.filter.is_some() {
        let message =
            format!("`{}` is no measure: DISTINCT and FILTER do not belong here", call.name);
        return Err(ExprError::new(&call.name, message));
    }
    // Before its arguments: of `sum(count(*))` the call is what is wrong, and not the star.
    if !FUNCTIONS.contains(&call.name.as_str()) {
        return Err(no_function(&call.name, &FUNCTIONS));
    }
    let mut arguments = Vec::new();
    for argument in &call.arguments {
        match argument {
            Argument::Star => return Err(ExprError::new("*", "`*` is no value")),
            Argument::Expr(argument) => arguments.push(compile(argument, scope)?),
        }
    }
    let wrong_count = |wanted: &str| {
        let message = format!("`{}` takes {wanted}, not {}", call.name, call.arguments.len());
        Err(ExprError::new(&call.name, message))
    };
    let unary = match call.name.as_str() {
        "lower" => Some((UnaryFunction::Lower, Kind::Text)),
        "upper" => Some((UnaryFunction::Upper, Kind::Text)),
        "abs" => Some((UnaryFunction::Abs, Kind::Double)),
        "floor" => Some((UnaryFunction::Floor, Kind::Double)),
        "ceil" | "ceiling" => Some((UnaryFunction::Ceil, Kind::Double)),
        "ts" => Some((UnaryFunction::Ts, Kind::Timestamp)),
        "millis" => Some((UnaryFunction::Millis, Kind::Double)),
        _ => None,
    };
    if let Some((function, kind)) = unary {
        let [argument] = arguments.as_slice() else {
            return wrong_count("one argument");
        };
        if function == UnaryFunction::Millis && !matches!(argument.kind, Kind::Interval | Kind::Any)
        {
            let message = format!("`millis` takes a time difference, not {}", argument.kind.name());
            return Err(
                ExprError::new("millis", message).help("write `millis(timestamp - ts(other))`")
            );
        }
        let program = Program::Unary(function, Box::new(argument.program.clone()));
        return Ok(Typed { program, kind });
    }
    match (call.name.as_str(), arguments.as_slice()) {
        ("coalesce", [_, ..]) => {
            let kind = arguments.iter().fold(Kind::Null, |kind, part| first_typed(kind, part.kind));
            let parts = arguments.into_iter().map(|part| part.program).collect();
            Ok(Typed { program: Program::Coalesce(parts), kind })
        }
        ("coalesce", []) => wrong_count("at least one argument"),
        ("nullif", [value, other]) => {
            let equal = Program::Compare(
                Comparison::Equal,
                Box::new(value.program.clone()),
                Box::new(other.program.clone()),
            );
            let branch = vec![(equal, Program::Constant(Constant::Null))];
            let program = Program::Case(branch, Box::new(value.program.clone()));
            Ok(Typed { program, kind: value.kind })
        }
        ("nullif", _) => wrong_count("two arguments"),
        ("round", [value]) => Ok(Typed {
            program: Program::Round(
                Box::new(value.program.clone()),
                Box::new(Program::Constant(Constant::Integer(0))),
            ),
            kind: Kind::Double,
        }),
        ("round", [value, digits]) => Ok(Typed {
            program: Program::Round(
                Box::new(value.program.clone()),
                Box::new(digits.program.clone()),
            ),
            kind: Kind::Double,
        }),
        ("round", _) => wrong_count("one or two arguments"),
        ("date_trunc", [Typed { program: Program::Constant(Constant::Text(unit)), .. }, time]) => {
            let part = DatePart::unit(unit)?;
            let program = Program::Truncate(part, scope.timezone(), Box::new(time.program.clone()));
            Ok(Typed { program, kind: Kind::Timestamp })
        }
        ("date_trunc", _) => wrong_count("a unit in quotes and a timestamp"),
        (name, _) => Err(no_function(name, &FUNCTIONS)),
    }
}

fn no_function(name: &str, functions: &[&str]) -> ExprError {
    let error = ExprError::new(name, format!("there is no function `{name}` here"));
    match nearest(name, functions.iter().copied()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help(format!("the functions are: {}", functions.join(", "))),
    }
}

fn whole(
    function: UnaryFunction,
    expr: &Expr,
    field: &CeilFloorKind,
    scope: &mut dyn Scope,
) -> Result<Typed, ExprError> {
    if !matches!(field, CeilFloorKind::DateTimeField(DateTimeField::NoDateTime)) {
        return Err(ExprError::new("", "floor and ceil take one number"));
    }
    Ok(Typed { program: Program::Unary(function, boxed(expr, scope)?), kind: Kind::Double })
}

/// How a pattern is read that has an `ESCAPE` or none.
fn like_form(escape: Option<&Expr>, ignores_case: bool) -> Result<LikeForm, ExprError> {
    let Some(escape) = escape else {
        return Ok(LikeForm { escape: Some('\\'), ignores_case });
    };
    let text = match escape {
        Expr::Value(value) => match &value.value {
            Literal::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    };
    let mut characters = text.map(|text| text.chars());
    match characters.as_mut().map(|characters| (characters.next(), characters.next())) {
        Some((escape, None)) => Ok(LikeForm { escape, ignores_case }),
        _ => Err(ExprError::new(escape.to_string(), "ESCAPE takes one character in quotes")
            .help("write for example LIKE '10!%' ESCAPE '!'")),
    }
}

fn like(
    expr: &Expr,
    pattern: &Expr,
    form: LikeForm,
    scope: &mut dyn Scope,
) -> Result<Program, ExprError> {
    let value = boxed(expr, scope)?;
    Ok(match compile(pattern, scope)?.program {
        Program::Constant(Constant::Text(text)) => Program::Like(value, Pattern::new(&text, form)),
        pattern => Program::LikeAny(value, Box::new(pattern), form),
    })
}

/// The type that a cast names.
///
/// # Errors
/// Where there is no such type.
pub fn column_type(written: &str) -> Result<ColumnType, ExprError> {
    let lowered = written.to_lowercase();
    Ok(match lowered.as_str() {
        "double" | "double precision" | "float8" => ColumnType::Double,
        "bigint" | "int8" => ColumnType::Bigint,
        "text" | "varchar" => ColumnType::Text,
        "boolean" | "bool" => ColumnType::Boolean,
        "timestamp" | "timestamptz" | "timestamp with time zone" => ColumnType::Timestamp,
        _ => {
            return Err(ExprError::new(written, format!("cannot cast to `{written}`"))
                .help("cast to one of: double, bigint, text, boolean, timestamp"));
        }
    })
}

/// `CASE` and `COALESCE` take the type of their first typed branch.
fn first_typed(so_far: Kind, next: Kind) -> Kind {
    if matches!(so_far, Kind::Null | Kind::Any) && next != Kind::Null { next } else { so_far }
}

fn boxed(expr: &Expr, scope: &mut dyn Scope) -> Result<Box<Program>, ExprError> {
    Ok(Box::new(compile(expr, scope)?.program))
}

fn programs(list: &[Expr], scope: &mut dyn Scope) -> Result<Vec<Program>, ExprError> {
    list.iter().map(|item| Ok(compile(item, scope)?.program)).collect()
}

fn not(program: Program) -> Program {
    Program::Not(Box::new(program))
}

fn negate_if(negated: bool, program: Program) -> Program {
    if negated { not(program) } else { program }
}

#[cfg(test)]
mod tests {
    use super::super::{Fields, Val};
    use super::*;

    /// Names `a` to `e` in slots 0 to 4, and `time` in slot 5.
    struct Letters;
    impl Scope for Letters {
        fn resolve(&mut self, path: &[String]) -> Result<Binding, ExprError> {
            let name = path.join(".");
            if name == "left.timestamp" || name == "timestamp" {
                return Ok(Binding { slot: 5, kind: Kind::Timestamp });
            }
            match "abcde".find(&name) {
                Some(slot) if name.len() == 1 => Ok(Binding { slot, kind: Kind::Any }),
                _ => Err(ExprError::new(&name, format!("no field `{name}`"))),
            }
        }
    }

    struct Values(Vec<Val<'static>>);
    impl Fields for Values {
        fn get(&self, slot: usize) -> Val<'_> {
            self.0.get(slot).cloned().unwrap_or(Val::Null)
        }
    }

    fn eval(text: &str) -> Val<'static> {
        let fields = Values(vec![
            Val::Integer(10),
            Val::text("x"),
            Val::Null,
            Val::text("2.5"),
            Val::Boolean(true),
            Val::Timestamp(90_000_000),
        ]);
        let typed = parse(text)
            .and_then(|ast| compile(&ast, &mut Letters))
            .unwrap_or_else(|error| panic!("{text}: {error:?}"));
        match typed.program.eval(&fields) {
            Val::Text(text) => Val::Text(text.into_owned().into()),
            Val::Json(_) => Val::Null,
            Val::Null => Val::Null,
            Val::Boolean(flag) => Val::Boolean(flag),
            Val::Integer(number) => Val::Integer(number),
            Val::Float(number) => Val::Float(number),
            Val::Timestamp(micros) => Val::Timestamp(micros),
            Val::Interval(micros) => Val::Interval(micros),
        }
    }

    #[test]
    fn expressions_mean_what_sql_says() {
        let yes = Val::Boolean(true);
        let no = Val::Boolean(false);
        for (text, value) in [
            ("a = 10 AND b = 'x'", yes.clone()),
            ("c = 1", Val::Null),
            ("c = 1 OR e", yes.clone()),
            ("c = 1 AND b = 'y'", no.clone()),
            ("NOT (c IS NULL)", no.clone()),
            ("a IN (1, 2, 10)", yes.clone()),
            ("a IN (1, NULL)", Val::Null),
            ("a NOT IN (1, 2)", yes.clone()),
            ("a BETWEEN 1 AND 10", yes.clone()),
            ("b LIKE 'x%'", yes.clone()),
            ("d > 2", yes.clone()),
            ("b > 2", Val::Null),
            ("a + d", Val::Float(12.5)),
            ("a / 4", Val::Float(2.5)),
            ("a / 0", Val::Null),
            ("a % 3", Val::Integer(1)),
            ("-a", Val::Integer(-10)),
            ("CASE WHEN a > 5 THEN 'big' ELSE 'small' END", Val::text("big")),
            ("CASE b WHEN 'x' THEN 1 END", Val::Integer(1)),
            ("COALESCE(c, b)", Val::text("x")),
            ("upper(b)", Val::text("X")),
            ("round(2.5)", Val::Float(3.0)),
            ("round(d * 10, -1)", Val::Float(30.0)),
            ("floor(d)", Val::Float(2.0)),
            ("cast(d as bigint)", Val::Integer(2)),
            ("cast(a as text)", Val::text("10")),
            ("cast(b as double)", Val::Null),
            ("ts('1970-01-01T00:00:01Z')", Val::Timestamp(1_000_000)),
            ("millis(timestamp - ts('1970-01-01T00:01:00Z'))", Val::Integer(30_000)),
            ("millis(left.timestamp - timestamp)", Val::Integer(0)),
            ("date_trunc('minute', timestamp)", Val::Timestamp(60_000_000)),
            ("extract(minute from timestamp)", Val::Integer(1)),
            ("timestamp > ts('1970-01-01T00:00:00Z')", yes.clone()),
            ("timestamp > '1970-01-01'", Val::Null),
            ("e = 'true'", Val::Null),
        ] {
            assert_eq!(eval(text), value, "{text}");
        }
    }

    #[test]
    fn errors_point_at_a_word() {
        for (text, word) in
            [("a = zz", "zz"), ("uper(b)", "uper"), ("a b", "b"), ("cast(a as blob)", "BLOB")]
        {
            let error = parse(text).and_then(|ast| compile(&ast, &mut Letters)).unwrap_err();
            assert_eq!(error.word, word, "{text}: {error:?}");
        }
    }

    #[test]
    fn conditions_are_wanted_where_truth_is() {
        for text in ["a + 1 AND e", "e OR 'x'", "NOT 5", "CASE WHEN a + 1 THEN 1 END"] {
            let error = parse(text).and_then(|ast| compile(&ast, &mut Letters)).unwrap_err();
            assert!(error.message.contains("a condition is wanted"), "{text}: {error:?}");
        }
    }

    #[test]
    fn a_text_in_the_wrong_quotes_is_told() {
        let error = parse("a = \"b\"").and_then(|ast| compile(&ast, &mut Letters)).unwrap_err();
        assert!(error.help.is_some_and(|help| help.contains("'b'")));
    }

    #[test]
    fn kinds_decide_column_types() {
        for (text, kind) in [
            ("a", Kind::Any),
            ("a + 1", Kind::Double),
            ("a > 1", Kind::Boolean),
            ("CASE WHEN e THEN a ELSE 1 END", Kind::Double),
            ("cast(a as bigint)", Kind::Bigint),
            ("timestamp", Kind::Timestamp),
        ] {
            let typed = parse(text).and_then(|ast| compile(&ast, &mut Letters)).unwrap();
            assert_eq!(typed.kind, kind, "{text}");
        }
    }
}
