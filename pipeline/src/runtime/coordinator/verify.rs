//! Whether a log is still what the sinks have seen of it.

use super::Coordinator;
use crate::contract::failpoint;
use crate::contract::fault::Fault;

impl Coordinator {
    /// The log must still hold, at the recorded position, the message that the sinks have seen.
    pub(super) fn verify_cut(&self) -> Result<(), Fault> {
        for (node, state) in self.deployment.sources.iter().zip(&self.sources) {
            let (Some(recorded), Some(read)) = (self.cuts.recorded(&node.name), &state.position)
            else {
                continue;
            };
            let is_same = failpoint::has_bug("anchor-unchecked")
                || recorded.fingerprint == 0
                || read.fingerprint == 0
                || (read.ordinal == recorded.ordinal && read.fingerprint == recorded.fingerprint);
            if !is_same {
                return Err(Fault::halt(format!(
                    "source `{}` was changed: message {} of {} is another than the one that the \
                     sinks have seen (or is gone; the last before it is {})",
                    node.name, recorded.ordinal, recorded.stream, read.ordinal
                ))
                .help(
                    "bring the stream or file back as it was, or give the pipeline another `name` \
                     and its sinks other places, to compute everything anew",
                ));
            }
            if recorded.messages != 0 && recorded.messages != state.messages {
                return Err(Fault::halt(format!(
                    "source `{}` was changed: up to message {} of {} the sinks have seen {} messages, \
                     and now there are {}",
                    node.name, recorded.ordinal, recorded.stream, recorded.messages, state.messages
                ))
                .help(
                    "messages that were read have been deleted or purged since; the sinks are right, but \
                     the state behind them cannot be computed again: take checkpoints, or give the \
                     pipeline another `name` and its sinks other places, to compute everything anew",
                ));
            }
        }
        Ok(())
    }

    /// A log that ends before a recorded position has lost what the sinks have seen.
    pub(super) fn verify_end(&self, source: usize) -> Result<(), Fault> {
        let (name, state) = (&self.deployment.sources[source].name, &self.sources[source]);
        let reached = state.position.as_ref().map_or(0, |position| position.ordinal);
        match self.cuts.bound(name) {
            Some(bound) if reached < bound && state.held.is_none() => Err(Fault::halt(format!(
                "source `{name}` ends at {reached}, and the sinks have seen it up to {bound}: its \
                 last messages are gone"
            ))
            .help(
                "bring the stream or file back as it was, or give the pipeline another `name` and \
                 its sinks other places, to compute everything anew",
            )),
            _ => Ok(()),
        }
    }
}
