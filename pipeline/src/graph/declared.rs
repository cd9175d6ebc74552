//! Reads what a source declares of its events: the types of paths, and the schemas of event types.

use std::collections::BTreeMap;

use waterwheel_config::expr;
use waterwheel_config::section::Section;
use waterwheel_config::value::ColumnType;

use crate::contract::event::Envelope;
use crate::contract::mapping::{EventFormat, parse_path};
use crate::runtime::decode::schemas::Schemas;

/// A larger file is no schema that somebody wrote.
const SCHEMA_BYTES_MAX: u64 = 16 << 20;

/// Reads `types`: paths in the payload, and the type that each has.
pub(super) fn types(
    section: &Section<'_>,
    format: EventFormat,
) -> BTreeMap<Vec<String>, ColumnType> {
    let mut types = BTreeMap::new();
    let Some(table) = section.table("types") else {
        return types;
    };
    for (key, node) in table.entries() {
        let Some(text) = table.node_text(node, &key.name) else {
            continue;
        };
        let findings = table.findings();
        let Some(path) = parse_path(&key.name, format) else {
            findings.error_help(
                key.span.clone(),
                format!("`{}` is no path", key.name),
                "write a path in the payload, in quotes: \"properties.price\"",
            );
            continue;
        };
        // By that name alone the field could not be reached.
        if !key.name.contains('.') && Envelope::named(&key.name).is_some() {
            findings.error_help(
                key.span.clone(),
                format!("`{}` is a field of the envelope, which has its type", key.name),
                format!("write \"payload.{0}\" for the payload's field `{0}`", key.name),
            );
            continue;
        }
        match expr::column_type(&text.value) {
            Ok(_) if types.contains_key(&path) => findings.error_help(
                key.span.clone(),
                format!("`{}` has a type already", path.join(".")),
                "declare each path once",
            ),
            Ok(kind) => {
                types.insert(path, kind);
            }
            Err(_) => findings.error_help(
                text.span,
                format!("there is no type `{}`", text.value),
                "choose one of: double, bigint, text, boolean, timestamp",
            ),
        }
    }
    types
}

/// Reads `schemas`: event types, and the files of their JSON Schemas.
pub(super) fn schemas(section: &Section<'_>) -> Schemas {
    let mut schemas = Schemas::default();
    let Some(table) = section.table("schemas") else {
        return schemas;
    };
    for (key, node) in table.entries() {
        let Some(file) = table.node_text(node, &key.name) else {
            continue;
        };
        let path = section.beside(&file.value);
        let is_too_large = || path.metadata().is_ok_and(|file| file.len() > SCHEMA_BYTES_MAX);
        let text = match is_too_large() {
            true => Err("it is larger than 16 MiB".to_owned()),
            false => std::fs::read_to_string(&path).map_err(|error| error.to_string()),
        };
        match text {
            Ok(text) => {
                if let Err(problem) = schemas.add(&key.name, &text) {
                    let message = format!("`{}` is no JSON Schema: {problem}", file.value);
                    table.findings().error(file.span, message);
                }
            }
            Err(problem) => table.findings().error_help(
                file.span,
                format!("cannot read the schema `{}`: {problem}", path.display()),
                "a relative path starts where the deployment's file is",
            ),
        }
    }
    schemas
}
