//! The command line of waterwheel, and the only place that names every list of components.

mod cli {
    pub(crate) mod check;
    pub(crate) mod clean;
    pub(crate) mod deployment;
    pub(crate) mod run;
    pub(crate) mod status;
    pub(crate) mod test;
}

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use waterwheel_pipeline::contract::catalog::Catalog;
use waterwheel_pipeline::graph::explain;
use waterwheel_pipeline::runtime::faults;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Every kind of component.
pub(crate) const CATALOG: Catalog = Catalog {
    sources: waterwheel_sources::SOURCES,
    operators: waterwheel_operators::OPERATORS,
    sinks: waterwheel_sinks::SINKS,
};

/// Live analytics on NATS: one binary, one TOML file.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the pipeline; SIGTERM drains, commits and exits 0.
    Run {
        /// The deployment's TOML file.
        file: PathBuf,
        /// Goes on though these messages of a stream are gone that were never read, and records
        /// that in every sink. It must name exactly what a halt says is missing.
        #[arg(long = "accept-gap", value_name = "[SOURCE:]FROM..TO")]
        accept_gaps: Vec<cli::run::AcceptedGap>,
        /// Empties the sinks whose rows a changed deployment computes otherwise, and fills them
        /// again from where the pipeline began. Without it such a change halts, with a list.
        #[arg(long)]
        rebuild: bool,
    },
    /// Prints every finding, and exits 1 if there is an error.
    Check {
        /// The deployment's TOML file.
        file: PathBuf,
        /// Also reaches every server and checks rights, streams and tables.
        #[arg(long)]
        connect: bool,
    },
    /// Removes at once what is older than `retain` says, and prints what that was. A pipeline that
    /// runs does so at its start and daily; it goes on meanwhile.
    Clean {
        /// The deployment's TOML file.
        file: PathBuf,
    },
    /// Shows the graph: sources, operators, sinks, columns and types.
    Explain {
        /// The deployment's TOML file.
        file: PathBuf,
        /// How to show it.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Runs the tests that stand beside pipelines, and exits 1 unless all pass.
    Test {
        /// The deployments' TOML files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Runs the main job on generated events and local files.
    Demo {
        /// Where its files go.
        #[arg(long, default_value = "waterwheel-demo")]
        directory: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Mermaid,
    Json,
}

/// Exit code of findings and of a bad configuration.
pub(crate) const EXIT_FINDINGS: u8 = 1;
/// Exit code of a wrong command line.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Exit code of a halt that protects data.
pub(crate) const EXIT_HALTED: u8 = 3;
/// Exit code of a fault that waiting cannot mend.
pub(crate) const EXIT_FAULT: u8 = 4;

fn main() -> ExitCode {
    abort_on_panic();
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Run { file, accept_gaps, rebuild } => {
            cli::run::run_file(&file, &accept_gaps, rebuild)
        }
        Command::Check { file, connect } => cli::check::check(&file, connect),
        Command::Clean { file } => cli::clean::clean(&file),
        Command::Explain { file, format } => match cli::deployment::load(&file) {
            Ok(deployment) => {
                let text = match format {
                    Format::Text => explain::text(&deployment),
                    Format::Mermaid => explain::mermaid(&deployment),
                    Format::Json => explain::json(&deployment),
                };
                cli::status::to_stdout(&text);
                ExitCode::SUCCESS
            }
            Err(code) => code,
        },
        Command::Test { files } => cli::test::test(&files),
        Command::Demo { directory } => cli::run::demo(&directory),
    }
}

/// A panic is a bug that may have torn state: end at once and let the supervisor restart.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        faults::record_panic(&info.to_string());
        std::process::abort();
    }));
}
