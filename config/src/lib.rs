//! The language of a deployment: a TOML file becomes findings or typed settings, and SQL
//! expressions become typed programs.
//!
//! Nothing here knows a component: kinds of source, operator and sink read their own settings
//! from a [`section::Section`] and compile their expressions with [`expr`].

pub mod calendar;
pub mod document;
pub mod expr;
pub mod finding;
mod mask;
pub mod names;
pub mod schema;
pub mod secret;
pub mod section;
mod syntax;
pub mod timestamp;
pub mod units;
pub mod value;
