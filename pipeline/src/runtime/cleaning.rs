//! Removes what is older than `retain`: beside a running pipeline at its start and daily, and at once
//! for `waterwheel clean`. What was removed is logged, and told on a NATS subject where one is given.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use waterwheel_config::value::format_timestamp;

use super::backoff::Backoff;
use crate::contract::fault::{Fault, Remedy};
use crate::contract::nats;
use crate::contract::retain::{Cleaned, add_up};
use crate::contract::sink::Sink;
use crate::graph::{Deployment, ReportTo};

/// The time between two passes.
const EVERY: Duration = Duration::from_secs(24 * 3600);

/// After something outside was down.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What a pass may take of each second: commits wait meanwhile.
const SHARE: Duration = Duration::from_millis(200);

/// How long a report may take; nothing rests on it.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// The passes of one sink in a running pipeline.
pub(super) struct Daily {
    due: Instant,
    removed: Vec<Cleaned>,
}

impl Daily {
    /// The first pass is due.
    pub(super) fn new() -> Self {
        Self { due: Instant::now(), removed: Vec::new() }
    }

    /// Goes on with the pass that is due, for a while. What fails is told and tried again: cleaning
    /// never ends a pipeline.
    pub(super) async fn step(&mut self, sink: &mut dyn Sink, name: &str, to: Option<&Reports>) {
        let began = Instant::now();
        while self.due <= began && began.elapsed() < SHARE {
            match sink.clean().await {
                Ok(step) => {
                    let was_held = step.removed.is_empty();
                    add_up(&mut self.removed, step.removed);
                    if step.is_done {
                        self.due = began + EVERY;
                        self.tell(name, to).await;
                    } else if was_held {
                        return;
                    }
                }
                Err(fault) => {
                    let is_passing = fault.remedy == Remedy::Retry;
                    tracing::warn!(
                        sink = name,
                        help = fault.help.as_deref(),
                        "old rows are not removed: {fault}"
                    );
                    self.due = began + if is_passing { AGAIN_AFTER } else { EVERY };
                    self.tell(name, to).await;
                }
            }
        }
    }

    async fn tell(&mut self, name: &str, to: Option<&Reports>) {
        let removed = std::mem::take(&mut self.removed);
        log(name, &removed);
        if let Some(to) = to {
            to.tell(name, &removed).await;
        }
    }
}

fn log(sink: &str, removed: &[Cleaned]) {
    for cleaned in removed {
        let Cleaned { place, granularity, rows, partitions, files, before_us, .. } = cleaned;
        let windows = granularity.as_deref().map(|it| format!(" ({it})")).unwrap_or_default();
        let before = format_timestamp(*before_us);
        tracing::info!(
            sink,
            rows,
            partitions,
            files,
            "removed from {place}{windows} what is before {before}"
        );
    }
}

/// What became of one sink.
pub struct Outcome {
    /// Its name.
    pub sink: String,
    /// What was removed.
    pub removed: Vec<Cleaned>,
    /// Why it ended early, if it did.
    pub fault: Option<Fault>,
}

/// Removes at once what is old in every sink with `retain`, one after another. What runs goes on
/// meanwhile; what is down is waited for.
pub async fn clean(deployment: &Deployment) -> Vec<Outcome> {
    let reports = deployment.report.clone().map(|to| Reports::new(&deployment.name, to));
    let mut outcomes = Vec::new();
    for node in &deployment.sinks {
        let mut sink = node.spec.build();
        if !sink.retains() {
            continue;
        }
        sink.expect(&node.fingerprint);
        let mut outcome = Outcome { sink: node.name.clone(), removed: Vec::new(), fault: None };
        outcome.fault = all(&mut *sink, &node.name, &mut outcome.removed).await.err();
        log(&node.name, &outcome.removed);
        if let Some(reports) = &reports {
            reports.tell(&node.name, &outcome.removed).await;
        }
        // Nothing was kept that would have to be made durable.
        let _ = sink.close().await;
        outcomes.push(outcome);
    }
    outcomes
}

