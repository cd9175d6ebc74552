//! Removals in the log: files are noted before they go.

use waterwheel_pipeline::contract::fault::Fault;

use super::{CLAIM_ATTEMPTS, Entry, Log, Placed};

impl Log {
    /// Notes, in the name of whoever owns the log, that committed files are removed: once this
    /// returns, that is durable, and they may go. Nothing else of the newest entry changes, so that
    /// its owner can go on. The files are chosen anew for the entry behind which the note comes;
    /// `None` where there is nothing to remove.
    pub(in crate::parquet) fn note_removed(
        &mut self,
        choose: impl Fn(&Entry) -> Result<Vec<String>, Fault>,
    ) -> Result<Option<Vec<String>>, Fault> {
        for _ in 0..CLAIM_ATTEMPTS {
            // An instance asks behind its own entry: a newer one has taken the number then.
            if self.own.is_some() && !self.adopts()? {
                return Err(self.superseded()?);
            }
            let Some(newest) = self.newest()? else { return Ok(None) };
            let chosen = choose(&newest)?;
            if chosen.is_empty() {
                return Ok(None);
            }
            let (generation, instance) = (newest.generation, newest.instance.clone());
            let mut entry = self.repeat(Some(newest), generation)?;
            let known = std::mem::take(&mut entry.removed);
            entry.removed.clone_from(&chosen);
            entry.removed.extend(known.into_iter().filter(|file| !chosen.contains(file)));
            entry.instance = instance;
            let entry = entry.sealed()?;
            match self.place(&entry)? {
                Placed::Newest => {
                    if self.own.is_some() {
                        self.own = Some(entry);
                    }
                    return Ok(Some(chosen));
                }
                // Its owner went on from there, and has taken it over, unless it came too late to
                // count.
                Placed::Overtaken => {
                    let newest = self.newest()?;
                    let is_noted = |file| newest.iter().any(|newest| newest.removed.contains(file));
                    if chosen.iter().all(is_noted) {
                        return Ok(Some(chosen));
                    }
                }
                Placed::Taken => {}
            }
        }
        let directory = self.store.show(&self.directory);
        Err(Fault::retry(format!(
            "nothing can be noted in `{directory}`: others write all the time"
        )))
    }

    /// The files whose removal was noted and is perhaps not finished.
    pub(in crate::parquet) fn removed(&self) -> &[String] {
        self.own.as_ref().map_or(&[], |own| &own.removed)
    }

    /// Those files are gone: the next entry need not name them.
    pub(in crate::parquet) fn removal_finished(&mut self) {
        if let Some(own) = &mut self.own {
            own.removed.clear();
        }
    }
}
