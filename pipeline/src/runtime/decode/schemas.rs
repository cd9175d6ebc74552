//! JSON Schemas of event types: an event that violates the schema of its type is a dead letter.
//!
//! Only events of a type that has a schema pay for it: their payload is parsed once more, whole.
//! Nothing is fetched: a schema stands for itself.

use std::collections::BTreeMap;
use std::fmt;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{ReferencingError, Retrieve, Uri, Validator};
use serde_json::Value as Json;

/// The longest that the detail of a violation may be, in characters: it may show a value whole.
const DETAIL_CHARS_MAX: usize = 300;

/// The schemas of a source, by event type.
#[derive(Default)]
pub struct Schemas {
    schemas: BTreeMap<String, Schema>,
}

struct Schema {
    validator: Validator,
    /// What it demands, in a spelling that is the same for the same schema.
    meaning: String,
}

impl fmt::Debug for Schemas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.schemas.keys()).finish()
    }
}

/// Refuses whatever a schema refers to outside of itself.
struct Nothing;

impl Retrieve for Nothing {
    fn retrieve(
        &self,
        uri: &Uri<String>,
    ) -> Result<Json, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("{uri} is not in the file").into())
    }
}

impl Schemas {
    /// Adds the schema of an event type, as JSON text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(&mut self, event_type: &str, schema: &str) -> Result<(), String> {
        let schema: Json =
            serde_json::from_str(schema).map_err(|error| format!("it is no JSON: {error}"))?;
        let validator = jsonschema::options()
            .with_retriever(Nothing)
            .build(&schema)
            .map_err(|error| explain(&error))?;
        let meaning = schema.to_string();
        self.schemas.insert(event_type.to_owned(), Schema { validator, meaning });
        Ok(())
    }

    /// True where no event type has one.
    pub fn is_empty(&self) -> bool {
        self.schemas.is_empty()
    }

    /// What they demand: spaces and the order of keys in a file mean nothing.
    pub fn meaning(&self) -> String {
        let meaning = |(event_type, schema): (&String, &Schema)| {
            format!("\nschema {event_type:?} {}", schema.meaning)
        };
        self.schemas.iter().map(meaning).collect()
    }

    /// True for an event type that has one.
    pub(super) fn has(&self, event_type: &str) -> bool {
        self.schemas.contains_key(event_type)
    }

    /// What of the payload violates the schema of the event type; nothing where all is well.
    pub(super) fn violation(&self, event_type: &str, payload: &str) -> Option<String> {
        let Schema { validator, .. } = self.schemas.get(event_type)?;
        let payload: Json = match serde_json::from_str(payload) {
            Ok(payload) => payload,
            Err(error) => return Some(shortened(format!("cannot be read: {error}"))),
        };
        if validator.is_valid(&payload) {
            return None;
        }
        // The least, so that the detail does not depend on the order in which they are looked for.
        let details = validator.iter_errors(&payload).map(|error| {
            let path = error.instance_path().to_string();
            let place = if path.is_empty() { "the payload".to_owned() } else { path };
            format!("{place}: {error}")
        });
        Some(shortened(details.min().unwrap_or_else(|| "it violates the schema".to_owned())))
    }
}

fn explain(error: &jsonschema::ValidationError<'_>) -> String {
    match error.kind() {
        ValidationErrorKind::Referencing(ReferencingError::Unretrievable { uri, .. }) => {
            return format!(
                "`{uri}` is not in the file, and nothing is fetched: copy it under $defs"
            );
        }
        ValidationErrorKind::Referencing(ReferencingError::UnknownSpecification {
            specification,
        }) => return format!("`{specification}` is no draft of JSON Schema that is known"),
        _ => {}
    }
    let place = error.instance_path().to_string();
    let mut text = error.to_string();
    if !place.is_empty() {
        text = format!("{place}: {text}");
    }
    shortened(text)
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(DETAIL_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
