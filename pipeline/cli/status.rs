//! What a person sees while a pipeline runs: a status line on a terminal, structured logs otherwise.
//! Both go to stderr; stdout is for rows.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use waterwheel_pipeline::runtime::gauges::Gauges;

/// On a terminal the line is drawn anew this often.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// Otherwise a record is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Starts logging: for people on a terminal, as JSON otherwise; `RUST_LOG` filters.
pub(crate) fn start_logging() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,waterwheel=info,waterwheel_pipeline=info,waterwheel_sources=info,waterwheel_sinks=info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).with_writer(AboveStatus).init();
    } else {
        builder.json().flatten_event(true).with_writer(std::io::stderr).init();
    }
}

/// Writes log lines where the status line stands, which is then drawn anew below.
struct AboveStatus;

impl<'w> MakeWriter<'w> for AboveStatus {
    type Writer = std::io::Stderr;
    fn make_writer(&'w self) -> Self::Writer {
        clear_line();
        std::io::stderr()
    }
}

/// Wipes the status line.
pub(crate) fn clear_line() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K");
    }
}

/// Prints a text; a reader that has gone away is no error.
pub(crate) fn to_stdout(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Shows the gauges until it is dropped.
pub(crate) async fn show(gauges: Arc<Gauges>) {
    let is_terminal = std::io::stderr().is_terminal();
    let every = if is_terminal { DRAW_EVERY } else { LOG_EVERY };
    let mut interval = tokio::time::interval(every);
    interval.tick().await;
    let mut rate = Rate::default();
    loop {
        interval.tick().await;
        let messages = gauges.messages.load(Ordering::Relaxed);
        let line = Line::read(&gauges, rate.next(messages));
        if is_terminal {
            eprint!("\r\x1b[2K{}", line.text());
            let _ = std::io::stderr().flush();
        } else {
            line.log();
        }
    }
}

/// Messages per second, smoothed over about two seconds.
#[derive(Default)]
struct Rate {
    last: Option<(Instant, u64)>,
    smoothed: f64,
}

impl Rate {
    fn next(&mut self, messages: u64) -> f64 {
        let now = Instant::now();
        if let Some((then, before)) = self.last {
            let seconds = now.duration_since(then).as_secs_f64().max(1e-3);
            let current = messages.saturating_sub(before) as f64 / seconds;
            let weight = (seconds / 2.0).min(1.0);
            self.smoothed += (current - self.smoothed) * weight;
        }
        self.last = Some((now, messages));
        self.smoothed
    }
}

struct Line {
    events_per_second: f64,
    pending: u64,
    delay: Option<Duration>,
    rows: u64,
    state_bytes: u64,
    dead: u64,
    state: String,
}

impl Line {
    fn read(gauges: &Gauges, events_per_second: f64) -> Self {
        let watermark_us = gauges.watermark_us.load(Ordering::Relaxed);
        let largest_us = gauges.largest_us.load(Ordering::Relaxed);
        let delay = (watermark_us > i64::MIN && largest_us > i64::MIN).then(|| {
            Duration::from_micros(largest_us.saturating_sub(watermark_us).max(0).unsigned_abs())
        });
        let state = match gauges.waiting() {
            Some(reason) => format!("waiting for {reason}"),
            None if gauges.replaying.load(Ordering::Relaxed) => "replaying".to_owned(),
            None => match gauges.holder() {
                Some(holder) => format!("running, watermark held by {holder}"),
                None => "running".to_owned(),
            },
        };
        Self {
            events_per_second,
            pending: gauges.pending.load(Ordering::Relaxed),
            delay,
            rows: gauges.rows.load(Ordering::Relaxed),
            state_bytes: gauges.state_bytes.load(Ordering::Relaxed),
            dead: gauges.dead.load(Ordering::Relaxed),
            state,
        }
    }

    fn text(&self) -> String {
        let delay =
            self.delay.map_or("-".to_owned(), |delay| format!("{:.1}s", delay.as_secs_f64()));
        format!(
            "{} events/s | lag {} | watermark {delay} behind | rows {} | state {} | dead {} | {}",
            count(self.events_per_second),
            count(self.pending as f64),
            count(self.rows as f64),
            bytes(self.state_bytes),
            count(self.dead as f64),
            self.state,
        )
    }

    fn log(&self) {
        tracing::info!(
            events_per_second = self.events_per_second.round(),
            lag_messages = self.pending,
            watermark_delay_ms = self.delay.map(|delay| delay.as_millis() as u64),
            rows_out = self.rows,
            state_bytes = self.state_bytes,
            dead_letters = self.dead,
            state = %self.state,
            "status"
        );
    }
}

/// A count with at most four digits and a unit.
pub(crate) fn count(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1}G", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.0}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

fn bytes(number: u64) -> String {
    match number as f64 {
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        n => format!("{:.0} kB", n / 1e3),
    }
}
