//! The reading of an open source: batches in, checks in time, a new consumer whenever one breaks.
//!
//! Every wait can be dropped at any point: what is under way stays in [`Run`] and goes on with the
//! next call.

mod past_bad;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use futures::future::FutureExt;
use futures::stream::StreamExt;
use serde_json::Value;
use tokio::time::Instant;
use waterwheel_pipeline::contract::batch::{BatchBuilder, RawBatch};
use waterwheel_pipeline::contract::failpoint;
use waterwheel_pipeline::contract::fault::{Fault, Remedy};
use waterwheel_pipeline::contract::nats::Connection;
use waterwheel_pipeline::contract::nats::api::StreamInfo;
use waterwheel_pipeline::contract::position::Position;
use waterwheel_pipeline::contract::source::{Next, Standing};

use self::past_bad::{PastBad, write_headers};
use super::Settings;
use super::careful::Scene;
use super::pull::{Heard, Reader};
use super::retention::{Release, Retention};
use super::stream::{self, Anchors};

/// How often the stream is compared with what was read.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// The longest pause between two attempts to make a consumer.
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a check found.
struct Checked {
    info: StreamInfo,
    /// The position when it was asked: reading went on meanwhile.
    position: Position,
    /// Of a filtered or bounded reading: how many messages wait at the consumer, and how many it
    /// delivered.
    consumer: Option<(u64, u64)>,
}

/// An open source.
pub(super) struct Run {
    pub(super) connection: Connection,
    settings: Arc<Settings>,
    release: Release,
    stream: Arc<str>,
    /// After the last message handed on.
    position: Position,
    /// The sequence of the last message taken into a batch.
    taken: u64,
    builder: BatchBuilder,
    /// Headers as lines, reused from message to message.
    headers: Vec<u8>,
    reader: Option<Reader>,
    reviving: Option<Work<Result<Reader, Fault>>>,
    /// Why there is no consumer.
    away: Option<String>,
    /// Attempts to make a consumer since the last message.
    attempts: u32,
    pull_bytes: u64,
    past_bad: PastBad,
    /// By what the stream is known again.
    anchors: Anchors,
    checking: Option<Work<Result<Checked, Fault>>>,
    check_at: Instant,
    /// The last sequence before the first hole in the batch at hand.
    hole_after: Option<u64>,
    /// A batch with a hole, until it is known that nothing was lost there.
    held: Option<RawBatch>,
    /// After which message an earlier check saw some gone.
    suspicion: Option<u64>,
    /// Nothing that passes the filter lies between `taken` and this.
    clear_through: u64,
    pending: u64,
    bound: Option<u64>,
    ended: bool,
}

impl Run {
    pub(super) fn new(
        connection: Connection,
        settings: Arc<Settings>,
        retention: Retention,
        position: Position,
        reader: Reader,
        bound: Option<u64>,
        clear_through: u64,
    ) -> Self {
        let stream: Arc<str> = settings.stream.as_str().into();
        let ended = bound.is_some_and(|bound| position.ordinal >= bound || reader.pending == 0);
        Self {
            builder: BatchBuilder::new(stream.clone(), position.created).with_gaps(&position.gaps),
            taken: position.ordinal,
            clear_through,
            pending: reader.pending,
            pull_bytes: reader.pull_bytes(),
            reader: Some(reader),
            check_at: Instant::now() + CHECK_EVERY,
            headers: Vec::new(),
            reviving: None,
            away: None,
            attempts: 0,
            past_bad: PastBad::default(),
            anchors: Anchors::default(),
            checking: None,
            hole_after: None,
            held: None,
            suspicion: None,
            connection,
            settings,
            release: Release::new(retention),
            stream,
            position,
            bound,
            ended,
        }
    }

    /// The sequence of the last message handed on, and one up to which nothing more is to come.
    pub(super) fn clear(&self) -> (u64, u64) {
        (self.position.ordinal, self.clear_through)
    }

    /// With messages that were read before.
    pub(super) fn known_by(self, anchors: Anchors) -> Self {
        Self { anchors, ..self }
    }

    /// By what the stream is known again.
    pub(super) fn anchors(&self) -> Anchors {
        self.anchors.clone()
    }

    /// Nothing up to the sequence will be asked for again: [`Run::next`] lets go of it.
    pub(super) fn release(&mut self, sequence: u64) {
        self.release.allow(sequence.min(self.position.ordinal));
    }

