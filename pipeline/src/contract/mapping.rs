//! How events are written in messages, and where the fields of the envelope come from: SPEC 2's
//! defaults, those of CloudEvents, or the `[sources.X.event]` table.

use std::collections::BTreeMap;

use waterwheel_config::names::nearest;
use waterwheel_config::section::Section;

use super::event::Envelope;

/// How events are written in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventFormat {
    /// The payload is one JSON object with envelope and all.
    #[default]
    Json,
    /// CloudEvents 1.0 in binary or structured mode; the payload of the event is its data.
    CloudEvents,
}

impl EventFormat {
    /// Reads `format`.
    pub fn read(section: &Section<'_>) -> Self {
        match section.choice("format", &["json", "cloudevents"]).map(|format| format.value) {
            Some("cloudevents") => Self::CloudEvents,
            _ => Self::Json,
        }
    }

    /// A path without the word that stands for the payload itself: `payload`, and of CloudEvents
    /// `data` too. What a path names is the same in both modes of CloudEvents.
    pub fn payload_path(self, path: &[String]) -> &[String] {
        match path {
            [first, rest @ ..] if first == "payload" => rest,
            [first, rest @ ..] if self == Self::CloudEvents && first == "data" => rest,
            path => path,
        }
    }
}

/// Where one field of the envelope comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A path in the payload.
    Path(Vec<String>),
    /// A header, by name, in any case.
    Header(String),
    /// An attribute of the CloudEvent.
    Attribute(String),
    /// The n-th token of the subject, from 1.
    SubjectToken(usize),
    /// Always this text.
    Literal(String),
}

/// The origins that a deployment maps elsewhere than the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventMapping {
    format: EventFormat,
    mapped: BTreeMap<Envelope, Origin>,
}

/// The fields that may be mapped, with the attribute of a CloudEvent that each is; the others are
/// the broker's.
const MAPPABLE: [(&str, Envelope, &str); 8] = [
    ("id", Envelope::Id, "id"),
    ("event_type", Envelope::EventType, "type"),
    ("timestamp", Envelope::Timestamp, "time"),
    ("user_id", Envelope::UserId, "userid"),
    ("session_id", Envelope::SessionId, "sessionid"),
    ("correlation_id", Envelope::CorrelationId, "correlationid"),
    ("causation_id", Envelope::CausationId, "causationid"),
    ("source", Envelope::Source, "source"),
];

/// What the standard has no attribute for: where the extension is absent, the data may have the
/// field by the name that it has in the envelope.
const FALLING_BACK: [Envelope; 4] =
    [Envelope::UserId, Envelope::SessionId, Envelope::CorrelationId, Envelope::CausationId];

