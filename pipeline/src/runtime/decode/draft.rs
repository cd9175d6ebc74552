//! An event while it is decoded, as expressions see it: its checks are those of events in batches.

use std::ops::Range;
use std::sync::Arc;

use waterwheel_config::expr::{Fields, Val};

use crate::contract::event::Slot;

/// What the slots of a batch's events point into while it is decoded.
pub(super) struct Texts {
    pub(super) text: String,
    pub(super) scratch: String,
    pub(super) stream: Arc<str>,
}

impl Texts {
    /// A part of the buffer; empty for one that is not there.
    pub(super) fn part(&self, range: &Range<u32>) -> &str {
        self.text.get(range.start as usize..range.end as usize).unwrap_or_default()
    }
}

/// An event that is not in its batch yet.
pub(super) struct Draft<'d> {
    pub(super) texts: &'d Texts,
    pub(super) slots: &'d [Slot],
}

impl Fields for Draft<'_> {
    fn get(&self, slot: usize) -> Val<'_> {
        let Texts { text, scratch, stream } = self.texts;
        self.slots.get(slot).map_or(Val::Null, |slot| slot.val(text, scratch, stream))
    }
}
