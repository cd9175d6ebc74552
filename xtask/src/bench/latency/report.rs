//! What the bench of latencies prints.

use super::{CASES, Case, EVENTS_PER_SECOND, Measured, PROBES_PER_SECOND, ROUNDS, WARM_UP_SECONDS};
use crate::bench::{ascending, median, or_dash, spread};
use crate::text::{decimal, table, whole};

/// Prints times, who used the processor, and what is met.
pub(super) fn print(seconds: u64, runs: &[Vec<Measured>; 3]) {
    println!(
        "{} events/s for {seconds} s after {WARM_UP_SECONDS} s of warm-up, {} of them probes, medians of {ROUNDS} runs",
        whole(EVENTS_PER_SECOND),
        whole(PROBES_PER_SECOND)
    );
    println!(
        "milliseconds from when an event was to be sent until its row was read; the publisher looks at the clock \
         every 0.5 ms, and the table is read 0.5 ms after the last look: both count\n"
    );
    let rows: Vec<_> = CASES.iter().zip(runs).map(|(case, runs)| times(case, runs)).collect();
    let headings =
        ["", "p50", "p90", "p99", "max", "probes", "events/s", "sent late, p99", "one look, p50"];
    println!("{}", table(&headings, &rows));
    let rows: Vec<_> = CASES.iter().zip(runs).map(|(case, runs)| cores(case, runs)).collect();
    println!(
        "{}",
        table(&["cores busy", "publisher, observer", "waterwheel", "NATS", "Postgres"], &rows)
    );
    for (case, runs) in CASES.iter().zip(runs) {
        for (name, target) in case.targets {
            let verdict = target.verdict(middle(runs, name), 1);
            println!("{}, {} {verdict}", case.name, name.replace("_ms", " ms"));
        }
    }
}

fn times(case: &Case, runs: &[Measured]) -> Vec<String> {
    let p99 = numbers(runs, "p99_ms");
    let look = middle(runs, "look_p50_ms");
    vec![
        case.name.to_owned(),
        decimal(middle(runs, "p50_ms"), 1),
        decimal(middle(runs, "p90_ms"), 1),
        spread(&p99, 1),
        decimal(middle(runs, "max_ms"), 1),
        whole(numbers(runs, "probes").iter().sum::<f64>() as u64),
        whole(middle(runs, "events_per_second") as u64),
        decimal(middle(runs, "sent_late_p99_ms"), 1),
        or_dash(look, 2),
    ]
}

fn cores(case: &Case, runs: &[Measured]) -> Vec<String> {
    let busy = |at: usize| median(&ascending(runs.iter().map(|run| run.cores[at])));
    let cells = (0..4).map(|at| decimal(busy(at), 2));
    std::iter::once(case.name.to_owned()).chain(cells).collect()
}

/// What `latency` says of this in each run, in ascending order.
fn numbers(runs: &[Measured], name: &str) -> Vec<f64> {
    ascending(runs.iter().map(|run| run.said[name].as_f64().unwrap_or(f64::NAN)))
}

fn middle(runs: &[Measured], name: &str) -> f64 {
    median(&numbers(runs, name))
}
