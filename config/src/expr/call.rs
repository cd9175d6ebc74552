//! A function call taken apart, for functions and for measures: `sum(DISTINCT x) FILTER (WHERE c)`.

use sqlparser::ast::{
    DuplicateTreatment, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectNamePart,
};

use super::compile::ExprError;

/// A call with its parts.
#[derive(Clone, Debug)]
pub struct Call {
    /// The function's name in lower case.
    pub name: String,
    /// The arguments in order.
    pub arguments: Vec<Argument>,
    /// True for `f(DISTINCT x)`.
    pub distinct: bool,
    /// The condition of `FILTER (WHERE ...)`.
    pub filter: Option<Expr>,
}

/// One argument of a call.
#[derive(Clone, Debug)]
pub enum Argument {
    /// `*`
    Star,
    /// An expression.
    Expr(Box<Expr>),
}

/// Takes a call apart.
///
/// # Errors
/// Where the expression is no plain call.
pub fn parse_call(expr: &Expr) -> Result<Call, ExprError> {
    let Expr::Function(function) = expr else {
        return Err(ExprError::new("", format!("`{expr}` is not a function call")));
    };
    let [ObjectNamePart::Identifier(name)] = function.name.0.as_slice() else {
        let message = format!("`{}` is not the name of a function", function.name);
        return Err(ExprError::new("", message));
    };
    let name = name.value.to_lowercase();
    let plain = function.over.is_none()
        && function.within_group.is_empty()
        && function.null_treatment.is_none();
    let list = match &function.args {
        FunctionArguments::List(list) if plain && list.clauses.is_empty() => list,
        _ => {
            let message = format!("`{name}` takes plain arguments in parentheses");
            return Err(ExprError::new(name, message));
        }
    };
    let arguments = list
        .args
        .iter()
        .map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => {
                Ok(Argument::Expr(Box::new(expr.clone())))
            }
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => Ok(Argument::Star),
            other => Err(ExprError::new("", format!("`{other}` is not an argument here"))),
        })
        .collect::<Result<_, _>>()?;
    Ok(Call {
        name,
        arguments,
        distinct: list.duplicate_treatment == Some(DuplicateTreatment::Distinct),
        filter: function.filter.as_deref().cloned(),
    })
}
