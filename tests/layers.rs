//! The direction of imports: the binary names the components, components know the contract, the
//! contract knows the language, and nothing knows what stands above it.
//!
//! The rules are read off the sources and the manifests; each is shown to catch what it forbids.

use std::fs;
use std::path::Path;

use crate::support::python::root;

/// A file of the repository, by its path from the root.
struct File {
    path: String,
    text: String,
}

/// The crates whose sources are read.
const CRATES: [&str; 8] =
    ["config", "pipeline", "sources", "operators", "sinks", "benches", "xtask", "tests"];

/// The crates of this repository that a crate may depend on, its tests included.
const DEPENDENCIES: [(&str, &[&str]); 5] = [
    ("config", &[]),
    ("pipeline", &["waterwheel-config"]),
    ("sources", &["waterwheel-config", "waterwheel-pipeline"]),
    ("operators", &["waterwheel-config", "waterwheel-pipeline"]),
    ("sinks", &["waterwheel-config", "waterwheel-pipeline"]),
];

/// The only file that drives a worker of the engine.
const WORKER: &str = "pipeline/src/runtime/dataflow.rs";

/// Where tasks begin, and why: everything else is awaited by whoever needs it.
const SPAWNS: [(&str, &str); 3] = [
    ("benches/src/observe.rs", "the same client library, in a program that ends with it"),
    ("pipeline/src/runtime/actor.rs", "an actor is a task with a name, which is joined"),
    (
        "sinks/src/postgres/connect.rs",
        "the client library reads and writes in a future of its own, which is aborted with the client",
    ),
];

const LINES_MAX: usize = 500;

/// Files that are longer, and why.
const LONGER: [(&str, &str); 12] = [
    ("config/src/expr/compile.rs", "one arm per form of SQL, and a fifth of it are tests"),
    ("pipeline/src/contract/nats.rs", "a fifth of it are tests"),
    (
        "pipeline/src/runtime/decode/scan.rs",
        "one pass over the bytes of a payload; a quarter are tests",
    ),
    ("pipeline/src/graph/plan.rs", "one planner, whose steps share its state"),
    ("pipeline/src/runtime/pipeline.rs", "how all actors are started and ended, in one order"),
    ("sinks/src/parquet/tests.rs", "tests alone"),
    ("sinks/src/postgres/tests.rs", "tests alone"),
    ("sinks/src/postgres/tables.rs", "tables, indexes and views, as one thing that is compared"),
    ("sources/src/nats/run.rs", "one state machine, whose steps share its whole state"),
    ("sources/src/nats/tests.rs", "tests alone"),
    ("tests/fingerprints.rs", "a table of edits, one a line"),
    ("tests/hostile/corpus.rs", "lists of messages, one a line"),
];

#[test]
fn crates_depend_on_what_is_below_them() {
    assert_none(manifests().iter().flat_map(dependencies));
}

#[test]
fn the_contract_knows_no_runtime() {
    assert_none(sources().iter().flat_map(contract));
}

#[test]
fn components_know_the_contract_alone() {
    assert_none(sources().iter().flat_map(components));
}

#[test]
fn one_file_drives_the_workers() {
    assert_none(sources().iter().flat_map(workers));
}

#[test]
fn tasks_begin_in_one_place() {
    assert_none(sources().iter().flat_map(spawns));
}

#[test]
fn files_can_be_read_at_a_sitting() {
    let files = sources();
    assert_none(files.iter().flat_map(lengths));
    let stale = LONGER.iter().filter(|(path, _)| {
        !files.iter().any(|file| file.path == *path && file.text.lines().count() > LINES_MAX)
    });
    assert_none(stale.map(|(path, _)| format!("{path} is no exception any more")));
}

#[test]
fn nothing_is_left_to_do_later() {
    assert_none(sources().iter().flat_map(unfinished));
}

