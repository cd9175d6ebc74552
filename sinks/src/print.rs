//! `type = "print"`: rows as JSON Lines on stdout, for trying things out and for tests.
//!
//! Each line is `{"op":"upsert","operator":"volume", ...columns}`, the columns in the order that
//! `explain` shows. It has no settings, and keeps no progress: a restart prints from the start of
//! the stream or from the newest checkpoint again.

use std::io::{ErrorKind, Write};

use async_trait::async_trait;
use waterwheel_config::section::Section;
use waterwheel_pipeline::contract::epoch::{Generation, Progress};
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::sink::{
    Claim, ClaimError, Commit, Emit, Sink, SinkContext, SinkInput, SinkKind, SinkSpec,
};

use crate::json::write_row;

/// The kind of sink.
pub(crate) const KIND: SinkKind = SinkKind {
    name: "print",
    summary: "prints rows as JSON Lines on stdout, for trying things out and for tests",
    guarantee: "prints rows again after a restart: it keeps no progress",
    example: r#"[sinks.out]
type = "print"
from = ["volume"]
"#,
    default_emit: Emit::Final,
    plan,
};

/// The members in front of a row's own.
const OWN_MEMBERS: [&str; 2] = ["op", "operator"];

struct Spec {
    inputs: Vec<SinkInput>,
}

fn plan(section: &Section<'_>, context: &SinkContext) -> Option<Box<dyn SinkSpec>> {
    let mut clashes = false;
    for input in &context.inputs {
        for name in OWN_MEMBERS.iter().filter(|name| input.schema.index_of(name).is_some()) {
            clashes = true;
            section.findings().error_help(
                section.word_in("from", &input.name),
                format!(
                    "the column `{name}` of `{}` clashes with the printed `{name}`",
                    input.name
                ),
                "give the column another name",
            );
        }
    }
    (!clashes).then(|| Box::new(Spec { inputs: context.inputs.clone() }) as Box<dyn SinkSpec>)
}

impl SinkSpec for Spec {
    fn build(&self) -> Box<dyn Sink> {
        Box::new(PrintSink::new(self.inputs.clone(), std::io::stdout()))
    }

    fn describe(&self) -> String {
        "JSON Lines on stdout".to_owned()
    }

    fn resources(&self) -> Vec<String> {
        // Whole lines of several sinks may mix.
        Vec::new()
    }
}

struct PrintSink<W> {
    inputs: Vec<SinkInput>,
    out: W,
    text: String,
    printed: Option<Progress>,
}

impl<W: Write + Send> PrintSink<W> {
    fn new(inputs: Vec<SinkInput>, out: W) -> Self {
        Self { inputs, out, text: String::new(), printed: None }
    }

    fn render(&mut self, commit: &Commit) {
        self.text.clear();
        for (input, changes) in self.inputs.iter().zip(&commit.changes) {
            let deletes = changes.deletes.iter().map(|row| ("delete", row));
            let upserts = changes.upserts.iter().map(|row| ("upsert", row));
            for (operation, row) in deletes.chain(upserts) {
                // Names need no escapes: they are `[a-z][a-z0-9_]*`.
                let name = &input.name;
                for part in [r#"{"op":""#, operation, r#"","operator":""#, name, "\","] {
                    self.text.push_str(part);
                }
                write_row(&input.schema, row, &mut self.text);
                self.text.push_str("}\n");
            }
        }
    }
}

#[async_trait]
impl<W: Write + Send> Sink for PrintSink<W> {
    fn keeps_progress(&self) -> bool {
        false
    }

    async fn open(&mut self, at_least: Generation) -> Result<Claim, ClaimError> {
        Ok(Claim::new(at_least, None))
    }

    async fn commit(&mut self, commit: &Commit) -> Result<Option<Progress>, Fault> {
        self.render(commit);
        if !self.text.is_empty() {
            let written = self.out.write_all(self.text.as_bytes()).and_then(|()| self.out.flush());
            written.map_err(|error| match error.kind() {
                ErrorKind::BrokenPipe => Fault::stop("whatever reads stdout has closed it"),
                _ => Fault::stop(format!("cannot write to stdout: {error}")),
            })?;
        }
        // What is printed is done with: checkpoints need not wait for it.
        self.printed = Some(commit.progress.clone());
        Ok(self.printed.clone())
    }

