//! A place in an object store (`s3://bucket/prefix`, `gs://`, `az://`): whole objects, created
//! exclusively where that is asked for, with credentials from the environment.
//!
//! An object is there whole or not at all, and what a call has returned is durable and seen by every
//! later call (all three stores are strongly consistent). There is no renaming.
//!
//! The calls block, for as long as [`PATIENCE`] where the store does not answer, so they belong where
//! files are read and written.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::Runtime;

mod errors;
mod location;

use super::fault::Fault;
use errors::Meaning;

pub use location::{Place, place};

/// How long a request is tried again before it is a fault: a store that is busy says so now and then.
const PATIENCE: Duration = Duration::from_secs(10);

/// Each attempt has its own bound, far below this one; it is for who waits for a thread that is gone.
const REQUEST_MOST: Duration = Duration::from_secs(180);

/// Bytes beyond which an object goes up in parts.
const PART_BYTES: usize = 8 << 20;

/// Requests at the same time.
const REQUESTS: usize = 8;

/// The parts of an object that go up at the same time.
const PARTS: usize = 4;

/// Objects with a common prefix in a bucket, by their names below it.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// Without a slash at its end; empty for the whole bucket.
    prefix: String,
    /// For messages: the bucket, and the prefix where it began.
    url: String,
}

impl fmt::Debug for Bucket {
    // A store may show its credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.url)
    }
}

impl PartialEq for Bucket {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
    }
}

