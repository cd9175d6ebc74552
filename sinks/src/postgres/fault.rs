//! What an error of Postgres means: wait, stop, or halt to protect the data.

use std::error::Error as _;
use std::fmt::Display;
use std::io;

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, Severity};
use waterwheel_pipeline::contract::fault::Fault;

/// The fault for an error on an open connection. What nobody knows means halt.
pub(super) fn fault(error: &Error, what: impl Display) -> Fault {
    match error.as_db_error() {
        Some(answer) => answered(answer, what),
        None if is_lost(error) => Fault::retry(format_args!("{what}: {}", text(error))),
        None => Fault::halt(format_args!("{what}: {}", text(error))),
    }
}

/// The fault for a connection that could not be opened. Without an answer of the server, only what
/// the network did can mend itself; a certificate or a setting cannot.
pub(super) fn connect_fault(error: &Error, server: impl Display) -> Fault {
    let what = format!("postgres at {server}");
    match error.as_db_error() {
        Some(answer) => answered(answer, what),
        None if is_lost(error) => {
            Fault::retry(format_args!("{what} cannot be reached: {}", text(error)))
        }
        None => Fault::stop(format_args!("{what}: {}", text(error))).help(
            "check `url`, its `sslmode` and `tls_ca`; to another machine TLS is required unless \
                 `insecure = true` stands beside `url`",
        ),
    }
}

/// True where the connection broke, so that nobody knows what the server did with the last words.
pub(super) fn is_broken(error: &Error) -> bool {
    error.as_db_error().is_none_or(|answer| {
        matches!(answer.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
    })
}

fn answered(answer: &DbError, what: impl Display) -> Fault {
    let code = answer.code().code();
    let message = format!("{what}: {} (SQLSTATE {code})", answer.message());
    match code {
        // A statement that an administrator cancelled, and a session that was ended because this
        // process stood still inside a transaction, did nothing wrong: they try again.
        "55P03" | "25006" | "57014" | "25P03" => Fault::retry(message),
        _ if ["40", "08", "53", "57P0"].iter().any(|class| code.starts_with(class)) => {
            Fault::retry(message)
        }
        "42501" => Fault::stop(message).help("grant the role of `url` what it needs there"),
        "3D000" => Fault::stop(message).help("create the database, or correct `url`"),
        _ if code.starts_with("28") => {
            Fault::stop(message).help("check the user and the password in `url`")
        }
        _ => Fault::halt(message),
    }
}

fn is_lost(error: &Error) -> bool {
    if error.is_closed() {
        return true;
    }
    // rustls and the protocol reader wrap what they refuse in these two kinds; every other kind
    // comes from the operating system.
    let refused = [io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput];
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|source| !refused.contains(&source.kind()))
}

fn text(error: &Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