    async fn recover(&mut self) -> Result<Option<Progress>, Fault> {
        Ok(self.printed.clone())
    }

    async fn tick(&mut self) -> Result<Option<Progress>, Fault> {
        Ok(self.printed.clone())
    }

    async fn close(&mut self) -> Result<Option<Progress>, Fault> {
        Ok(self.printed.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use waterwheel_config::document::Document;
    use waterwheel_config::schema::{Column, Finality, Schema};
    use waterwheel_config::value::{ColumnType, Row, Value};
    use waterwheel_pipeline::contract::epoch::EpochRecord;
    use waterwheel_pipeline::contract::fault::Remedy;
    use waterwheel_pipeline::contract::sink::{Changes, InputRole};

    fn input(column: &str) -> SinkInput {
        let schema = Schema {
            columns: vec![Column::new(column, ColumnType::Text)],
            key: vec![0],
            finality: Finality::Immediate,
            append_only: false,
            time: None,
        };
        SinkInput {
            name: "volume".to_owned(),
            role: InputRole::Operator,
            schema: Arc::new(schema),
            granularities: vec![],
        }
    }

    fn commit(upserts: &[&str], deletes: &[&str]) -> Commit {
        let rows = |texts: &[&str]| {
            texts.iter().map(|text| Row::from(vec![Value::text(text)])).collect::<Vec<_>>()
        };
        let (positions, watermarks) = (BTreeMap::new(), BTreeMap::new());
        let record = EpochRecord { epoch: 1, generation: 1, positions, watermarks };
        let fingerprint = String::new();
        let progress = Progress { record, origin: BTreeMap::new(), fingerprint, finished: false };
        Commit {
            progress,
            changes: vec![Changes { deletes: rows(deletes), ..Changes::new(rows(upserts)) }],
        }
    }

    #[tokio::test]
    async fn rows_are_lines() {
        let mut sink = PrintSink::new(vec![input("symbol")], Vec::new());
        let claim = sink.open(3).await.expect("claimed");
        assert_eq!((claim.generation, claim.progress), (3, None));
        let written = commit(&["a", "b"], &["c"]);
        let progress = sink.commit(&written).await.expect("written");
        assert_eq!(progress, Some(written.progress));
        sink.commit(&commit(&["d"], &[])).await.expect("written");
        let expected = concat!(
            "{\"op\":\"delete\",\"operator\":\"volume\",\"symbol\":\"c\"}\n",
            "{\"op\":\"upsert\",\"operator\":\"volume\",\"symbol\":\"a\"}\n",
            "{\"op\":\"upsert\",\"operator\":\"volume\",\"symbol\":\"b\"}\n",
            "{\"op\":\"upsert\",\"operator\":\"volume\",\"symbol\":\"d\"}\n",
        );
        assert_eq!(String::from_utf8_lossy(&sink.out), expected);
    }

    #[tokio::test]
    async fn a_closed_pipe_stops() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut sink = PrintSink::new(vec![input("symbol")], writer);
        assert!(sink.commit(&commit(&[], &[])).await.is_ok(), "nothing to write");
        let fault = sink.commit(&commit(&["a"], &[])).await.expect_err("a fault");
        assert_eq!(fault.remedy, Remedy::Stop);
        assert_eq!(fault.message, "whatever reads stdout has closed it");
    }

    #[test]
    fn a_column_that_clashes_is_found() {
        let document = Document::parse("t.toml", "from = [\"volume\"]", Box::new(|_| None));
        let context = |column| SinkContext {
            pipeline: "p".to_owned(),
            sink: "s".to_owned(),
            inputs: vec![input(column)],
            emit: Emit::Final,
        };
        assert!(plan(&document.root(), &context("symbol")).is_some());
        assert!(plan(&document.root(), &context("op")).is_none());
        assert!(document.render_findings(false).contains("the column `op` of `volume` clashes"));
    }
}
