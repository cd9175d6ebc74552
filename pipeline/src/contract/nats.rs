//! The connection to NATS that the source and the sink share: settings, contexts, credentials.
