//! The sinks of a test: tables in memory, as exactly-once as any other sink.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;
use waterwheel_config::schema::SchemaRef;
use waterwheel_config::value::{Row, Value};

use crate::contract::epoch::{Generation, Progress};
use crate::contract::fault::Fault;
use crate::contract::sink::{Claim, ClaimError, Commit, Sink, SinkSpec};
use crate::graph::Deployment;

/// What a sink holds; it outlives the pipeline that writes it.
pub(super) struct Memory {
    state: Mutex<State>,
    /// Told at every commit.
    committed: watch::Sender<()>,
}

impl Default for Memory {
    fn default() -> Self {
        let (committed, _) = watch::channel(());
        Self { state: Mutex::default(), committed }
    }
}

#[derive(Default)]
struct State {
    generation: Generation,
    progress: Option<Progress>,
    schemas: Vec<SchemaRef>,
    /// By input, then by key.
    tables: Vec<BTreeMap<Vec<Value>, Row>>,
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns of which columns its inputs are.
    pub(super) fn take_schemas(&self, deployment: &Deployment) {
        let inputs =
            deployment.sinks.first().map(|sink| sink.inputs.as_slice()).unwrap_or_default();
        let mut state = self.state();
        state.schemas = inputs.iter().map(|input| deployment.schema(*input)).collect();
        state.tables = inputs.iter().map(|_| BTreeMap::new()).collect();
    }

    /// Waits until everything up to these ordinals is committed.
    pub(super) async fn reached(&self, ends: &BTreeMap<String, u64>) {
        let mut committed = self.committed.subscribe();
        loop {
            committed.borrow_and_update();
            if self.state().is_at(ends) || committed.changed().await.is_err() {
                return;
            }
        }
    }

    /// The rows of an input, in the order of their keys.
    pub(super) fn rows(&self, input: usize) -> Vec<Row> {
        let state = self.state();
        state.tables.get(input).map_or_else(Vec::new, |table| table.values().cloned().collect())
    }
}

impl State {
    fn is_at(&self, ends: &BTreeMap<String, u64>) -> bool {
        ends.iter().all(|(source, end)| {
            let progress = self.progress.as_ref();
            let position = progress.and_then(|progress| progress.record.positions.get(source));
            position.map_or(0, |position| position.ordinal) >= *end
        })
    }

    fn apply(&mut self, commit: &Commit) {
        let inputs = self.tables.iter_mut().zip(&self.schemas).zip(&commit.changes);
        for ((table, schema), changes) in inputs {
            let key = |row: &Row| row.key(&schema.key).cloned().collect::<Vec<Value>>();
            for row in &changes.deletes {
                table.remove(&key(row));
            }
            for row in &changes.upserts {
                table.insert(key(row), row.clone());
            }
        }
        self.progress = Some(commit.progress.clone());
    }
}

/// A sink that writes into memory.
pub(super) struct MemorySpec {
    pub(super) memory: Arc<Memory>,
}

impl SinkSpec for MemorySpec {
    fn build(&self) -> Box<dyn Sink> {
        Box::new(MemorySink { memory: self.memory.clone(), generation: 0 })
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn resources(&self) -> Vec<String> {
        Vec::new()
    }
}

struct MemorySink {
    memory: Arc<Memory>,
    generation: Generation,
}

#[async_trait]
impl Sink for MemorySink {
    async fn open(&mut self, at_least: Generation) -> Result<Claim, ClaimError> {
        let mut state = self.memory.state();
        if state.generation >= at_least {
            return Err(ClaimError::Stale(state.generation));
        }
        (state.generation, self.generation) = (at_least, at_least);
        Ok(Claim::new(at_least, state.progress.clone()))
    }

    async fn commit(&mut self, commit: &Commit) -> Result<Option<Progress>, Fault> {
        let mut state = self.memory.state();
        // What a life that was ended still has under way must not reach the next one.
        if state.generation != self.generation {
            return Err(Fault::halt("a newer generation has claimed the sink"));
        }
        state.apply(commit);
        drop(state);
        self.memory.committed.send_replace(());
        Ok(Some(commit.progress.clone()))
    }

    async fn recover(&mut self) -> Result<Option<Progress>, Fault> {
        Ok(self.memory.state().progress.clone())
    }

    async fn close(&mut self) -> Result<Option<Progress>, Fault> {
        Ok(self.memory.state().progress.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::epoch::EpochRecord;
    use crate::contract::fault::Remedy;
    use crate::contract::position::{Positions, position_at};

    #[tokio::test]
    async fn a_life_that_was_ended_writes_nothing_any_more() {
        let memory = Arc::<Memory>::default();
        let spec = MemorySpec { memory: memory.clone() };
        let (mut old, mut new) = (spec.build(), spec.build());
        assert!(old.open(1).await.is_ok());
        assert!(matches!(new.open(1).await, Err(ClaimError::Stale(1))));
        assert!(new.open(2).await.is_ok());
        let positions = Positions::from([("events".to_owned(), position_at(3))]);
        let record =
            EpochRecord { epoch: 1, generation: 1, positions, watermarks: BTreeMap::new() };
        let (origin, fingerprint) = (Positions::new(), String::new());
        let progress = Progress { record, origin, fingerprint, finished: false };
        let commit = Commit { progress, changes: Vec::new() };
        let fault = old.commit(&commit).await.expect_err("it is fenced off");
        assert_eq!(fault.remedy, Remedy::Halt);
        let ends = BTreeMap::from([("events".to_owned(), 3)]);
        assert!(!memory.state().is_at(&ends));
        assert!(new.commit(&commit).await.is_ok());
        memory.reached(&ends).await;
        assert!(!memory.state().is_at(&BTreeMap::from([("events".to_owned(), 4)])));
    }
}
