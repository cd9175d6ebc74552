//! `waterwheel test`: runs the tests written beside pipelines, and shows what came out otherwise.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use waterwheel_config::document::Document;
use waterwheel_pipeline::graph::plan_stage;
use waterwheel_pipeline::graph::rehearsal::Rehearsal;
use waterwheel_pipeline::runtime::rehearsal;

use super::{deployment, status};
use crate::{CATALOG, EXIT_FAULT, EXIT_FINDINGS};

/// Runs the tests of every file; 1 unless all pass.
pub(crate) fn test(files: &[PathBuf]) -> ExitCode {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::from(EXIT_FAULT);
        }
    };
    let colour = std::io::stdout().is_terminal();
    let (mut passed, mut failed, mut is_complete) = (0_usize, 0_usize, true);
    for file in files {
        let Some((document, tests)) = read(file) else {
            is_complete = false;
            continue;
        };
        for test in &tests {
            let report = runtime.block_on(run(&document, test, colour));
            match report {
                None => passed += 1,
                Some(_) => failed += 1,
            }
            let verdict = verdict(report.is_none(), colour);
            let report = report.unwrap_or_default();
            status::to_stdout(&format!("{verdict}  {}: {}\n{report}", file.display(), test.name));
        }
    }
    let total = match failed {
        0 => format!("{passed} passed\n"),
        failed => format!("{passed} passed, {failed} failed\n"),
    };
    if passed + failed > 0 {
        status::to_stdout(&total);
    }
    match is_complete && failed == 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_FINDINGS),
    }
}

/// The tests of a file; `None` where there are none, or something is wrong with it, which is said.
fn read(file: &Path) -> Option<(Document, Vec<Rehearsal>)> {
    let document = deployment::read(file).ok()?;
    let planned = plan_stage(&document, &CATALOG, Vec::new());
    eprint!("{}", document.render_findings(std::io::stderr().is_terminal()));
    let (_, tests) = planned?;
    if tests.is_empty() {
        eprintln!("error: {} has no tests", file.display());
        eprintln!("help: add a table [[tests]] with a name, events, and what they must come to");
        return None;
    }
    Some((document, tests))
}

/// Runs one test; what is to be said of it, if it fails.
async fn run(document: &Document, test: &Rehearsal, colour: bool) -> Option<String> {
    let differences = match rehearsal::run(document, &CATALOG, test).await {
        Ok(differences) if differences.is_empty() => return None,
        Ok(differences) => differences,
        Err(fault) => {
            let help = fault.help.as_deref().map(|help| format!("\n    help: {help}"));
            return Some(format!(
                "    the pipeline stopped: {fault}{}\n",
                help.unwrap_or_default()
            ));
        }
    };
    let mut report = String::new();
    for difference in differences {
        for line in difference.render(colour).lines() {
            // Writing to a String cannot fail.
            let _ = writeln!(report, "    {line}");
        }
    }
    Some(report)
}

fn verdict(has_passed: bool, colour: bool) -> &'static str {
    match (has_passed, colour) {
        (true, false) => "ok  ",
        (false, false) => "FAIL",
        (true, true) => "\u{1b}[32mok\u{1b}[0m  ",
        (false, true) => "\u{1b}[1;31mFAIL\u{1b}[0m",
    }
}