#[test]
fn every_rule_catches_what_it_forbids() {
    let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
    let caught =
        |broken: Vec<String>, what: &str| assert_eq!(broken.len(), 1, "{what}: {broken:?}");
    for (path, text) in [
        ("config/Cargo.toml", "[dependencies]\nwaterwheel-pipeline.workspace = true\n"),
        (
            "sinks/Cargo.toml",
            "[dev-dependencies]\nwaterwheel-sources = { path = \"../sources\" }\n",
        ),
        ("pipeline/Cargo.toml", "[dependencies.waterwheel-sinks]\nworkspace = true\n"),
    ] {
        caught(dependencies(&file(path, text)), text);
    }
    for text in [
        "use crate::runtime::gauges::Gauges;",
        "use crate::{contract::fault::Fault, graph};",
        "pub(crate) use super::super::runtime;",
        "fn f() -> crate::graph::Deployment {}",
    ] {
        caught(contract(&file("pipeline/src/contract/sink.rs", text)), text);
    }
    for text in [
        "use waterwheel_pipeline::runtime::gauges::Gauges;",
        "use waterwheel_pipeline::{contract::fault::Fault, graph::plan};",
        "use waterwheel_pipeline as pipeline;",
        "use waterwheel_sources::file;",
        "fn f() { waterwheel_pipeline::graph::plan() }",
    ] {
        caught(components(&file("sinks/src/print.rs", text)), text);
        let tests = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n    {text}\n}}\n");
        assert!(components(&file("operators/src/join.rs", &tests)).is_empty(), "{tests}");
        assert!(components(&file("operators/src/testing/drive.rs", text)).is_empty(), "{text}");
        caught(components(&file("sinks/src/print/tests.rs", text)), text);
    }
    for text in ["use timely::worker::Worker;", "use timely::{dataflow::Scope, worker};"] {
        caught(workers(&file("operators/src/join.rs", text)), text);
        assert!(workers(&file(WORKER, text)).is_empty(), "{text}");
    }
    for text in [
        "fn f() { tokio::spawn(async {}); }",
        "use tokio::{spawn, time};",
        "fn f() { tokio::task::spawn(async {}); }",
        "use tokio::task::spawn_local;",
    ] {
        caught(spawns(&file("sources/src/nats/pull.rs", text)), text);
        assert!(spawns(&file(SPAWNS[0].0, text)).is_empty(), "{text}");
    }
    let long = "\n".repeat(LINES_MAX + 1);
    caught(lengths(&file("sinks/src/print.rs", &long)), "a long file");
    assert!(lengths(&file("sinks/src/print.rs", &"\n".repeat(LINES_MAX))).is_empty());
    for text in [concat!("fn f() { todo", "!() }"), concat!("fn f() { unimplemented", "!(\"x\") }")]
    {
        caught(unfinished(&file("xtask/src/main.rs", text)), text);
    }
    let comment = "// use crate::runtime::x;\n/// `tokio::spawn` is not used\nfn f() {}\n";
    assert!(contract(&file("pipeline/src/contract/sink.rs", comment)).is_empty());
    assert!(spawns(&file("pipeline/src/contract/sink.rs", comment)).is_empty());
}

fn dependencies(manifest: &File) -> Vec<String> {
    let folder = manifest.path.trim_end_matches("/Cargo.toml");
    let Some((_, allowed)) = DEPENDENCIES.iter().find(|(known, _)| *known == folder) else {
        return Vec::new();
    };
    let named = manifest.text.lines().filter_map(|line| {
        let line = line.trim();
        let table = line.strip_prefix('[').and_then(|line| line.rsplit("dependencies.").next());
        let word = table.filter(|_| line.contains("dependencies.")).unwrap_or(line);
        let name = word.split(['.', ' ', '=', ']']).next()?;
        name.starts_with("waterwheel-").then(|| name.to_owned())
    });
    let wrong = named.filter(|name| !allowed.contains(&name.as_str()));
    wrong.map(|name| format!("{folder} depends on {name}")).collect()
}

fn contract(file: &File) -> Vec<String> {
    if !file.path.starts_with("pipeline/src/contract") {
        return Vec::new();
    }
    let above = ["crate::runtime", "crate::graph", "super::runtime", "super::graph"];
    breaches(file, &code(&file.text), |path| above.iter().any(|above| path_has(path, above)))
}

fn components(file: &File) -> Vec<String> {
    let layer = ["sources", "operators", "sinks"];
    let Some(own) = layer.iter().find(|layer| file.path.starts_with(&format!("{layer}/src/")))
    else {
        return Vec::new();
    };
    // Operators are tested in the whole engine: their inputs are made by it.
    let is_test = ["testing", "testing.rs", "tests", "tests.rs"];
    if *own == "operators" && file.path.split('/').any(|part| is_test.contains(&part)) {
        return Vec::new();
    }
    let code = code(&file.text);
    let code = match code.find("#[cfg(test)]\nmod tests {") {
        Some(tests) if *own == "operators" => &code[..tests],
        _ => &code,
    };
    breaches(file, code, |path| {
        let beside = ["waterwheel_sources", "waterwheel_operators", "waterwheel_sinks"];
        let rest = path.strip_prefix("waterwheel_pipeline");
        rest.is_some_and(|rest| !rest.starts_with("::contract"))
            || beside.iter().any(|name| path.starts_with(name))
    })
}

