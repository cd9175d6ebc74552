//! What is decoded of the events of a source, and how expressions over events find it, while the
//! deployment is planned.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use waterwheel_config::expr::Program;
use waterwheel_config::value::ColumnType;

use super::event::Field;
use super::mapping::EventFormat;

/// What decoding must extract from the messages of one source.
#[derive(Clone, Debug, Default)]
pub struct Projection {
    /// The field of each slot.
    pub fields: Vec<Field>,
    /// Where keys are needed: a text over 1 KiB in one of them makes the message a dead letter.
    pub keys: Vec<KeyNeed>,
    /// How the source's events are written.
    pub format: EventFormat,
    /// The types that the source declares for paths in the payload.
    pub types: BTreeMap<Vec<String>, ColumnType>,
    /// The declared types that were asked for, see [`Projection::take_named_types`].
    pub(crate) named_types: BTreeSet<Vec<String>>,
}

/// Key expressions that are evaluated for the events that pass a condition.
#[derive(Clone, Debug)]
pub struct KeyNeed {
    /// The condition; `None` for every event.
    pub condition: Option<Program>,
    /// The expressions of the key.
    pub keys: Vec<Program>,
}

impl Projection {
    /// The slot of a field, allotted on first use.
    pub fn slot(&mut self, field: &Field) -> usize {
        if let Some(slot) = self.fields.iter().position(|known| known == field) {
            return slot;
        }
        self.fields.push(field.clone());
        self.fields.len() - 1
    }

    /// The type that the source declares for a field, if it does.
    pub fn declared_type(&mut self, field: &Field) -> Option<ColumnType> {
        let Field::Path(path) = field else {
            return None;
        };
        let kind = *self.types.get(path)?;
        self.named_types.insert(path.clone());
        Some(kind)
    }

    /// The declared types that were asked for since the last call: they are part of the meaning of
    /// what asked for them, and of nothing else.
    pub(crate) fn take_named_types(&mut self) -> Vec<(Vec<String>, ColumnType)> {
        let named = std::mem::take(&mut self.named_types);
        named.into_iter().filter_map(|path| Some((path.clone(), *self.types.get(&path)?))).collect()
    }
}

/// The fields of the events on an edge, while the deployment is planned: those of one source or, behind
/// an operator that lets events through, of all sources that they come from. A field has the same
/// slot in the projections of all of them, so that an expression is compiled once.
#[derive(Clone, Debug)]
pub struct EventFields {
    sources: Vec<(Rc<RefCell<Projection>>, Vec<Program>)>,
}

impl Default for EventFields {
    /// Those of a source that nobody else reads.
    fn default() -> Self {
        Self::source(Rc::default())
    }
}

impl EventFields {
    /// The events of a source.
    pub fn source(projection: Rc<RefCell<Projection>>) -> Self {
        Self { sources: vec![(projection, Vec::new())] }
    }

    /// The events of all of these.
    pub fn joined<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        Self { sources: parts.into_iter().flat_map(|part| part.sources.iter().cloned()).collect() }
    }

    /// Only the events that meet a condition: what nobody reads further on needs no key.
    #[must_use]
    pub fn filtered(mut self, condition: Option<&Program>) -> Self {
        for (_, conditions) in &mut self.sources {
            conditions.extend(condition.cloned());
        }
        self
    }

    /// The slot of a field that all sources have by one name, allotted on first use.
    pub fn slot(&self, field: &Field) -> usize {
        self.slot_of(&vec![field.clone(); self.sources.len()])
    }

    /// The slot of what is a field of its own in each source, in their order; allotted on first use.
    pub fn slot_of(&self, fields: &[Field]) -> usize {
        if let ([(projection, _)], [field]) = (self.sources.as_slice(), fields) {
            return projection.borrow_mut().slot(field);
        }
        let projections = || self.sources.iter().map(|(projection, _)| projection).zip(fields);
        let longest = projections().map(|(one, _)| one.borrow().fields.len()).max().unwrap_or(0);
        let is_shared = |slot: &usize| {
            projections().all(|(one, field)| one.borrow().fields.get(*slot) == Some(field))
        };
        (0..longest).find(is_shared).unwrap_or_else(|| {
            for (projection, field) in projections() {
                // What fills up to the new slot is decoded once more; slots never move.
                projection.borrow_mut().fields.resize(longest, field.clone());
            }
            for (projection, field) in projections() {
                let fields = &mut projection.borrow_mut().fields;
                // A source may be here twice.
                if fields.len() == longest {
                    fields.push(field.clone());
                }
            }
            longest
        })
    }

    /// How each source writes its events.
    pub fn formats(&self) -> Vec<EventFormat> {
        self.sources.iter().map(|(projection, _)| projection.borrow().format).collect()
    }

    /// The type of what is this field in each source, in their order: what they all declare.
    pub fn declared_type(&self, fields: &[Field]) -> Option<ColumnType> {
        let declared = |(known, field): (&(Rc<RefCell<Projection>>, _), &Field)| {
            known.0.borrow_mut().declared_type(field)
        };
        // Each is asked: what one of them declares changes its values all the same.
        let types: Vec<_> = self.sources.iter().zip(fields).map(declared).collect();
        let (first, rest) = types.split_first()?;
        first.filter(|_| rest.iter().all(|other| other == first))
    }

    /// Notes that these expressions are keys, for the events that pass the condition.
    pub fn need_keys(&self, condition: Option<&Program>, keys: &[Program]) {
        for (projection, conditions) in &self.sources {
            let conditions: Vec<Program> = conditions.iter().chain(condition).cloned().collect();
            let condition = (!conditions.is_empty()).then_some(Program::And(conditions));
            projection.borrow_mut().keys.push(KeyNeed { condition, keys: keys.to_vec() });
        }
    }
}
