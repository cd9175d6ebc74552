//! `waterwheel run` and `waterwheel demo`.

use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use waterwheel_pipeline::contract::fault::{Fault, Remedy};
use waterwheel_pipeline::contract::position::Gap;
use waterwheel_pipeline::graph::Deployment;
use waterwheel_pipeline::runtime::gauges::Gauges;
use waterwheel_pipeline::runtime::pipeline::{self, OnChange, Outcome};

use super::{deployment, status};
use crate::{EXIT_FAULT, EXIT_HALTED, EXIT_USAGE};

/// The deployment of `waterwheel demo`; `{directory}` is where its files go.
const DEMO: &str = include_str!("demo.toml");

/// What `--accept-gap` takes: `events:101..110`, or without the source where there is only one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AcceptedGap {
    source: Option<String>,
    gap: Gap,
}

impl FromStr for AcceptedGap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (source, range) = match text.split_once(':') {
            Some((source, range)) => (Some(source.to_owned()), range),
            None => (None, text),
        };
        Ok(Self { source, gap: range.parse()? })
    }
}

/// Runs a deployment file.
pub(crate) fn run_file(file: &Path, accepted: &[AcceptedGap], rebuild: bool) -> ExitCode {
    let mut deployment = match deployment::load(file) {
        Ok(deployment) => deployment,
        Err(code) => return code,
    };
    for AcceptedGap { source, gap } in accepted {
        if let Err(problem) = deployment.accept_gap(source.as_deref(), *gap) {
            eprintln!("error: --accept-gap: {problem}");
            return ExitCode::from(EXIT_USAGE);
        }
    }
    run(deployment, if rebuild { OnChange::Rebuild } else { OnChange::Halt })
}

/// Runs the demo.
pub(crate) fn demo(directory: &Path) -> ExitCode {
    let lake = directory.join("lake");
    let path = lake.display().to_string().replace('\\', "/").replace('"', "");
    let code = match deployment::plan("demo.toml", &DEMO.replace("{lake}", &path)) {
        Ok(deployment) => run(deployment, OnChange::Halt),
        Err(code) => code,
    };
    eprintln!(
        "every minute and hour of `volume` is above; the same and the raw events are Parquet files in {path}"
    );
    eprintln!("query them: duckdb -c \"from read_parquet('{path}/volume/**/*.parquet') limit 10\"");
    code
}

fn run(deployment: Deployment, on_change: OnChange) -> ExitCode {
    status::start_logging();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start the runtime: {error}");
            return ExitCode::from(EXIT_FAULT);
        }
    };
    let code = runtime.block_on(run_until_stopped(Arc::new(deployment), on_change));
    // A read of stdin cannot be cancelled and must not keep the process.
    runtime.shutdown_background();
    code
}

async fn run_until_stopped(deployment: Arc<Deployment>, on_change: OnChange) -> ExitCode {
    let started = Instant::now();
    let gauges = Arc::new(Gauges::default());
    let drain = CancellationToken::new();
    // Before anything else: a signal that comes early must not end it like any other program.
    let draining = match Signals::listen() {
        Ok(signals) => signals.drain(drain.clone()),
        Err(error) => {
            tracing::error!("cannot listen for signals: {error}");
            return ExitCode::from(EXIT_FAULT);
        }
    };
    tracing::info!(
        pipeline = %deployment.name,
        workers = deployment.workers,
        sources = deployment.sources.len(),
        operators = deployment.operators.len(),
        sinks = deployment.sinks.len(),
        "starting"
    );
    let result = tokio::select! {
        result = pipeline::run(deployment.clone(), gauges.clone(), drain.clone(), on_change) => result,
        () = forever(status::show(gauges.clone())) => Ok(Outcome::Drained),
        () = forever(draining) => Ok(Outcome::Drained),
    };
    status::clear_line();
    match result {
        Ok(Outcome::AlreadyFinished) => {
            tracing::info!(pipeline = %deployment.name, "finished by an earlier run; nothing to do");
            ExitCode::SUCCESS
        }
        Ok(outcome) => {
            let messages = gauges.messages.load(Ordering::Relaxed);
            tracing::info!(
                pipeline = %deployment.name,
                outcome = ?outcome,
                messages,
                accepted = gauges.accepted.load(Ordering::Relaxed),
                dead_letters = gauges.dead.load(Ordering::Relaxed),
                late = gauges.late.load(Ordering::Relaxed),
                rows_out = gauges.rows.load(Ordering::Relaxed),
                seconds = started.elapsed().as_secs_f64(),
                "stopped"
            );
            ExitCode::SUCCESS
        }
        Err(fault) => report(&fault),
    }
}

async fn forever(work: impl Future<Output = ()>) {
    work.await;
    std::future::pending::<()>().await;
}

fn report(fault: &Fault) -> ExitCode {
    let help = fault.help.as_deref().unwrap_or("");
    match fault.remedy {
        Remedy::Halt => {
            tracing::error!(help, "halted to protect data: {fault}");
            ExitCode::from(EXIT_HALTED)
        }
        Remedy::Stop | Remedy::Retry => {
            tracing::error!(help, "stopped: {fault}");
            ExitCode::from(EXIT_FAULT)
        }
    }
}

/// The signals that end a run.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// The first SIGINT or SIGTERM drains; a second one ends at once.
    async fn drain(mut self, drain: CancellationToken) {
        for round in 0.. {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
            if round > 0 {
                std::process::exit(130);
            }
            tracing::info!("draining: everything read is committed, then it ends");
            drain.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_named_with_or_without_its_source() {
        let gap = Gap { from: 101, to: 110 };
        let named: AcceptedGap = "events:101..110".parse().unwrap();
        assert_eq!(named, AcceptedGap { source: Some("events".to_owned()), gap });
        let only: AcceptedGap = "101..110".parse().unwrap();
        assert_eq!(only, AcceptedGap { source: None, gap });
        for wrong in ["", "events:", "events:110..101", "a:b:1..2", "101-110"] {
            assert!(wrong.parse::<AcceptedGap>().is_err(), "{wrong}");
        }
    }
}
