//! Reads a deployment file and plans it; what is wrong goes to stderr.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use waterwheel_config::document::Document;
use waterwheel_pipeline::contract::catalog::Catalog;
use waterwheel_pipeline::graph::{self, Deployment};

use crate::{CATALOG, EXIT_FINDINGS};

/// Plans the file, or prints why not.
pub(crate) fn load(file: &Path) -> Result<Deployment, ExitCode> {
    finish(read(file)?, graph::plan)
}

/// Plans the file and looks at what its tests need, or prints what is wrong.
pub(crate) fn check(file: &Path) -> Result<Deployment, ExitCode> {
    finish(read(file)?, graph::check)
}

/// Plans a deployment's text, or prints why not.
pub(crate) fn plan(path: &str, source: &str) -> Result<Deployment, ExitCode> {
    finish(parse(path, source), graph::plan)
}

/// Parses the file, or prints why it cannot be read.
pub(crate) fn read(file: &Path) -> Result<Document, ExitCode> {
    let path = file.display().to_string();
    match std::fs::read_to_string(file) {
        Ok(source) => Ok(parse(&path, &source)),
        Err(error) => {
            eprintln!("error: cannot read {path}: {error}");
            Err(ExitCode::from(EXIT_FINDINGS))
        }
    }
}

fn parse(path: &str, source: &str) -> Document {
    Document::parse(path, source, Box::new(|name| std::env::var(name).ok()))
}

fn finish(
    document: Document,
    plan: fn(&Document, &Catalog) -> Option<Deployment>,
) -> Result<Deployment, ExitCode> {
    let deployment = plan(&document, &CATALOG);
    eprint!("{}", document.render_findings(std::io::stderr().is_terminal()));
    deployment.ok_or_else(|| ExitCode::from(EXIT_FINDINGS))
}
