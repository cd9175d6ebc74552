//! Where the fields of the envelope come from: SPEC 2's defaults, or the `[sources.X.event]` table.

use std::collections::BTreeMap;

use waterwheel_config::names::nearest;
use waterwheel_config::section::Section;

use super::event::Envelope;

/// Where one field of the envelope comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A path in the payload.
    Path(Vec<String>),
    /// A header, by name, in any case.
    Header(String),
    /// The n-th token of the subject, from 1.
    SubjectToken(usize),
    /// Always this text.
    Literal(String),
}

/// The origins that a deployment maps elsewhere than the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventMapping {
    mapped: BTreeMap<Envelope, Origin>,
}

/// The fields that may be mapped; the others are the broker's.
const MAPPABLE: [(&str, Envelope); 8] = [
    ("id", Envelope::Id),
    ("event_type", Envelope::EventType),
    ("timestamp", Envelope::Timestamp),
    ("user_id", Envelope::UserId),
    ("session_id", Envelope::SessionId),
    ("correlation_id", Envelope::CorrelationId),
    ("causation_id", Envelope::CausationId),
    ("source", Envelope::Source),
];

impl EventMapping {
    /// Reads the `event` table of a source's section.
    pub fn read(section: &Section<'_>) -> Self {
        let mut mapping = Self::default();
        let Some(table) = section.table("event") else {
            return mapping;
        };
        for (key, node) in table.entries() {
            let Some((_, envelope)) = MAPPABLE.iter().find(|(name, _)| *name == key.name) else {
                let message = format!("`{}` is no field that can be mapped", key.name);
                let names = MAPPABLE.iter().map(|(name, _)| *name);
                let help = match nearest(&key.name, names.clone()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the fields are: {}", names.collect::<Vec<_>>().join(", ")),
                };
                table.findings().error_help(key.span.clone(), message, help);
                continue;
            };
            let Some(text) = table.node_text(node, &key.name) else {
                continue;
            };
            match parse_origin(&text.value) {
                Ok(origin) => {
                    mapping.mapped.insert(*envelope, origin);
                }
                Err(message) => table.findings().error_help(
                    text.span,
                    message,
                    "write a payload path, \"header:Name\", \"subject:2\" or \"'literal'\"",
                ),
            }
        }
        mapping
    }

    /// Where a field is mapped to, if it is.
    pub fn mapped(&self, envelope: Envelope) -> Option<&Origin> {
        self.mapped.get(&envelope)
    }

    /// What changes the meaning of events; a default that is written out does not.
    pub fn meaning(&self) -> String {
        let default = Self::default();
        let matters = |(envelope, origin): &(&Envelope, &Origin)| {
            // Where `id` is mapped, no header stands in for it.
            **envelope == Envelope::Id || default.origin(**envelope).as_ref() != Some(origin)
        };
        let mapped: Vec<_> = self.mapped.iter().filter(matters).collect();
        format!("{mapped:?}")
    }

    /// Where a field comes from; `None` for the broker's fields.
    pub fn origin(&self, envelope: Envelope) -> Option<Origin> {
        self.mapped(envelope).cloned().or_else(|| {
            let (name, _) = MAPPABLE.iter().find(|(_, known)| *known == envelope)?;
            Some(Origin::Path(vec![(*name).to_owned()]))
        })
    }
}

fn parse_origin(text: &str) -> Result<Origin, String> {
    if let Some(name) = text.strip_prefix("header:") {
        return if name.is_empty() {
            Err("`header:` names no header".to_owned())
        } else {
            Ok(Origin::Header(name.to_ascii_lowercase()))
        };
    }
    if let Some(token) = text.strip_prefix("subject:") {
        return match token.parse() {
            Ok(token) if token > 0 => Ok(Origin::SubjectToken(token)),
            _ => Err(format!("`{token}` is no token of a subject; they count from 1")),
        };
    }
    if let Some(literal) = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return Ok(Origin::Literal(literal.to_owned()));
    }
    let path = text.strip_prefix("payload.").unwrap_or(text);
    if path.is_empty() || path.split('.').any(str::is_empty) {
        return Err(format!("`{text}` is no path"));
    }
    Ok(Origin::Path(path.split('.').map(str::to_owned).collect()))
}
