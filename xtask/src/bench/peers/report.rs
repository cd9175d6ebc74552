//! The table of what each engine took, and whether waterwheel takes little enough beside it.

use super::engines::{Engine, Limits};
use super::{Entry, ROUNDS};
use crate::bench::usage::Usage;
use crate::bench::{ascending, machine, middle, spread};
use crate::text::{decimal, table, whole};

/// Prints the set-up and the table.
pub(super) fn print(count: u64, engines: &[Engine], missing: &[String], entries: &[Entry]) {
    println!("\n{} events from a file, medians of {ROUNDS} runs (least to most)", whole(count));
    println!("on {}", machine::describe(&[]));
    for engine in engines {
        println!("{}: {}", engine.name, engine.version);
    }
    for reason in missing {
        println!("left out: {reason}");
    }
    println!("All rows equal waterwheel's: counts and keys exactly, sums and averages to 1e-9.\n");
    let rows: Vec<Vec<String>> = entries.iter().map(|entry| row(engines, entries, entry)).collect();
    let headings = [
        "",
        "threads",
        "CPU s",
        "of it start-up",
        "seconds",
        "peak MiB",
        "waterwheel ÷ it",
        "less start-up",
        "must",
        "aim",
        "met",
    ];
    println!("{}", table(&headings, &rows));
    println!(
        "Start-up is a run on a single event. The greater of the two ratios decides, and of an engine\n\
         with several numbers of threads the run that takes the least CPU time."
    );
}

fn row(engines: &[Engine], entries: &[Entry], entry: &Entry) -> Vec<String> {
    let engine = entry.engine.and_then(|index| engines.get(index));
    let name = engine.map_or("waterwheel", |engine| engine.name);
    let mut cells = vec![
        format!("{}: {name}", entry.question.name()),
        entry.threads.to_owned(),
        spread(&ascending(entry.runs.iter().map(cpu)), 2),
        decimal(middle(&entry.starts, cpu), 2),
        decimal(middle(&entry.runs, |run| run.seconds), 2),
        decimal(middle(&entry.runs, |run| run.peak_bytes as f64) / f64::from(1 << 20), 0),
    ];
    let ours = entries.iter().find(|other| other.question == entry.question);
    let limits = engine.and_then(|engine| engine.limits(entry.question));
    if let (Some(ours), Some(limits)) = (ours, limits) {
        let whole_ratio = middle(&ours.runs, cpu) / middle(&entry.runs, cpu);
        let work_ratio = work(ours) / work(entry);
        cells.extend([whole_ratio, work_ratio, limits.must, limits.aim].map(ratio));
        cells.push(if is_least(entries, entry) {
            verdict(whole_ratio.max(work_ratio), limits).to_owned()
        } else {
            String::new()
        });
    }
    cells
}

fn cpu(usage: &Usage) -> f64 {
    usage.cpu_seconds
}

/// CPU time above that of a single event.
fn work(entry: &Entry) -> f64 {
    middle(&entry.runs, cpu) - middle(&entry.starts, cpu)
}

/// True of the number of threads in which the engine takes the least CPU time for this question.
fn is_least(entries: &[Entry], entry: &Entry) -> bool {
    let of_it = entries
        .iter()
        .filter(|other| other.question == entry.question && other.engine == entry.engine);
    let least = of_it.min_by(|a, b| middle(&a.runs, cpu).total_cmp(&middle(&b.runs, cpu)));
    least.is_some_and(|least| std::ptr::eq(least, entry))
}

fn ratio(ratio: f64) -> String {
    decimal(ratio, if ratio < 0.2 { 3 } else { 2 })
}

fn verdict(ratio: f64, limits: Limits) -> &'static str {
    if ratio <= limits.aim {
        "aim"
    } else if ratio <= limits.must {
        "must"
    } else {
        "no"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let limits = Limits { must: 1.3, aim: 0.8 };
        assert_eq!([0.8, 1.3, 1.31].map(|ratio| verdict(ratio, limits)), ["aim", "must", "no"]);
        assert_eq!(verdict(f64::NAN, limits), "no");
    }
}
