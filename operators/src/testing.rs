//! Drives operators in tests: a scripted log goes through the real decoding and the real dataflow,
//! and what comes out is compared with a naive recompute.
//!
//! A test plans a [`deployment`], makes a log of [`Message`]s, cuts it with [`Script::random`], and
//! [`check`]s it under any number of workers: at the end of every epoch the rows that are out must be
//! those that the test expects of the log so far. [`check_same_rows`] compares runs with each other. [`Judge`] reads the messages, [`Cell`] holds their
//! values, [`naive`] has the arithmetic; none of them shares code with what is tested.

mod cell;
mod check;
mod drive;
mod event;
mod expected;
mod log;
mod model;
pub(crate) mod naive;
mod random;
mod restart;
mod waiting;

pub(crate) use self::cell::Cell;
pub(crate) use self::check::{
    Prefix, check, check_random_cuts, check_same_rows, final_rows, lateness_us,
};
pub(crate) use self::drive::{deployment, deployment_into, run};
pub(crate) use self::event::{Event, Item};
pub(crate) use self::expected::{Expected, ExpectedRows};
pub(crate) use self::log::{Message, Script, Step, Timeline, shuffled};
pub(crate) use self::model::{By, Contribution, Holds, Kind, Measure, Model, RowItem};
pub(crate) use self::random::{Random, cases};
