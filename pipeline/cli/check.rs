//! `waterwheel check`: every finding at once; with `--connect` every server too.

use std::path::Path;
use std::process::ExitCode;

use waterwheel_pipeline::contract::bucket::Place;
use waterwheel_pipeline::contract::nats;
use waterwheel_pipeline::graph::{CheckpointSettings, Deployment};

use super::deployment;
use crate::EXIT_FINDINGS;

/// Checks a deployment file.
pub(crate) fn check(file: &Path, connect: bool) -> ExitCode {
    let deployment = match deployment::check(file) {
        Ok(deployment) => deployment,
        Err(code) => return code,
    };
    let problems = if connect { reach(&deployment) } else { Vec::new() };
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    if !problems.is_empty() {
        return ExitCode::from(EXIT_FINDINGS);
    }
    let reached = if connect { "; every server answers" } else { "" };
    println!(
        "{}: {} sources, {} operators, {} sinks, no errors{reached}",
        file.display(),
        deployment.sources.len(),
        deployment.operators.len(),
        deployment.sinks.len(),
    );
    ExitCode::SUCCESS
}

fn reach(deployment: &Deployment) -> Vec<String> {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![format!("cannot start the runtime: {error}")],
    };
    runtime.block_on(async {
        let mut problems = Vec::new();
        for node in &deployment.sources {
            let mut source = node.spec.build_for(&deployment.reading(node));
            let found = source.probe().await;
            problems.extend(found.into_iter().map(|p| format!("source `{}`: {p}", node.name)));
            source.close().await;
        }
        for node in &deployment.sinks {
            let found = node.spec.build().probe().await;
            problems.extend(found.into_iter().map(|p| format!("sink `{}`: {p}", node.name)));
        }
        if let Some(report) = &deployment.report
            && let Err(fault) = nats::connect(&report.connection, "waterwheel").await
        {
            problems.push(format!("`report`: {fault}"));
        }
        if let Some(CheckpointSettings { place: Place::Bucket(bucket), .. }) =
            &deployment.checkpoint
            && let Err(fault) = tokio::task::block_in_place(|| bucket.check(false))
        {
            problems.push(format!("checkpoints: {fault}"));
        }
        problems
    })
}
