//! `cargo xtask test`: every test of the workspace, on real servers. Nothing is skipped: what is
//! missing is fetched, or installed where that is possible, or the command fails.

use std::path::PathBuf;

use crate::Outcome;
use crate::instructions;
use crate::process;
use crate::servers::postgres;
use crate::tools;

/// How many times as many generated logs the operators get in a nightly run: 50,000 in all.
const OPERATOR_CASES: &str = "11";

/// Passes the arguments on to `cargo test`; after `--nightly` the fault tests repeat everything more
/// often. A run of everything counts instructions at the end, with the program that was tested.
pub(crate) fn run(arguments: &[&str]) -> Outcome<()> {
    let (is_nightly, arguments) = match arguments {
        ["--nightly", rest @ ..] => (true, rest),
        _ => (false, arguments),
    };
    let python = python()?;
    let nats_server = tools::nats_server()?;
    let postgres = postgres()?;
    println!("nats-server  {}", nats_server.display());
    println!("python       {}", python.display());
    println!("postgres     {}", postgres.display());
    let mut test = process::cargo();
    test.args(["test", "--workspace"])
        .args(arguments)
        .env("NATS_SERVER_BIN", nats_server)
        .env("POSTGRES_BIN_DIR", postgres)
        .env("WATERWHEEL_PYTHON", python);
    if is_nightly {
        test.env("WATERWHEEL_NIGHTLY", "1").env("WATERWHEEL_CASES", OPERATOR_CASES);
    }
    process::run(&mut test)?;
    if arguments.is_empty() { instructions::run(&[]) } else { Ok(()) }
}

fn python() -> Outcome<PathBuf> {
    tools::python().or_else(|problem| {
        if !tools::can_apt_install() {
            return Err(problem);
        }
        tools::apt_install(&["python3-venv"])?;
        tools::python()
    })
}

fn postgres() -> Outcome<PathBuf> {
    postgres::find().or_else(|problem| {
        if !tools::can_apt_install() {
            return Err(problem.into());
        }
        tools::apt_install(&["postgresql"])?;
        Ok(postgres::find()?)
    })
}