async fn all(sink: &mut dyn Sink, name: &str, removed: &mut Vec<Cleaned>) -> Result<(), Fault> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match sink.clean().await {
            Ok(step) => {
                let was_held = step.removed.is_empty() && !step.is_done;
                add_up(removed, step.removed);
                if step.is_done {
                    return Ok(());
                }
                backoff.reset();
                if was_held {
                    backoff.wait().await;
                }
            }
            Err(fault) if fault.remedy == Remedy::Retry => {
                tracing::warn!(
                    help = fault.help.as_deref(),
                    "sink `{name}`: {fault}; waiting for it"
                );
                backoff.wait().await;
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// Tells on a subject what was removed, as events that a pipeline can read.
pub(super) struct Reports {
    pipeline: String,
    to: ReportTo,
}

impl Reports {
    pub(super) fn new(pipeline: &str, to: ReportTo) -> Self {
        Self { pipeline: pipeline.to_owned(), to }
    }

    /// One event for each place.
    async fn tell(&self, sink: &str, removed: &[Cleaned]) {
        if removed.is_empty() {
            return;
        }
        let events: Vec<String> = removed.iter().map(|it| self.event(sink, it)).collect();
        let told = tokio::time::timeout(REPORT_TIMEOUT, self.publish(events)).await;
        let problem = match told {
            Ok(Ok(())) => return,
            Ok(Err(fault)) => fault.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(sink, "what was removed is not told on {}: {problem}", self.to.subject);
    }

    fn event(&self, sink: &str, cleaned: &Cleaned) -> String {
        let Cleaned { input, place, granularity, before_us, rows, partitions, files } = cleaned;
        let now = chrono::Utc::now().timestamp_micros();
        let (pipeline, before) = (&self.pipeline, format_timestamp(*before_us));
        json!({
            "id": format!("{pipeline}.{sink}.{place}.{}.{now}", granularity.as_deref().unwrap_or("all")),
            "event_type": "waterwheel.cleaned",
            "timestamp": format_timestamp(now),
            "source": format!("{pipeline}.{sink}"),
            "properties": {
                "pipeline": pipeline, "sink": sink, "input": input, "place": place,
                "granularity": granularity, "before": before, "rows": rows,
                "partitions": partitions, "files": files,
            },
        })
        .to_string()
    }

    async fn publish(&self, events: Vec<String>) -> Result<(), Fault> {
        let connection = nats::connect(&self.to.connection, "waterwheel").await?;
        connection.connected().await?;
        let failed = |error: &dyn std::fmt::Display| Fault::retry(format_args!("NATS: {error}"));
        for event in events {
            let sent = connection.client.publish(self.to.subject.clone(), event.into()).await;
            sent.map_err(|error| failed(&error))?;
        }
        connection.client.flush().await.map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use async_trait::async_trait;

    use super::*;
    use crate::contract::epoch::{Generation, Progress};
    use crate::contract::retain::Cleaning;
    use crate::contract::sink::{Claim, ClaimError, Commit};

    /// Cleans as it is told to.
    struct Scripted(VecDeque<Result<Cleaning, Fault>>, usize);

    #[async_trait]
    impl Sink for Scripted {
        async fn open(&mut self, generation: Generation) -> Result<Claim, ClaimError> {
            Ok(Claim::new(generation, None))
        }

        async fn commit(&mut self, _commit: &Commit) -> Result<Option<Progress>, Fault> {
            Ok(None)
        }

        async fn recover(&mut self) -> Result<Option<Progress>, Fault> {
            Ok(None)
        }

        async fn clean(&mut self) -> Result<Cleaning, Fault> {
            self.1 += 1;
            self.0.pop_front().unwrap_or_else(|| Ok(Cleaning::done()))
        }

        async fn close(&mut self) -> Result<Option<Progress>, Fault> {
            Ok(None)
        }
    }

    fn some(rows: u64) -> Cleaning {
        let cleaned = Cleaned {
            input: "i".into(),
            place: "t".into(),
            granularity: None,
            before_us: 0,
            rows: Some(rows),
            partitions: 1,
            files: 0,
        };
        Cleaning { removed: vec![cleaned], is_done: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_is_made_at_the_start_and_daily() {
        let held = Cleaning::default();
        let script = [Ok(some(1)), Ok(held), Ok(some(2)), Ok(Cleaning::done())];
        let mut sink = Scripted(script.into(), 0);
        let mut daily = Daily::new();
        daily.step(&mut sink, "s", None).await;
        assert_eq!((sink.1, daily.removed[0].rows), (2, Some(1)), "somebody holds the table");
        daily.step(&mut sink, "s", None).await;
        assert_eq!((sink.1, daily.removed.len()), (4, 0), "done, and told");
        for (passed, steps) in [(EVERY - TICK, 4), (TICK, 5), (EVERY, 6)] {
            tokio::time::advance(passed).await;
            daily.step(&mut sink, "s", None).await;
            assert_eq!(sink.1, steps, "{passed:?}");
        }
    }

    const TICK: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_again_and_ends_nothing() {
        for (fault, again) in [(Fault::retry("down"), AGAIN_AFTER), (Fault::halt("x"), EVERY)] {
            let mut sink = Scripted([Ok(some(1)), Err(fault)].into(), 0);
            let mut daily = Daily::new();
            daily.step(&mut sink, "s", None).await;
            tokio::time::advance(again - TICK).await;
            daily.step(&mut sink, "s", None).await;
            assert_eq!(sink.1, 2);
            tokio::time::advance(TICK).await;
            daily.step(&mut sink, "s", None).await;
            assert_eq!(sink.1, 3);
        }
        let mut removed = Vec::new();
        let script = [Err(Fault::retry("down")), Ok(some(3)), Ok(some(4)), Err(Fault::stop("x"))];
        let fault = all(&mut Scripted(script.into(), 0), "s", &mut removed).await.unwrap_err();
        assert_eq!(
            (fault.remedy, removed[0].rows, removed[0].partitions),
            (Remedy::Stop, Some(7), 2)
        );
    }
}
