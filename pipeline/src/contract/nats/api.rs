//! The few calls of the JetStream API that waterwheel makes, with their errors as faults.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Message, Request, RequestErrorKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::fault::Fault;
use super::{Heard, login_refused};

/// No such stream.
pub const STREAM_NOT_FOUND: u64 = 10059;
/// No such message.
pub const MESSAGE_NOT_FOUND: u64 = 10037;
/// The expected last sequence is not the last one: somebody else wrote.
pub const WRONG_LAST_SEQUENCE: u64 = 10071;

/// How often a connection is looked at on which an answer is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a request waits for a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// The server answered with an error.
    Refused {
        /// The class, as in HTTP.
        code: u64,
        /// The error.
        err_code: u64,
        /// The server's words.
        description: String,
    },
    /// The account may not do this.
    Denied(String),
    /// The connection was lost, and the server at this address refuses the login since.
    LoginRefused(String),
    /// Nobody answered, or the answer cannot be read.
    Unanswered(String),
}

impl ApiError {
    /// The server's number for the error; zero where it did not answer.
    pub fn err_code(&self) -> u64 {
        match self {
            Self::Refused { err_code, .. } => *err_code,
            _ => 0,
        }
    }

    /// The error object of an answer, if it holds one.
    pub fn of_answer(answer: &Value) -> Option<Self> {
        let error = answer.get("error").filter(|error| error.is_object())?;
        Some(Self::Refused {
            code: error["code"].as_u64().unwrap_or(0),
            err_code: error["err_code"].as_u64().unwrap_or(0),
            description: error["description"].as_str().unwrap_or("no reason given").to_owned(),
        })
    }

    /// The fault that it is, `what` being what was tried.
    pub fn fault(&self, what: &str) -> Fault {
        const NOT_ENABLED: [u64; 2] = [10039, 10076];
        match self {
            Self::LoginRefused(address) => login_refused(address).within(what),
            Self::Unanswered(why) => Fault::retry(format!("{what}: {why}")),
            Self::Denied(why) => Fault::stop(format!("{what}: {why}"))
                .help("give the user of the connection the right to publish and subscribe there"),
            Self::Refused { err_code, description, .. } if NOT_ENABLED.contains(err_code) => {
                Fault::stop(format!("{what}: {description}"))
            }
            Self::Refused { code, err_code, description } => {
                let message = format!("{what}: {description} ({err_code})");
                if *code >= 500 { Fault::retry(message) } else { Fault::stop(message) }
            }
        }
    }
}

/// What the server says of a stream.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// Its name.
    pub name: String,
    /// When it was created, in nanoseconds since the Unix epoch.
    pub created_ns: i64,
    /// The sequence of its first message; one more than `last_seq` where it is empty.
    pub first_seq: u64,
    /// The sequence of its last message; zero where there never was one.
    pub last_seq: u64,
    /// How many messages between the two are gone.
    pub deleted: u64,
    /// The subjects that it captures; empty for a mirror.
    pub subjects: Vec<String>,
    /// Its configuration.
    pub config: Value,
}

/// A message as the stream keeps it.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// Its sequence.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// When the server took it, in nanoseconds since the Unix epoch.
    pub time_ns: i64,
    /// Its headers as they came, the line of their version first; empty where there are none.
    pub headers: Vec<u8>,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// The JetStream API of one account.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    prefix: String,
    address: String,
    connects: watch::Receiver<u64>,
    heard: Arc<Mutex<Heard>>,
}

impl Api {
    pub(super) fn new(
        client: Client,
        prefix: String,
        address: String,
        connects: watch::Receiver<u64>,
        heard: Arc<Mutex<Heard>>,
    ) -> Self {
        Self { client, prefix, address, connects, heard }
    }

    /// Waits until a server is connected; fails if it is there and refuses the login.
    pub(super) async fn connected(&self) -> Result<(), ApiError> {
        let mut connects = self.connects.clone();
        while self.client.connection_state() != State::Connected {
            if let Some(refused) = self.refused() {
                return Err(refused);
            }
            let _ = tokio::time::timeout(LOOK_EVERY, connects.changed()).await;
        }
        Ok(())
    }

    /// Makes a request and waits for the answer: until there is none in time, or the connection is
    /// lost, on which it would have come. Whether the server took the request is not known then.
    ///
    /// # Errors
    /// No answer, or no right to ask.
    pub async fn request(&self, subject: String, request: Request) -> Result<Message, ApiError> {
        // What is sent without a connection queues up, and is sent some time.
        let connected = tokio::time::timeout(CONNECT_PATIENCE, self.connected()).await;
        connected.unwrap_or_else(|_| {
            Err(ApiError::Unanswered(format!("no server answers at {}", self.address)))
        })?;
        let mut connects = self.connects.clone();
        // The first connection is heard of a moment after it is made; it is no sign of a loss.
        let _ = tokio::time::timeout(CONNECT_PATIENCE, connects.wait_for(|count| *count > 0)).await;
        connects.mark_unchanged();
        tokio::select! {
            biased;
            answer = self.client.send_request(subject.clone(), request) => {
                answer.map_err(|error| self.unanswered(&subject, error.kind()))
            }
            () = self.lost(&mut connects) => {
                Err(ApiError::Unanswered("the connection was lost".to_owned()))
            }
        }
    }

    /// Returns once the connection is lost, or another one has been made since.
    async fn lost(&self, connects: &mut watch::Receiver<u64>) {
        loop {
            let changed = tokio::time::timeout(LOOK_EVERY, connects.changed()).await;
            if changed.is_ok() || self.client.connection_state() != State::Connected {
                return;
            }
        }
    }

