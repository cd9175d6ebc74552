//! Faults: what went wrong outside the data, whose it is, and what to do about it.
//!
//! Bad data is never a fault; it becomes a dead letter. A class of fault that nobody knows means
//! halt: guessing is how data gets lost.

use std::fmt;

use waterwheel_config::secret::redact;

/// What the runtime does about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Wait with backoff and try again: a server is down, a disk is full.
    Retry,
    /// Stop with exit code 4: waiting cannot mend it (bad credentials, no such stream).
    Stop,
    /// Stop with exit code 3, to protect the data.
    Halt,
}

/// Whether a write that failed may have happened all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did not happen.
    NotWritten,
    /// Nobody knows: read the progress again.
    Unknown,
}

/// Something went wrong; the message is for the person who must act.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What to do.
    pub remedy: Remedy,
    /// Of a failed write: whether it may have happened.
    pub outcome: Outcome,
    /// What happened to what: lowercase, no full stop, no secret.
    pub message: String,
    /// What the person should do.
    pub help: Option<String>,
}

impl Fault {
    /// A fault that waiting may mend.
    pub fn retry(message: impl fmt::Display) -> Self {
        Self::new(Remedy::Retry, message)
    }

    /// A fault that waiting cannot mend.
    pub fn stop(message: impl fmt::Display) -> Self {
        Self::new(Remedy::Stop, message)
    }

    /// Something about the data is not as it must be.
    pub fn halt(message: impl fmt::Display) -> Self {
        Self::new(Remedy::Halt, message)
    }

    /// With what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Of a write: nobody knows whether it happened.
    #[must_use]
    pub fn unknown_outcome(mut self) -> Self {
        self.outcome = Outcome::Unknown;
        self
    }

    /// Says to what it happened, in front.
    #[must_use]
    pub fn within(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    fn new(remedy: Remedy, message: impl fmt::Display) -> Self {
        // Messages quote errors of libraries, which may quote a URL with its password.
        let message = redact(&message.to_string());
        Self { remedy, outcome: Outcome::NotWritten, message, help: None }
    }
}
