//! Reads a deployment file and plans it; what is wrong goes to stderr.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use waterwheel_config::document::Document;
use waterwheel_pipeline::graph::{self, Deployment};

use crate::{CATALOG, EXIT_FINDINGS};

/// Plans the file, or prints why not.
pub(crate) fn load(file: &Path) -> Result<Deployment, ExitCode> {
    let path = file.display().to_string();
    match std::fs::read_to_string(file) {
        Ok(source) => plan(&path, &source),
        Err(error) => {
            eprintln!("error: cannot read {path}: {error}");
            Err(ExitCode::from(EXIT_FINDINGS))
        }
    }
}

/// Plans a deployment's text, or prints why not.
pub(crate) fn plan(path: &str, source: &str) -> Result<Deployment, ExitCode> {
    let document = Document::parse(path, source, Box::new(|name| std::env::var(name).ok()));
    let deployment = graph::plan(&document, &CATALOG);
    eprint!("{}", document.render_findings(std::io::stderr().is_terminal()));
    deployment.ok_or_else(|| ExitCode::from(EXIT_FINDINGS))
}
