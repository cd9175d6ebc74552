//! Streams on a test's own server: created and filled with raw messages.

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, StorageType};
use futures::future::BoxFuture;

/// Runs one exchange with a server to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// A connected client of JetStream.
pub(crate) async fn connect(url: &str) -> jetstream::Context {
    let client = async_nats::connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    jetstream::new(client)
}

/// Creates a stream over `<subject>.>`, on disk.
pub(crate) async fn create(context: &jetstream::Context, stream: &str, subject: &str) {
    let config = Config {
        name: stream.to_owned(),
        subjects: vec![format!("{subject}.>")],
        storage: StorageType::File,
        ..Config::default()
    };
    context.create_stream(config).await.unwrap_or_else(|error| panic!("stream {stream}: {error}"));
}

/// Publishes in order, each acknowledged before this returns; gives the sequence of the last.
pub(crate) async fn publish(
    context: &jetstream::Context,
    subject: &str,
    payloads: impl IntoIterator<Item = Vec<u8>>,
) -> u64 {
    let mut pending: Vec<BoxFuture<'static, u64>> = Vec::new();
    let mut last = 0;
    for payload in payloads {
        let acknowledged = context
            .publish_with_headers(subject.to_owned(), HeaderMap::new(), payload.into())
            .await
            .unwrap_or_else(|error| panic!("publish: {error}"));
        pending.push(Box::pin(async move {
            acknowledged.await.unwrap_or_else(|error| panic!("publish: {error}")).sequence
        }));
        // The server holds only so many unanswered messages of one client.
        if pending.len() >= 500 {
            last = futures::future::join_all(pending.drain(..))
                .await
                .into_iter()
                .max()
                .unwrap_or(last);
        }
    }
    futures::future::join_all(pending).await.into_iter().max().unwrap_or(last)
}