impl Eq for Bucket {}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Bucket {
    /// What is below a prefix in a store; `url` is for messages.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str, url: &str) -> Self {
        Self { store, prefix: prefix.to_owned(), url: url.to_owned() }
    }

    /// The part below a name.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        let store = Arc::clone(&self.store);
        Self { store, prefix: join(&self.prefix, name), url: join(&self.url, name) }
    }

    /// The address of an object, for messages.
    pub fn address(&self, name: &str) -> String {
        join(&self.url, name)
    }

    /// Reads an object; `None` if there is none.
    ///
    /// # Errors
    /// Retry where the store does not answer, stop where it refuses.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        let (store, path) = (Arc::clone(&self.store), self.path(name)?);
        let read = wait(async move { store.get(&path).await?.bytes().await })?;
        self.found(read.map(Vec::from), "read", name)
    }

    /// Writes an object, in place of whatever has its name.
    ///
    /// # Errors
    /// As [`Self::read`]; an outcome that nobody knows is marked.
    pub fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), Fault> {
        let (store, path) = (Arc::clone(&self.store), self.path(name)?);
        let written = wait(async move { store.put(&path, PutPayload::from(bytes)).await })?;
        written.map(|_| ()).map_err(|error| self.fault(&error, "write", name))
    }

    /// Writes an object unless its name is taken: false if it is. That may be by this very call, which
    /// is tried again where its answer was lost.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool, Fault> {
        let (store, path) = (Arc::clone(&self.store), self.path(name)?);
        let created = wait(async move {
            store.put_opts(&path, PutPayload::from(bytes), PutMode::Create.into()).await
        })?;
        match created {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(self.fault(&error, "create", name)),
        }
    }

    /// Writes an object of any size from a reader, in place of whatever has its name.
    ///
    /// # Errors
    /// As [`Self::write`], and what the reader says.
    pub fn write_from(&self, name: &str, from: &mut dyn Read) -> Result<(), Fault> {
        let unreadable = |error| Fault::halt(format!("cannot read a file back: {error}"));
        let first = read_part(from).map_err(unreadable)?;
        if first.len() < PART_BYTES {
            return self.write(name, first);
        }
        let (store, path) = (Arc::clone(&self.store), self.path(name)?);
        let upload = wait(async move { store.put_multipart(&path).await })?;
        let mut upload = upload.map_err(|error| self.fault(&error, "write", name))?;
        let mut parts = vec![upload.put_part(PutPayload::from(first))];
        loop {
            let part = read_part(from).map_err(unreadable)?;
            let is_last = part.len() < PART_BYTES;
            if !part.is_empty() {
                parts.push(upload.put_part(PutPayload::from(part)));
            }
            if !is_last && parts.len() < PARTS {
                continue;
            }
            let due = std::mem::take(&mut parts);
            let done;
            (upload, done) = wait(async move {
                let done = match try_join_all(due).await {
                    Ok(_) if is_last => upload.complete().await.map(|_| ()),
                    Ok(_) => Ok(()),
                    Err(error) => Err(error),
                };
                if done.is_err() {
                    // What cannot be aborted now is left to the bucket's own rules.
                    let _ = upload.abort().await;
                }
                (upload, done)
            })?;
            done.map_err(|error| self.fault(&error, "write", name))?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Gives objects other names, in place of whatever has them. Each is there under one of its names
    /// at least all the time. Returns those that were not there.
    ///
    /// # Errors
    /// As [`Self::write`]; any of them may have its name by then.
    pub fn rename(&self, names: &[(String, String)]) -> Result<Vec<(String, String)>, Fault> {
        let moves = names
            .iter()
            .map(|(from, to)| Ok((self.path(from)?, self.path(to)?)))
            .collect::<Result<Vec<_>, Fault>>()?;
        let store = Arc::clone(&self.store);
        let done: Vec<_> = wait(async move {
            let each = futures::stream::iter(moves).map(|(from, to)| {
                let store = Arc::clone(&store);
                async move {
                    store.copy(&from, &to).await?;
                    store.delete(&from).await
                }
            });
            each.buffered(REQUESTS).collect().await
        })?;
        let mut missing = Vec::new();
        for (names, done) in names.iter().zip(done) {
            match done.map_err(|error| self.meaning(&error, "rename", &names.0)) {
                Ok(()) => {}
                Err(Meaning::Missing) => missing.push(names.clone()),
                Err(Meaning::Fault(fault)) => return Err(fault),
            }
        }
        Ok(missing)
    }

    /// Deletes objects, those that are there.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn delete(&self, names: &[String]) -> Result<(), Fault> {
        let paths = names.iter().map(|name| self.path(name)).collect::<Result<Vec<_>, Fault>>()?;
        let store = Arc::clone(&self.store);
        let done: Vec<_> = wait(async move {
            let each = futures::stream::iter(paths).map(|path| {
                let store = Arc::clone(&store);
                async move { store.delete(&path).await }
            });
            each.buffered(REQUESTS).collect().await
        })?;
        for (name, done) in names.iter().zip(done) {
            if let Err(error) = done
                && let Meaning::Fault(fault) = self.meaning(&error, "delete", name)
            {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// True if there is an object of this name.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn has(&self, name: &str) -> Result<bool, Fault> {
        let (store, path) = (Arc::clone(&self.store), self.path(name)?);
        let found = wait(async move { store.head(&path).await })?;
        self.found(found, "read", name).map(|found| found.is_some())
    }

    /// The names of all objects that begin with a name and a slash (of all, for an empty one), in no
    /// order.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn list(&self, name: &str) -> Result<Vec<String>, Fault> {
        let (store, path) = (Arc::clone(&self.store), self.path(name)?);
        let listed: Result<Vec<_>, _> =
            wait(async move { store.list(Some(&path)).try_collect().await })?;
        let listed = listed.map_err(|error| self.fault(&error, "list", name))?;
        Ok(listed.iter().filter_map(|object| self.name(&object.location)).collect())
    }

    /// The first names below this place that have objects below them: what a directory would be.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn directories(&self) -> Result<Vec<String>, Fault> {
        let (store, path) = (Arc::clone(&self.store), self.path("")?);
        let listed = wait(async move { store.list_with_delimiter(Some(&path)).await })?;
        let listed = listed.map_err(|error| self.fault(&error, "list", ""))?;
        Ok(listed.common_prefixes.iter().filter_map(|path| self.name(path)).collect())
    }

    /// Whether objects can be listed, created and deleted here, and, if that is asked for, whether the
    /// store creates exclusively. Leaves nothing behind.
    ///
    /// # Errors
    /// What is not so.
    pub fn check(&self, exclusive: bool) -> Result<(), Fault> {
        let name = format!("waterwheel-check-{:016x}", RandomState::new().hash_one(0_u8));
        self.list(&name)?;
        let checked = self.write(&name, b"check".to_vec()).and_then(|()| match exclusive {
            true => self.check_exclusive(&name, b"check".to_vec()),
            false => Ok(()),
        });
        checked.and(self.delete(&[name]))
    }

    /// Refuses a store that overwrites where it was asked to create: two instances could then not
    /// be told apart. The object of this name must be there, with these bytes.
    ///
    /// # Errors
    /// Stop where it does, else as [`Self::write`].
    pub fn check_exclusive(&self, name: &str, bytes: Vec<u8>) -> Result<(), Fault> {
        if !self.create(name, bytes)? {
            return Ok(());
        }
        Err(Fault::stop(format!(
            "the object store of `{}` overwrites objects that it was asked to create (it does not \
             know `If-None-Match`), which exactly-once commits rest on",
            self.url
        ))
        .help("use a store or a version of it that has conditional writes, or a directory"))
    }

    fn path(&self, name: &str) -> Result<Path, Fault> {
        let path = join(&self.prefix, name);
        Path::parse(&path).map_err(|_| Fault::halt(format!("`{path}` cannot name an object")))
    }

    fn name(&self, path: &Path) -> Option<String> {
        let name = path.as_ref().strip_prefix(&self.prefix)?;
        Some(name.strip_prefix('/').unwrap_or(name).to_owned())
    }
}

fn join(above: &str, name: &str) -> String {
    match (above.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (_, true) => above.to_owned(),
        _ => format!("{above}/{name}"),
    }
}

/// Full, except for the last part.
fn read_part(from: &mut dyn Read) -> std::io::Result<Vec<u8>> {
    let mut part = Vec::new();
    from.take(PART_BYTES as u64).read_to_end(&mut part)?;
    Ok(part)
}

/// Requests run on a thread of their own: who waits for one may be a thread of the pipeline's
/// runtime, on which nothing else would run meanwhile, or one that is panicking.
static REQUESTING: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("object-store")
        .enable_all()
        .build()
});

/// Waits for requests.
fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, Fault> {
    let runtime = REQUESTING
        .as_ref()
        .map_err(|error| Fault::retry(format!("cannot start a thread for requests: {error}")))?;
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move {
        let _ = answer.send(work.await);
    });
    answered.recv_timeout(REQUEST_MOST).map_err(|_| {
        Fault::retry(format!("a request to an object store took over {REQUEST_MOST:?}"))
            .unknown_outcome()
    })
}

#[cfg(test)]
mod tests;
