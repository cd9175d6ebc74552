//! `waterwheel clean`: removes at once what is older than `retain`, and prints what that was.

use std::path::Path;
use std::process::ExitCode;

use waterwheel_config::value::format_timestamp;
use waterwheel_pipeline::contract::fault::Remedy;
use waterwheel_pipeline::contract::retain::Cleaned;
use waterwheel_pipeline::runtime::cleaning::{self, Outcome};

use super::{deployment, status};
use crate::{EXIT_FAULT, EXIT_HALTED};

const HEAD: [&str; 7] = ["sink", "place", "windows", "older than", "rows", "partitions", "files"];

/// Cleans the sinks of a deployment file.
pub(crate) fn clean(file: &Path) -> ExitCode {
    let deployment = match deployment::load(file) {
        Ok(deployment) => deployment,
        Err(code) => return code,
    };
    status::start_logging();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::from(EXIT_FAULT);
        }
    };
    let outcomes = runtime.block_on(cleaning::clean(&deployment));
    status::to_stdout(&table(&outcomes));
    let mut code = ExitCode::SUCCESS;
    for Outcome { sink, fault, .. } in outcomes.iter().rev() {
        let Some(fault) = fault else { continue };
        tracing::error!(sink, help = fault.help.as_deref(), "not cleaned to the end: {fault}");
        code = ExitCode::from(if fault.remedy == Remedy::Halt { EXIT_HALTED } else { EXIT_FAULT });
    }
    code
}

/// What was removed, a line for each place.
fn table(outcomes: &[Outcome]) -> String {
    if outcomes.is_empty() {
        return "no sink has `retain`: nothing is removed\n".to_owned();
    }
    let mut lines = vec![HEAD.map(str::to_owned)];
    for Outcome { sink, removed, .. } in outcomes {
        lines.extend(removed.iter().map(|cleaned| line(sink, cleaned)));
        if removed.is_empty() {
            let mut line = [const { String::new() }; 7];
            (line[0], line[1]) = (sink.clone(), "nothing is older".to_owned());
            lines.push(line);
        }
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn line(sink: &str, cleaned: &Cleaned) -> [String; 7] {
    let dash = || "-".to_owned();
    let number = |number: u64| if number == 0 { dash() } else { number.to_string() };
    [
        sink.to_owned(),
        cleaned.place.clone(),
        cleaned.granularity.clone().unwrap_or_else(|| "all".to_owned()),
        format_timestamp(cleaned.before_us),
        cleaned.rows.map_or_else(dash, |rows| rows.to_string()),
        number(cleaned.partitions),
        number(cleaned.files),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_a_table() {
        let cleaned = Cleaned {
            input: "volume".into(),
            place: "public.volume".into(),
            granularity: Some("1m".into()),
            before_us: 0,
            rows: Some(7),
            partitions: 0,
            files: 0,
        };
        let outcome = |sink: &str, removed| Outcome { sink: sink.into(), removed, fault: None };
        let text = table(&[outcome("warehouse", vec![cleaned]), outcome("lake", vec![])]);
        assert_eq!(
            text,
            "sink       place             windows  older than            rows  partitions  files\n\
             warehouse  public.volume     1m       1970-01-01T00:00:00Z  7     -           -\n\
             lake       nothing is older\n"
        );
        assert!(table(&[]).contains("no sink has `retain`"));
    }
}
