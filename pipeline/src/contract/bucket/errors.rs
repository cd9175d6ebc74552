//! What the errors of object stores mean for the pipeline, and how they are told.
//!
//! What is told of one cause is always the same text (no durations, no counts of attempts): a cause
//! that lasts is told once.

use std::error::Error as StdError;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use super::Bucket;
use crate::contract::fault::Fault;

/// What an error means.
pub(super) enum Meaning {
    /// There is no such object.
    Missing,
    /// Anything else.
    Fault(Fault),
}

impl Bucket {
    /// What became of reading an object.
    pub(super) fn found<T>(
        &self,
        result: Result<T, Error>,
        doing: &str,
        name: &str,
    ) -> Result<Option<T>, Fault> {
        match result.map_err(|error| self.meaning(&error, doing, name)) {
            Ok(found) => Ok(Some(found)),
            Err(Meaning::Missing) => Ok(None),
            Err(Meaning::Fault(fault)) => Err(fault),
        }
    }

    /// The fault of a request that needs no object to be there.
    pub(super) fn fault(&self, error: &Error, doing: &str, name: &str) -> Fault {
        match self.meaning(error, doing, name) {
            Meaning::Fault(fault) => fault,
            Meaning::Missing => self.no_bucket(),
        }
    }

    /// The bucket alone: what its store does concerns every part of it, and is told once.
    fn root(&self) -> &str {
        let name = self.url.find("://").map_or(0, |at| at + 3);
        let end = self.url[name..].find('/').map_or(self.url.len(), |at| name + at);
        &self.url[..end]
    }

    fn no_bucket(&self) -> Fault {
        Fault::stop(format!("there is no bucket for `{}`", self.url))
            .help("create it, or correct `path`; waterwheel creates no buckets")
    }

    pub(super) fn meaning(&self, error: &Error, doing: &str, name: &str) -> Meaning {
        let text = full_text(error);
        let what = || {
            let said = said(&text).unwrap_or_else(|| innermost(error));
            format!("cannot {doing} `{}`: {said}", self.address(name))
        };
        let fault = match error {
            // To a request for a list the library has no error of its own for it.
            Error::NotFound { .. } | Error::Generic { .. } if names_bucket(&text) => {
                self.no_bucket()
            }
            Error::NotFound { .. } => return Meaning::Missing,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Fault::stop(what())
                .help(
                    "check the credentials in the environment and the rights of their owner: to \
                     list the bucket, and to read, write and delete objects below the prefix",
                ),
            // Two writers at once: S3 says 409 rather than who came first.
            Error::AlreadyExists { .. } | Error::Precondition { .. } => Fault::retry(what()),
            Error::NotImplemented { .. } | Error::NotSupported { .. } => {
                Fault::stop(what()).help("use another object store, or a directory")
            }
            error => self.by_status(error, &text, what),
        };
        Meaning::Fault(fault)
    }

    fn by_status(&self, error: &Error, text: &str, what: impl Fn() -> String) -> Fault {
        if let Some(http) = cause::<HttpError>(error) {
            let why = match http.kind() {
                HttpErrorKind::Timeout => "no answer in time".to_owned(),
                _ => innermost(http),
            };
            let fault =
                Fault::retry(format!("no answer from the store of `{}`: {why}", self.root()));
            return if text.contains("169.254.169.254") || text.contains("metadata") {
                Fault::retry(format!("no credentials for `{}`: {why}", self.url)).help(
                    "set them in the environment: this machine's own service for credentials \
                     was asked, and does not answer",
                )
            } else {
                fault.unknown_outcome()
            };
        }
        match status(text) {
            // 408: the request was too slow; 429: too many.
            Some(408 | 409 | 429 | 500..) => Fault::retry(format!(
                "the store of `{}` does not serve: {}",
                self.root(),
                said(text).unwrap_or_else(|| innermost(error))
            ))
            .unknown_outcome(),
            Some(_) => Fault::stop(what()).help("check `path`, the region and the endpoint"),
            None if text.contains("incorrectly configured region") => {
                Fault::stop(what()).help("set AWS_REGION to the region of the bucket")
            }
            None if is_about_configuration(text) => Fault::stop(what()),
            None => Fault::retry(what()).unknown_outcome(),
        }
    }
}

/// What no second attempt changes.
fn is_about_configuration(text: &str) -> bool {
    ["credential", "token file", "private key", "parse"].iter().any(|word| text.contains(word))
}

fn names_bucket(text: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "specified bucket does not exist"]
        .iter()
        .any(|code| text.contains(code))
}

/// The status of the answer, out of the library's text.
fn status(text: &str) -> Option<u16> {
    let after = text.split_once("status code: ")?.1;
    after.get(..3)?.parse().ok()
}

/// What the store said, in its own words: the code and the message of its answer. The rest of an
/// answer quotes the request.
fn said(text: &str) -> Option<String> {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (inner, _) = rest.split_once(&format!("</{name}>"))?;
        Some(inner.chars().filter(|c| !c.is_control()).take(200).collect::<String>())
    };
    match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (Some(code), None) => Some(code),
        _ => {
            let (_, rest) = text.split_once("status code: ")?;
            Some(rest.split(':').next().unwrap_or(rest).trim().to_owned())
        }
    }
}

fn full_text(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push('\n');
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn innermost(error: &dyn StdError) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

/// The first cause of a kind.
fn cause<'e, T: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
