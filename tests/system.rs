//! Whole-system tests: the real binary against real servers, judged by independent readers.
//!
//! `cargo xtask test` finds or fetches what they need and runs them. Every test has servers, ports
//! and directories of its own, so they may run side by side.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expected")]

mod agreement;
mod bad_input;
mod bucket;
mod cases;
mod changed_sinks;
mod deployments;
mod disk_full;
mod events;
mod expressions;
mod faults;
mod findings;
mod fingerprints;
mod golden;
mod history;
mod hostile;
mod latency;
mod layers;
mod locks;
mod logins;
mod multisource;
mod object_stores;
mod rebuild;
mod rehearsals;
mod restart;
mod retention_of_sinks;
mod secrets;
mod source_faults;
mod support;
mod unfinished;
mod workers;
