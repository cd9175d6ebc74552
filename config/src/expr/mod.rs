//! SQL expressions over events and rows: parsed by `sqlparser`, compiled to a typed program,
//! evaluated on borrowed values.
//!
//! [`compile_text`] turns the text of a setting into a [`Typed`] program, reporting what is wrong
//! at its words. Names are resolved by a [`Scope`]: the fields of a source's events, or the columns
//! of another operator's rows.

mod call;
mod compile;
mod date;
mod pattern;
mod program;
mod rounding;
#[cfg(test)]
mod semantics;
mod val;

pub use call::{Argument, Call, parse_call};
pub use compile::{
    Binding, ExprError, Kind, Scope, Typed, column_type, compile, compile_predicate, parse,
};
pub use date::DatePart;
pub use pattern::{LikeForm, Pattern};
pub use program::{Comparison, Constant, Fields, Program};
pub use sqlparser::ast::Expr as Ast;
pub use val::{Number, Val};

use crate::section::{Section, Spanned};

/// Compiles the text of a setting; what is wrong becomes a finding at the offending words.
pub fn compile_text(
    section: &Section<'_>,
    text: &Spanned<String>,
    scope: &mut dyn Scope,
) -> Option<Typed> {
    match parse(&text.value).and_then(|ast| compile(&ast, scope)) {
        Ok(typed) => Some(typed),
        Err(error) => {
            report(section, text, &error);
            None
        }
    }
}

/// Compiles the condition under `key`, if the key is written.
pub fn compile_condition(
    section: &Section<'_>,
    key: &str,
    scope: &mut dyn Scope,
) -> Option<Program> {
    let text = section.text(key)?;
    condition(section, &text, scope)
}

/// Compiles a text that must be a condition.
pub fn condition(
    section: &Section<'_>,
    text: &Spanned<String>,
    scope: &mut dyn Scope,
) -> Option<Program> {
    match parse(&text.value).and_then(|ast| compile_predicate(&ast, scope)) {
        Ok(program) => Some(program),
        Err(error) => {
            report(section, text, &error);
            None
        }
    }
}

/// Reports an expression's error at its words.
pub fn report(section: &Section<'_>, text: &Spanned<String>, error: &ExprError) {
    let span = section.word(&text.span, &error.word);
    match &error.help {
        Some(help) => section.findings().error_help(span, error.message.clone(), help.clone()),
        None => section.findings().error(span, error.message.clone()),
    }
}
