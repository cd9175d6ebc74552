//! What the benches of a stream and of a backfill print.

use super::{Bench, Measured, ROUNDS, Subject};
use crate::bench::{ascending, median, or_dash, spread};
use crate::text::{decimal, table, whole};

impl Bench {
    pub(super) fn report(&self, runs: &[Measured]) {
        let source = if self.server.is_some() { "JetStream" } else { "a file" };
        println!(
            "{} events from {source}, flush 100 ms, a checkpoint every 2 s, medians of {ROUNDS} runs (least to most)\n",
            whole(self.count)
        );
        let drain = median(&values(runs, Subject::Drain, |run| run.usage.seconds));
        let rows: Vec<Vec<String>> =
            self.subjects.iter().map(|subject| self.cells(runs, *subject, drain)).collect();
        let headings = [
            "",
            "events/s",
            "seconds",
            "client CPU s",
            "NATS CPU s",
            "Postgres CPU s",
            "events/CPU s",
            "peak MiB",
            "checkpoints",
            "to drain",
        ];
        println!("{}", table(&headings, &rows));
        for subject in self.subjects.iter().filter(|_| self.server.is_some()) {
            if let Some(target) = subject.target() {
                let ratio = drain / median(&values(runs, *subject, |run| run.usage.seconds));
                println!("{} to drain {}", subject.name(), target.verdict(ratio, 2));
            }
        }
        if runs.iter().any(|run| run.subject != Subject::Drain && run.checkpoints == 0) {
            println!(
                "some runs were too short for a checkpoint: take more events to include its cost"
            );
        }
    }

    fn cells(&self, runs: &[Measured], subject: Subject, drain: f64) -> Vec<String> {
        let seconds = values(runs, subject, |run| run.usage.seconds);
        let client = median(&values(runs, subject, |run| run.usage.cpu_seconds));
        let nats = median(&values(runs, subject, |run| run.nats_seconds));
        let postgres = median(&values(runs, subject, |run| run.postgres_seconds));
        let peak = median(&values(runs, subject, |run| run.usage.peak_bytes as f64));
        let checkpoints = values(runs, subject, |run| run.checkpoints as f64);
        let least_checkpoints = checkpoints.first().copied().unwrap_or(f64::NAN);
        let rate = |seconds: f64| whole((self.count as f64 / seconds) as u64);
        let middle = median(&seconds);
        vec![
            subject.name().to_owned(),
            rate(middle),
            spread(&seconds, 2),
            decimal(client, 2),
            or_dash(nats, 2),
            or_dash(postgres, 2),
            rate(client),
            decimal(peak / (1 << 20) as f64, 0),
            if subject == Subject::Drain { "-".into() } else { decimal(least_checkpoints, 0) },
            or_dash(drain / middle, 2),
        ]
    }
}

/// In ascending order.
fn values(runs: &[Measured], subject: Subject, value: impl Fn(&Measured) -> f64) -> Vec<f64> {
    ascending(runs.iter().filter(|run| run.subject == subject).map(value))
}
