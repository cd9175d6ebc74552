//! `cargo xtask bench ...`: how fast, how soon and in how much memory events become results, and no
//! number without the proof that the results are right.

pub(crate) mod archive;
pub(crate) mod checkpoints;
pub(crate) mod growth;
pub(crate) mod latency;
mod machine;
pub(crate) mod memory;
pub(crate) mod operators;
pub(crate) mod peers;
mod pipeline;
mod questions;
pub(crate) mod stream;
mod target;
mod usage;
pub(crate) mod workers;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::usage::Usage;
use crate::Outcome;
use crate::process::{output, root};
use crate::scratch::Scratch;
use crate::text::{decimal, whole};

/// The stream of the benches' server, whose messages are the events of a file, in its order.
const STREAM: &str = "EVENTS";

/// The number of events, if one is written.
fn count(arguments: &[&str], default: u64) -> Outcome<u64> {
    let Some(text) = arguments.first() else {
        return Ok(default);
    };
    let count = text.replace(['_', ','], "").parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| format!("`{text}` is not a number of events").into())
}

/// Writes so many events to a file of the scratch directory.
fn events_file(
    programs: &Path,
    scratch: &Scratch,
    count: u64,
    options: &[&str],
) -> Outcome<PathBuf> {
    let file = scratch.path().join("events.jsonl");
    eprintln!("xtask: preparing {} events", whole(count));
    let path = file.to_string_lossy();
    publish(programs, count, &[&["--file", &*path], options].concat())?;
    Ok(file)
}

/// Publishes events, or writes them to a file.
fn publish(programs: &Path, count: u64, arguments: &[&str]) -> Outcome<()> {
    output(
        Command::new(programs.join("publish"))
            .args(["--count", &count.to_string()])
            .args(arguments)
            .stdin(Stdio::null()),
    )?;
    Ok(())
}

/// Runs one of our Python scripts and returns what it prints.
fn script(python: &Path, name: &str, arguments: &[&Path]) -> Outcome<String> {
    output(Command::new(python).arg(root().join("xtask/scripts").join(name)).args(arguments))
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// In ascending order.
fn ascending(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The median of ascending numbers with the least and the most.
fn spread(sorted: &[f64], decimals: usize) -> String {
    let end = |value: Option<&f64>| or_dash(value.copied().unwrap_or(f64::NAN), decimals);
    let (least, most) = (end(sorted.first()), end(sorted.last()));
    format!("{} ({least} to {most})", or_dash(median(sorted), decimals))
}

/// A number, unless there is none.
fn or_dash(number: f64, decimals: usize) -> String {
    if number.is_nan() { "-".to_owned() } else { decimal(number, decimals) }
}

/// The median of one value over all runs.
fn middle(usages: &[Usage], value: impl Fn(&Usage) -> f64) -> f64 {
    median(&ascending(usages.iter().map(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&ascending([9.0, 1.0, 2.0].into_iter())), 2.0);
        assert!(median(&[]).is_nan());
        assert_eq!(spread(&[1.0, 2.0, 9.25], 1), "2.0 (1.0 to 9.2)");
        assert_eq!(or_dash(f64::NAN, 1), "-");
    }
}