    /// That the login is refused since the connection was lost.
    pub(super) fn refused(&self) -> Option<ApiError> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_refused().then(|| ApiError::LoginRefused(self.address.clone()))
    }

    /// The subject of a call: `STREAM.INFO.X` behind the prefix of the account.
    pub fn subject(&self, call: &str) -> String {
        format!("{}.{call}", self.prefix)
    }

    /// Makes a call and returns the answer.
    ///
    /// # Errors
    /// The server's error, or none in time.
    pub async fn call(&self, call: &str, body: &Value) -> Result<Value, ApiError> {
        let payload = if body.is_null() { String::new() } else { body.to_string() };
        let subject = self.subject(call);
        let answer = self.request(subject, Request::new().payload(payload.into())).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)
            .map_err(|error| ApiError::Unanswered(format!("the answer is not JSON: {error}")))?;
        ApiError::of_answer(&answer).map_or(Ok(answer), Err)
    }

    /// Why a request on a subject got no answer: a missing right shows as silence.
    pub fn unanswered(&self, subject: &str, kind: RequestErrorKind) -> ApiError {
        if let Some(refused) = self.refused() {
            return refused;
        }
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let denied = heard.denials.iter().rev().find(|denial| denial.contains(subject)).cloned();
        match (denied, kind) {
            (Some(denied), _) => ApiError::Denied(denied),
            (None, RequestErrorKind::NoResponders) => ApiError::Unanswered(
                "nobody answers there: JetStream is not enabled, or not up yet".to_owned(),
            ),
            (None, kind) => ApiError::Unanswered(format!("no answer: {kind}")),
        }
    }

    /// The stream's state and configuration.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, ApiError> {
        let answer = self.call(&format!("STREAM.INFO.{stream}"), &Value::Null).await?;
        let unreadable = || ApiError::Unanswered("the answer says too little".to_owned());
        let state = &answer["state"];
        let subjects = answer["config"]["subjects"].as_array();
        Ok(StreamInfo {
            name: stream.to_owned(),
            created_ns: answer["created"].as_str().and_then(nanoseconds).ok_or_else(unreadable)?,
            first_seq: state["first_seq"].as_u64().ok_or_else(unreadable)?.max(1),
            last_seq: state["last_seq"].as_u64().ok_or_else(unreadable)?,
            deleted: state["num_deleted"].as_u64().unwrap_or(0),
            subjects: subjects
                .into_iter()
                .flatten()
                .filter_map(|subject| subject.as_str().map(str::to_owned))
                .collect(),
            config: answer["config"].clone(),
        })
    }

    /// The message with a sequence; `None` where it is gone.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn message(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<Option<StoredMessage>, ApiError> {
        self.stored_message(stream, &json!({ "seq": sequence })).await
    }

    /// The first message with a sequence or a higher one; `None` where there is none.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn message_at_or_after(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<Option<StoredMessage>, ApiError> {
        self.message_on_at_or_after(stream, ">", sequence).await
    }

    /// The first message on a subject that matches the pattern; `None` where there is none.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn first_message_on(
        &self,
        stream: &str,
        pattern: &str,
    ) -> Result<Option<StoredMessage>, ApiError> {
        self.message_on_at_or_after(stream, pattern, 1).await
    }

    /// The first message with a sequence or a higher one, on a subject that matches the pattern;
    /// `None` where there is none.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn message_on_at_or_after(
        &self,
        stream: &str,
        pattern: &str,
        sequence: u64,
    ) -> Result<Option<StoredMessage>, ApiError> {
        self.stored_message(stream, &json!({ "seq": sequence, "next_by_subj": pattern })).await
    }

    /// The last message on a subject; `None` where there is none.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn last_message(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StoredMessage>, ApiError> {
        self.stored_message(stream, &json!({ "last_by_subj": subject })).await
    }

    /// The leader answers this call, so it sees every message that was acknowledged.
    async fn stored_message(
        &self,
        stream: &str,
        which: &Value,
    ) -> Result<Option<StoredMessage>, ApiError> {
        let answer = match self.call(&format!("STREAM.MSG.GET.{stream}"), which).await {
            Err(error) if error.err_code() == MESSAGE_NOT_FOUND => return Ok(None),
            answer => answer?,
        };
        let unreadable = || ApiError::Unanswered("the message cannot be read".to_owned());
        let message = &answer["message"];
        let decode = |name: &str| {
            STANDARD.decode(message[name].as_str().unwrap_or_default()).map_err(|_| unreadable())
        };
        Ok(Some(StoredMessage {
            sequence: message["seq"].as_u64().ok_or_else(unreadable)?,
            subject: message["subject"].as_str().unwrap_or_default().to_owned(),
            time_ns: message["time"].as_str().and_then(nanoseconds).ok_or_else(unreadable)?,
            headers: decode("hdrs")?,
            payload: decode("data")?,
        }))
    }

    /// The names of the streams that capture subjects which match the pattern.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn streams_with(&self, pattern: &str) -> Result<Vec<String>, ApiError> {
        let answer = self.call("STREAM.NAMES", &json!({ "subject": pattern })).await?;
        let names = answer["streams"].as_array();
        Ok(names
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect())
    }

    /// The level of the API: 0 before nats-server 2.11, 1 for that, 2 and more since 2.12.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn level(&self) -> Result<u64, ApiError> {
        let answer = self.call("INFO", &Value::Null).await?;
        Ok(answer["api"]["level"].as_u64().unwrap_or(0))
    }
}

/// RFC 3339 to nanoseconds since the Unix epoch.
fn nanoseconds(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp_nanos_opt()
}