fn workers(file: &File) -> Vec<String> {
    // The tests of operators drive an engine of their own, and this file quotes what it forbids.
    let is_test = file.path.contains("/testing/") || file.path.starts_with("tests/");
    if file.path == WORKER || is_test {
        return Vec::new();
    }
    breaches(file, &code(&file.text), |path| path_has(path, "timely::worker"))
}

fn spawns(file: &File) -> Vec<String> {
    let is_allowed = SPAWNS.iter().any(|(path, _)| *path == file.path);
    let is_test = file.path.ends_with("tests.rs") || file.path.starts_with("tests/");
    if is_allowed || is_test {
        return Vec::new();
    }
    let spawns = ["tokio::spawn", "tokio::task::spawn", "tokio::task::spawn_local"];
    breaches(file, &code(&file.text), |path| spawns.iter().any(|spawn| path_has(path, spawn)))
}

fn lengths(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    if lines <= LINES_MAX || LONGER.iter().any(|(path, _)| *path == file.path) {
        return Vec::new();
    }
    vec![format!("{} has {lines} lines; split it, or say in {} why not", file.path, file!())]
}

fn unfinished(file: &File) -> Vec<String> {
    let code = code(&file.text);
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!(")];
    let found = marks.iter().filter(|mark| code.contains(**mark));
    found.map(|mark| format!("{} has {mark}", file.path)).collect()
}

/// The paths in the code for which a rule is broken, each once.
fn breaches(file: &File, code: &str, is_broken: impl Fn(&str) -> bool) -> Vec<String> {
    let mut broken: Vec<String> = Vec::new();
    for path in paths(code).into_iter().filter(|path| is_broken(path)) {
        let breach = format!("{} names {path}", file.path);
        if !broken.contains(&breach) {
            broken.push(breach);
        }
    }
    broken
}

/// True if the path is `wanted` or something in it, in whole names.
fn path_has(path: &str, wanted: &str) -> bool {
    path.match_indices(wanted).any(|(at, _)| {
        let before = at == 0 || path[..at].ends_with("::");
        let after = &path[at + wanted.len()..];
        before && (after.is_empty() || after.starts_with("::"))
    })
}

/// Every path in the code, with the braces of imports multiplied out: `a::{b, c::d}` is `a::b` and
/// `a::c::d`.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_letter) {
        rest = &rest[start..];
        let length = rest.find(|c: char| !is_letter(c) && c != ':').unwrap_or(rest.len());
        let (path, after) = rest.split_at(length);
        rest = match path.strip_suffix("::") {
            Some(prefix) if after.starts_with('{') => {
                let end = closing(after);
                for inner in split(&after[1..end]) {
                    found.extend(paths(inner).iter().take(1).map(|it| format!("{prefix}::{it}")));
                    if inner.contains('{') {
                        found.extend(paths(&format!("{prefix}::{}", inner.trim())));
                    }
                }
                &after[end..]
            }
            _ => {
                found.push(path.trim_end_matches(':').to_owned());
                after
            }
        };
    }
    found
}

fn is_letter(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The index of the brace that closes the first one.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The items between commas that stand in no braces.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(&text[start..]);
    items
}

/// The text without comments.
fn code(text: &str) -> String {
    let without = text.lines().map(|line| {
        let comment = line.match_indices("//").find(|(at, _)| {
            line[..*at].trim().is_empty() || line[..*at].ends_with(char::is_whitespace)
        });
        comment.map_or(line, |(at, _)| line[..at].trim_end())
    });
    without.collect::<Vec<_>>().join("\n")
}

fn assert_none(broken: impl Iterator<Item = String>) {
    let broken: Vec<String> = broken.collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn manifests() -> Vec<File> {
    let read = |(folder, _): &(&str, &[&str])| File {
        path: format!("{folder}/Cargo.toml"),
        text: fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest"),
    };
    DEPENDENCIES.iter().map(read).collect()
}

fn sources() -> Vec<File> {
    let mut files = Vec::new();
    for name in CRATES {
        let before = files.len();
        collect(&root().join(name), &mut files);
        assert!(files.len() > before, "there are sources in {name}");
    }
    files
}

fn collect(folder: &Path, files: &mut Vec<File>) {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            let path = path.strip_prefix(root()).expect("a path in the repository");
            files.push(File { path: path.to_string_lossy().into_owned(), text });
        }
    }
}