impl EventMapping {
    /// Reads the `event` table of a source's section.
    pub fn read(section: &Section<'_>, format: EventFormat) -> Self {
        let mut mapping = Self { format, mapped: BTreeMap::new() };
        let Some(table) = section.table("event") else {
            return mapping;
        };
        for (key, node) in table.entries() {
            let Some((_, envelope, _)) = MAPPABLE.iter().find(|(name, ..)| *name == key.name)
            else {
                let message = format!("`{}` is no field that can be mapped", key.name);
                let names = MAPPABLE.iter().map(|(name, ..)| *name);
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
            match parse_origin(&text.value, format) {
                Ok(origin) => {
                    mapping.mapped.insert(*envelope, origin);
                }
                Err((message, help)) => table.findings().error_help(text.span, message, help),
            }
        }
        mapping
    }

    /// Where a field is mapped to, if it is.
    pub fn mapped(&self, envelope: Envelope) -> Option<&Origin> {
        self.mapped.get(&envelope)
    }

    /// How events are written.
    pub fn format(&self) -> EventFormat {
        self.format
    }

    /// What changes the meaning of events; a default that is written out does not.
    pub fn meaning(&self) -> String {
        let default = Self { format: self.format, ..Self::default() };
        let matters = |(envelope, origin): &(&Envelope, &Origin)| {
            // Where these are mapped, nothing else stands in for them.
            **envelope == Envelope::Id
                || default.fallback(**envelope).is_some()
                || default.origin(**envelope).as_ref() != Some(origin)
        };
        let mapped: Vec<_> = self.mapped.iter().filter(matters).collect();
        match self.format {
            EventFormat::Json => format!("{mapped:?}"),
            EventFormat::CloudEvents => format!("{mapped:?} of CloudEvents"),
        }
    }

    /// Where a field comes from; `None` for the broker's fields.
    pub fn origin(&self, envelope: Envelope) -> Option<Origin> {
        self.mapped(envelope).cloned().or_else(|| {
            let (name, _, attribute) = MAPPABLE.iter().find(|(_, known, _)| *known == envelope)?;
            Some(match self.format {
                EventFormat::Json => Origin::Path(vec![(*name).to_owned()]),
                EventFormat::CloudEvents => Origin::Attribute((*attribute).to_owned()),
            })
        })
    }

    /// The path in the payload that stands in for a field that is absent, if one does.
    pub fn fallback(&self, envelope: Envelope) -> Option<Vec<String>> {
        let falls_back = self.format == EventFormat::CloudEvents
            && self.mapped(envelope).is_none()
            && FALLING_BACK.contains(&envelope);
        let (name, ..) = MAPPABLE.iter().find(|(_, known, _)| *known == envelope)?;
        falls_back.then(|| vec![(*name).to_owned()])
    }
}

/// What is wrong with an origin, and what to write instead.
type Refusal = (String, &'static str);

const ORIGINS: &str = "write a payload path, \"header:Name\", \"subject:2\" or \"'literal'\"";

fn parse_origin(text: &str, format: EventFormat) -> Result<Origin, Refusal> {
    if let Some(name) = text.strip_prefix("header:") {
        return if name.is_empty() {
            Err(("`header:` names no header".to_owned(), ORIGINS))
        } else {
            Ok(Origin::Header(name.to_ascii_lowercase()))
        };
    }
    if let Some(token) = text.strip_prefix("subject:") {
        return match token.parse() {
            Ok(token) if token > 0 => Ok(Origin::SubjectToken(token)),
            _ => {
                let message = format!("`{token}` is no token of a subject; they count from 1");
                Err((message, ORIGINS))
            }
        };
    }
    if let Some(name) = text.strip_prefix("attribute:") {
        return match format {
            EventFormat::Json => {
                let message = "only CloudEvents have attributes".to_owned();
                Err((
                    message,
                    "add format = \"cloudevents\" to the source, or write a payload path",
                ))
            }
            EventFormat::CloudEvents if is_attribute(name) => {
                Ok(Origin::Attribute(name.to_owned()))
            }
            EventFormat::CloudEvents => {
                let message = format!("`{name}` is no attribute of a CloudEvent");
                Err((
                    message,
                    "their names are lower-case letters and digits: \"attribute:partitionkey\"",
                ))
            }
        };
    }
    if let Some(literal) = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return Ok(Origin::Literal(literal.to_owned()));
    }
    match parse_path(text, format) {
        Some(path) => Ok(Origin::Path(path)),
        None => Err((format!("`{text}` is no path"), ORIGINS)),
    }
}

/// True for what can be the name of an attribute of a CloudEvent; `data` is none.
pub fn is_attribute(name: &str) -> bool {
    let is_written_well =
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    is_written_well && !name.is_empty() && name != "data"
}

/// The path in the payload that a text names, dots parting its segments.
pub fn parse_path(text: &str, format: EventFormat) -> Option<Vec<String>> {
    let written: Vec<String> = text.split('.').map(str::to_owned).collect();
    let path = format.payload_path(&written);
    // A path that is only the word for the payload is a field of that name.
    let path = if path.is_empty() { &written } else { path };
    (!path.iter().any(String::is_empty)).then(|| path.to_vec())
}
