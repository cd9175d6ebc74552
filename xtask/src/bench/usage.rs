//! What a process costs: wall time, CPU time, and the most memory it ever had. Read from /proc, so
//! this part is for Linux.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::scratch::Scratch;

/// The kernel's unit for times in /proc on every platform that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// How often the peak is read; it only grows, so that little can be missed.
const POLL: Duration = Duration::from_millis(10);

/// No run takes so long; one that does hangs.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// What one child cost.
pub(super) struct Usage {
    /// From its start to its end.
    pub(super) seconds: f64,
    /// In user and kernel mode, on all its threads.
    pub(super) cpu_seconds: f64,
    /// The high-water mark of its resident memory.
    pub(super) peak_bytes: u64,
}

/// Runs a child to its end.
pub(super) fn measure(command: &mut Command, scratch: &mut Scratch) -> Outcome<Usage> {
    measure_while(command, scratch, &mut |_| {})
}

/// Runs a child to its end, and again and again calls something with its number.
pub(super) fn measure_while(
    command: &mut Command,
    scratch: &mut Scratch,
    meanwhile: &mut dyn FnMut(u32),
) -> Outcome<Usage> {
    let (started, before) = (Instant::now(), children_seconds()?);
    let mut child = command.stdin(std::process::Stdio::null()).spawn()?;
    scratch.watch(child.id())?;
    let mut peak_bytes = 0;
    let status = loop {
        peak_bytes = tree_peak_bytes(child.id()).unwrap_or(0).max(peak_bytes);
        meanwhile(child.id());
        match child.try_wait()? {
            Some(status) => break status,
            None if started.elapsed() > DEADLINE => {
                child.kill()?;
                child.wait()?;
                scratch.forget(child.id())?;
                let program = command.get_program().to_string_lossy();
                return Err(format!("{program} was ended: it hung for half an hour").into());
            }
            None => std::thread::sleep(POLL),
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    scratch.forget(child.id())?;
    if !status.success() {
        let program = command.get_program().to_string_lossy();
        return Err(format!("{program} failed ({status})").into());
    }
    Ok(Usage { seconds, cpu_seconds: children_seconds()? - before, peak_bytes })
}

/// What a running process has used until now.
pub(super) fn process_seconds(pid: u32) -> Outcome<f64> {
    ticks(&pid.to_string(), [11, 12])
}

/// What all children have used that ended and were waited for.
pub(super) fn children_seconds() -> Outcome<f64> {
    ticks("self", [13, 14])
}

/// What a server has used until now in all its processes, those that have ended included.
pub(super) fn family_seconds(pid: u32) -> Outcome<f64> {
    let mut sum = ticks(&pid.to_string(), [11, 12])? + ticks(&pid.to_string(), [13, 14])?;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    for child in children.split_whitespace() {
        // One that has just ended is among those that were waited for, from the next time on.
        sum += ticks(child, [11, 12]).unwrap_or(0.0);
    }
    Ok(sum)
}

/// The sum of some fields of /proc/PID/stat, by their index after the program's name.
fn ticks(process: &str, fields: [usize; 2]) -> Outcome<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name stands in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')').ok_or("/proc holds no name")?;
    let values: Vec<&str> = rest.split_whitespace().collect();
    let mut sum = 0.0;
    for field in fields {
        sum += values.get(field).ok_or("/proc holds too little")?.parse::<f64>()?;
    }
    Ok(sum / TICKS_PER_SECOND)
}

/// A size in /proc/PID/status.
fn status_bytes(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The most memory that a process and those that its first thread has started ever had.
fn tree_peak_bytes(pid: u32) -> Option<u64> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let below =
        children.split_whitespace().filter_map(|child| tree_peak_bytes(child.parse().ok()?));
    Some(status_bytes(pid, "VmHWM:")? + below.sum::<u64>())
}

/// What a process has in memory now.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmRSS:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_works_costs_something() {
        let mut scratch = Scratch::new().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done"]);
        let usage = measure(&mut command, &mut scratch).unwrap();
        assert!(usage.cpu_seconds > 0.02, "{}", usage.cpu_seconds);
        assert!(usage.seconds + 0.05 > usage.cpu_seconds, "one thread takes no more than the time");
        assert!(usage.peak_bytes > 100_000, "{}", usage.peak_bytes);
        assert!(process_seconds(std::process::id()).is_ok());
    }
}
