//! Reads `[[tests]]`: steps, messages, and what is expected after each step.

use std::path::{Path, PathBuf};

use waterwheel_config::document::{Node, NodeKind};
use waterwheel_config::section::Section;

use super::expectation::expectations;
use super::messages::{messages, time};
use super::{Outlet, Rehearsal, Step};

/// Whether the files that tests name are read.
#[derive(Clone, Debug)]
pub(in crate::graph) enum Files {
    /// They are not needed, and need not be there.
    Left,
    /// They are read from this directory.
    Read(PathBuf),
}

impl Files {
    /// They stand beside the deployment's file.
    pub(in crate::graph) fn beside(deployment: &str) -> Self {
        Self::Read(Path::new(deployment).parent().unwrap_or(Path::new("")).to_owned())
    }
}

/// What the tests of a deployment may speak of.
struct Stage<'a> {
    sources: &'a [String],
    outlets: &'a [Outlet],
    base: Option<&'a Path>,
}

/// Reads the tests of a deployment.
pub(in crate::graph) fn read(
    root: &Section<'_>,
    sources: &[String],
    outlets: &[Outlet],
    files: &Files,
) -> Vec<Rehearsal> {
    let base = match files {
        Files::Left => None,
        Files::Read(base) => Some(base.as_path()),
    };
    let stage = Stage { sources, outlets, base };
    let mut rehearsals: Vec<Rehearsal> = Vec::new();
    for (index, node) in tables(root, "tests").into_iter().enumerate() {
        let Some(section) = root.node_table(node, &node.span, &format!("test {}", index + 1))
        else {
            continue;
        };
        let name = section.required_text("name");
        if let Some(name) = &name
            && rehearsals.iter().any(|other| other.name == name.value)
        {
            section.findings().error_help(
                name.span.clone(),
                format!("there are two tests `{}`", name.value),
                "say in each name what the test shows",
            );
        }
        let name = name.map(|name| name.value).unwrap_or_default();
        rehearsals.push(rehearsal(section, name, &stage));
    }
    rehearsals
}

/// The tables of a list `[[key]]`.
fn tables<'d>(section: &Section<'d>, key: &str) -> Vec<&'d Node> {
    let Some(node) = section.node(key) else {
        return Vec::new();
    };
    let is_table = |node: &&Node| matches!(node.kind, NodeKind::Table(_));
    match &node.kind {
        NodeKind::Array(items) if items.iter().all(|item| is_table(&item)) => {
            items.iter().collect()
        }
        _ => {
            section.findings().error_help(
                section.key_span(key),
                format!("`{key}` must be a list of tables"),
                match key {
                    "tests" => "write [[tests]] above each one",
                    _ => "write [[tests.steps]] above each one",
                },
            );
            Vec::new()
        }
    }
}

fn rehearsal(section: Section<'_>, name: String, stage: &Stage<'_>) -> Rehearsal {
    let mut steps = Vec::new();
    let (advance_to_us, messages) =
        (time(&section, "advance_to"), messages(&section, stage.sources, stage.base));
    steps.push(Step {
        advance_to_us,
        messages,
        moment: "at the start".to_owned(),
        ..Step::default()
    });
    for (index, node) in tables(&section, "steps").into_iter().enumerate() {
        let number = index + 1;
        if let Some(table) =
            section.node_table(node, &node.span, &format!("step {number} of a test"))
        {
            steps.push(step(table, number, stage));
        }
    }
    let finishes = section.boolean("finish").is_some_and(|finish| finish.value);
    let expectations = expectations(&section, stage.outlets);
    let has_others = steps.iter().any(|step| !step.expectations.is_empty());
    if !has_others && !section.has("expect") && !steps.iter().any(|step| step.is_asking) {
        section.missing(
            "expect",
            section.span.clone(),
            format!("{} expects nothing", section.what),
            Some("write the rows that must come out: expect.<operator> = [{ ... }]"),
        );
    }
    section.finish();
    steps.push(Step { moment: "at the end".to_owned(), finishes, expectations, ..Step::default() });
    Rehearsal { name, steps }
}

fn step(section: Section<'_>, number: usize, stage: &Stage<'_>) -> Step {
    let moment = match section.text("name") {
        Some(name) => format!("after step {number} ({})", name.value),
        None => format!("after step {number}"),
    };
    let step = Step {
        moment,
        advance_to_us: time(&section, "advance_to"),
        messages: messages(&section, stage.sources, stage.base),
        crashes: section.boolean("restart").is_some_and(|restart| restart.value),
        finishes: false,
        is_asking: section.has("expect"),
        expectations: expectations(&section, stage.outlets),
    };
    section.finish();
    step
}
