//! What a bench ran on, as it tells it above its numbers.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::output;
use crate::servers::postgres;

/// The processor, the memory and the kernel, and the version of each program.
pub(super) fn describe(programs: &[&Path]) -> String {
    let processor = line_of("/proc/cpuinfo", "model name").unwrap_or("unknown processor".into());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = line_of("/proc/meminfo", "MemTotal").and_then(|text| kib(&text)).unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut text = format!(
        "{cores} cores of {processor}, {} GiB of memory, Linux {}",
        memory >> 20,
        kernel.trim()
    );
    for program in programs {
        let said = output(Command::new(program).arg("--version")).unwrap_or_default();
        text.push_str(&format!(", {}", said.trim().replace("nats-server: v", "nats-server ")));
    }
    text
}

/// The program `postgres`, to tell its version.
pub(super) fn postgres_program() -> std::path::PathBuf {
    postgres::find().unwrap_or_default().join("postgres")
}

fn line_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kib(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse().ok()
}