    pub(super) async fn close(mut self) {
        // Nothing is lost if it fails: the next run lets go of it.
        if let Err(fault) = self.let_go().await {
            tracing::debug!(stream = %self.stream, %fault, "messages were not let go of");
        }
        if self.release.is_told() {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.release.told()).await;
        }
        if let Some(reader) = self.reader {
            reader.close().await;
            let _ =
                tokio::time::timeout(Duration::from_secs(1), self.connection.client.flush()).await;
        }
    }

    pub(super) async fn next(&mut self) -> Result<Next, Fault> {
        loop {
            if let Some(batch) = self.checked_batch().await? {
                return Ok(Next::Batch(batch));
            }
            if self.ended {
                return Ok(Next::End);
            }
            self.revive().await?;
            self.let_go().await?;
            self.read_carefully().await?;
            self.take_ready().await;
            if self.builder.is_empty() {
                self.start_due_check();
                self.wait().await?;
            }
            if !self.builder.is_empty() {
                let pending = Some(self.pending).filter(|pending| *pending != u64::MAX);
                self.held = Some(self.builder.finish(pending));
            }
        }
    }

    /// Tells a stream that forgets by itself what it may forget.
    async fn let_go(&mut self) -> Result<(), Fault> {
        let (connection, settings) = (&self.connection, &self.settings);
        let read = self.position.ordinal;
        if let Some(why) = self.release.tell(connection, settings, &mut self.reader, read).await? {
            self.give_up(&why);
        }
        Ok(())
    }

    /// The batch at hand, once it is known that the holes in it are deletions and not losses.
    async fn checked_batch(&mut self) -> Result<Option<RawBatch>, Fault> {
        if self.held.is_none() {
            return Ok(None);
        }
        while let Some(hole_after) = self.hole_after {
            // A check from before the hole proves nothing; taking the hole dropped it.
            let checking =
                self.checking.get_or_insert_with(|| check(&self.connection, &self.position, None));
            let checked = checking.await;
            self.checking = None;
            match checked {
                Err(fault) if fault.remedy == Remedy::Retry => {
                    tracing::warn!(stream = %self.stream, %fault, "waiting to check a hole");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    self.connection.connected().await?;
                }
                checked => {
                    let Checked { info, position, .. } = checked?;
                    stream::check_identity(&info, &position)?;
                    let gap =
                        self.release.retention.gap(&self.settings, hole_after, info.first_seq);
                    if let Some(gap) = gap {
                        return Err(stream::gone(&info, gap));
                    }
                    self.hole_after = None;
                }
            }
        }
        let batch = self.held.take();
        if let Some(end) = batch.as_ref().and_then(RawBatch::end) {
            self.position = end;
            batch.iter().for_each(|batch| self.anchors.note(batch));
            failpoint::reach("nats.source.batch.read");
        }
        Ok(batch)
    }

    /// Makes a consumer where there is none. Waits for the server as long as it takes.
    async fn revive(&mut self) -> Result<(), Fault> {
        if self.reader.is_some() || self.is_careful() || self.is_stuck() {
            return Ok(());
        }
        if self.reviving.is_none() {
            let making = make_reader(self.scene(), self.attempts, self.pull_bytes);
            self.reviving = Some(Box::pin(making));
        }
        let Some(reviving) = &mut self.reviving else { return Ok(()) };
        let made = reviving.await;
        self.reviving = None;
        self.attempts = self.attempts.saturating_add(1);
        let mut reader = made?;
        reader.heard_at = Instant::now();
        tracing::info!(stream = %self.stream, after = self.taken, "reading goes on");
        self.past_bad.is_looked_for = false;
        self.away = None;
        self.pending = reader.pending;
        self.ended |= self.bound.is_some() && reader.pending == 0;
        self.reader = Some(reader);
        self.check_at = Instant::now() + CHECK_EVERY;
        Ok(())
    }

    /// What reading goes on from.
    fn scene(&self) -> Scene {
        Scene {
            connection: self.connection.clone(),
            settings: self.settings.clone(),
            retention: self.release.retention.clone(),
            position: self.position.clone(),
            anchors: self.anchors.clone(),
            clear_through: self.clear_through,
        }
    }

    /// Takes what has arrived, without waiting for more.
    async fn take_ready(&mut self) {
        let Some(reader) = &mut self.reader else { return };
        if let Err(why) = reader.pull().await {
            return self.give_up(&why);
        }
        while !self.builder.is_full() && !self.ended {
            let Some(reader) = &mut self.reader else { return };
            // Without a budget: it would cut batches at 128 messages. A batch is bounded anyway.
            match tokio::task::unconstrained(reader.inbox.next()).now_or_never() {
                Some(Some(message)) => self.take(&message),
                Some(None) => return self.give_up("the subscription ended"),
                None => break,
            }
        }
        if let Some(reader) = &mut self.reader
            && !self.builder.is_empty()
        {
            reader.heard_at = Instant::now();
        }
    }

    /// Waits for a message, a check, a new connection, or the next thing to do.
    async fn wait(&mut self) -> Result<(), Fault> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let (silent_at, check_at) = (reader.silent_at(), self.check_at);
        let none_checking = self.checking.is_none();
        let checking = async {
            match &mut self.checking {
                Some(checking) => checking.await,
                None => std::future::pending().await,
            }
        };

        tokio::select! {
            biased;
            message = reader.inbox.next() => {
                reader.heard_at = Instant::now();
                match message {
                    Some(message) => self.take(&message),
                    None => self.give_up("the subscription ended"),
                }
            }
            checked = checking => {
                self.checking = None;
                self.check_at = Instant::now() + CHECK_EVERY;
                self.judge(checked)?;
            }
            told = self.release.told() => told?,
            Ok(()) = reader.connects.changed() => self.give_up("the connection was made anew"),
            () = tokio::time::sleep_until(silent_at) => self.give_up("the server is silent"),
            () = tokio::time::sleep_until(check_at), if none_checking => {}
        }
        Ok(())
    }

    /// Starts a check that is due; a result is taken in [`Run::wait`].
    fn start_due_check(&mut self) {
        if self.checking.is_none() && Instant::now() >= self.check_at {
            let consumer = match &self.reader {
                Some(reader)
                    if self.bound.is_some()
                        || self.pending > 0
                        || !self.settings.subjects.is_empty() =>
                {
                    Some(reader.info_call())
                }
                _ => None,
            };
            self.checking = Some(check(&self.connection, &self.position, consumer));
        }
    }

    fn judge(&mut self, checked: Result<Checked, Fault>) -> Result<(), Fault> {
        let checked = match checked {
            // The server is away: the silence will show it.
            Err(fault) if fault.remedy == Remedy::Retry => return Ok(()),
            checked => checked?,
        };
        stream::check_identity(&checked.info, &checked.position)?;
        let delivered = self.reader.as_ref().map(Reader::delivered);
        let nothing_waits = matches!(checked.consumer, Some((0, at)) if delivered == Some(at));
        let first_seq = checked.info.first_seq;
        let gap = |read| self.release.retention.gap(&self.settings, read, first_seq);
        // With a filter, what is gone may be of other subjects; without one, it was to be read.
        let is_clear =
            !self.settings.subjects.is_empty() || gap(self.taken.max(self.clear_through)).is_none();
        if nothing_waits && is_clear {
            // What seemed to wait has been deleted.
            self.pending = 0;
            // The stream was asked first, so nothing up to its end then is still to come.
            self.clear_through = self.clear_through.max(checked.info.last_seq);
            self.ended |= self.bound.is_some();
        }
        // Messages on their way to us may be gone from the stream already. Only if nothing came
        // between two checks they are lost.
        let gap = gap(self.taken.max(self.clear_through));
        match gap {
            Some(gap) if self.suspicion == Some(self.taken) => {
                Err(stream::gone(&checked.info, gap))
            }
            _ => {
                self.suspicion = gap.map(|_| self.taken);
                Ok(())
            }
        }
    }

    fn take(&mut self, message: &Message) {
        let Some(reader) = &mut self.reader else { return };
        let delivery = match reader.hear(message) {
            Heard::Message(delivery) => delivery,
            Heard::Housekeeping => {
                self.attempts = 0;
                if self.pending > 0 && self.checking.is_none() {
                    // Nothing comes, though something seems to wait: the server must say.
                    self.check_at = Instant::now();
                }
                return;
            }
            Heard::Broken(why) => return self.give_up(&why),
        };
        self.headers.clear();
        if let Some(headers) = &message.headers {
            write_headers(headers, &mut self.headers);
        }
        let (sequence, subject) = (delivery.stream_sequence, message.subject.as_bytes());
        if !self.accept(sequence, delivery.time_ns, subject, &message.payload) {
            return;
        }
        self.pending = delivery.pending;
        if self.bound.is_some() && delivery.pending == 0 {
            // The rest up to the bound is deleted or of other subjects: the server must say so.
            self.checking = None;
            self.check_at = Instant::now();
        }
    }

    /// Puts a message whose headers are written into the batch, if it is one more to be read.
    fn accept(&mut self, sequence: u64, time_ns: i64, subject: &[u8], payload: &[u8]) -> bool {
        if sequence <= self.taken {
            return false;
        }
        if self.bound.is_some_and(|bound| sequence > bound) {
            self.ended = true;
            return false;
        }
        if self.settings.subjects.is_empty() && sequence != self.taken + 1 {
            self.hole_after.get_or_insert(self.taken);
            self.checking = None;
        }
        let received_at_us = Some(time_ns.div_euclid(1000));
        self.builder.push(sequence, sequence, received_at_us, subject, &self.headers, payload);
        self.taken = sequence;
        self.attempts = 0;
        self.ended |= self.bound.is_some_and(|bound| sequence >= bound);
        true
    }

    /// Throws the consumer away; the next one begins behind the last message taken.
    fn give_up(&mut self, why: &str) {
        tracing::warn!(stream = %self.stream, after = self.taken, why, "reading was interrupted");
        if let Some(reader) = self.reader.take() {
            self.pull_bytes = reader.pull_bytes();
        }
        self.away = Some(why.to_owned());
        self.checking = None;
    }

    /// How the stream stands while nothing comes from it.
    pub(super) fn standing(&self) -> Standing {
        if !self.connection.is_connected() {
            return Standing::Away(format!("no connection to {}", self.connection.address));
        }
        match (&self.reader, &self.away) {
            (Some(reader), _) => {
                let has_all = self.pending == 0 && self.builder.is_empty() && self.held.is_none();
                let silence = reader.silence().filter(|_| has_all);
                silence.map_or(Standing::Reading, Standing::Silent)
            }
            (None, Some(why)) if !self.is_careful() => Standing::Away(why.clone()),
            (None, _) => Standing::Reading,
        }
    }
}

