//! `cargo xtask instructions`: how many instructions a backfill takes, against what it took before.
//!
//! Time on a shared machine varies by tens of percent; the number of instructions hardly at all. So
//! this is what a change is held to. Valgrind counts them, in the program that the tests use: what
//! makes it slower makes the release slower as well, and nothing has to be built for it.

use std::fs::File;
use std::process::Command;

use crate::Outcome;
use crate::compare::Backfill;
use crate::process::{output, root, target};
use crate::scratch::Scratch;
use crate::text::whole;
use crate::tools;

/// The number that was measured last, and with which compiler.
const RECORD: &str = "benches/instructions.txt";

/// As many events as `cargo xtask compare` takes.
const EVENTS: &str = "200000";

/// By how much a change may exceed the record. Two runs of one program differ by under a percent.
const ALLOWANCE_PERCENT: u64 = 5;

/// Counts; with `--record` the number becomes the one that others are held to.
pub(crate) fn run(arguments: &[&str]) -> Outcome<()> {
    let is_recorded = match arguments {
        [] => false,
        ["--record"] => true,
        _ => return Err("the only argument is --record".into()),
    };
    let compiler = output(Command::new("rustc").arg("--version"))?.trim().to_owned();
    let (wanted, of) = recorded()?;
    if !is_recorded && compiler != of {
        println!("instructions: skipped: the record is of {of}, and this is {compiler}");
        return Ok(());
    }
    if !has_valgrind() {
        println!(
            "instructions: skipped: there is no `valgrind` (Debian: `apt-get install valgrind`)"
        );
        return Ok(());
    }
    let counted = count()?;
    if is_recorded {
        std::fs::write(root().join(RECORD), format!("{counted}\n{compiler}\n"))?;
        println!("instructions: {} are recorded", whole(counted));
        return Ok(());
    }
    let most = wanted + wanted / 100 * ALLOWANCE_PERCENT;
    let change = (counted as f64 / wanted as f64 - 1.0) * 100.0;
    let said = format!(
        "{} for {} events, {change:+.1} % against the record ({} may be reached)",
        whole(counted),
        whole(EVENTS.parse()?),
        whole(most)
    );
    if counted > most {
        return Err(format!(
            "instructions: {said}\nhelp: look for the cause with `callgrind_annotate`; where the work is \
             worth it, `cargo xtask instructions --record` and say why"
        )
        .into());
    }
    println!("instructions: {said}");
    Ok(())
}

/// The record: instructions, compiler.
fn recorded() -> Outcome<(u64, String)> {
    let text = std::fs::read_to_string(root().join(RECORD))?;
    let mut lines = text.lines();
    let number = lines.next().and_then(|line| line.parse().ok());
    let number = number.ok_or_else(|| format!("{RECORD} does not begin with a number"))?;
    Ok((number, lines.next().unwrap_or_default().to_owned()))
}

/// True if there is Valgrind, or now is.
fn has_valgrind() -> bool {
    let found = || output(Command::new("valgrind").arg("--version")).is_ok();
    if !found() && tools::can_apt_install() {
        // Where it cannot be had the tests stand without the count.
        let _ = tools::apt_install(&["valgrind"]);
    }
    found()
}

/// Runs the deployment of `cargo xtask compare` under Valgrind.
fn count() -> Outcome<u64> {
    let mut scratch = Scratch::new()?;
    let backfill = Backfill::prepare(&tools::python()?, &scratch, EVENTS)?;
    let (log, counts) = (scratch.path().join("log"), scratch.path().join("callgrind.out"));
    let mut counting = Command::new("valgrind");
    counting.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", counts.display()));
    counting.arg(target().join("debug/waterwheel"));
    counting.stdout(File::create(&log)?).stderr(File::create(&log)?);
    let ended = scratch.run(backfill.complete(&mut counting));
    ended.map_err(|problem| {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        format!("{problem}\n{}", said.trim_end())
    })?;
    let text = std::fs::read_to_string(&counts)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.and_then(|total| total.trim().parse().ok());
    total.ok_or_else(|| "Valgrind's file names no total".into())
}