fn check(
    connection: &Connection,
    position: &Position,
    consumer: Option<String>,
) -> Work<Result<Checked, Fault>> {
    let (api, position) = (connection.api.clone(), position.clone());
    Box::pin(async move {
        let info = stream::info(&api, &position.stream).await?;
        let consumer = match consumer {
            // A consumer that is gone shows in its inbox.
            Some(call) => api.call(&call, &Value::Null).await.ok().and_then(|answer| {
                let delivered = answer["delivered"]["consumer_seq"].as_u64()?;
                Some((answer["num_pending"].as_u64()?, delivered))
            }),
            None => None,
        };
        Ok(Checked { info, position, consumer })
    })
}

/// Waits for the server, compares the stream with the position, and makes a consumer behind it.
async fn make_reader(scene: Scene, mut attempts: u32, pull_bytes: u64) -> Result<Reader, Fault> {
    let Scene { connection, settings, retention, position, anchors, clear_through } = scene;
    let stream = &settings.stream;
    loop {
        if attempts > 0 {
            let pause = Duration::from_millis(50) * 2_u32.saturating_pow(attempts.min(10));
            tokio::time::sleep(pause.min(PAUSE_MAX)).await;
        }
        attempts = attempts.saturating_add(1);
        connection.connected().await?;
        let made = async {
            let (api, after) = (&connection.api, position.ordinal);
            let info =
                stream::verify(api, &settings, &retention, &position, &anchors, clear_through)
                    .await?;
            let reader =
                Reader::create(&connection, &settings, &retention, after, pull_bytes).await?;
            let (read, first_seq) = (after.max(clear_through), reader.begins_after + 1);
            let gap = retention.gap(&settings, read, first_seq);
            if let Some(gap) = gap {
                return Err(stream::gone(&info, gap));
            }
            Ok(reader)
        };
        match made.await {
            Err(fault) if fault.remedy == Remedy::Retry => {
                tracing::warn!(%stream, %fault, "waiting for the server");
            }
            made => return made,
        }
    }
}
