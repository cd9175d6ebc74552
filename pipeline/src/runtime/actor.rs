//! Actors: a task or a thread with its own state and one bounded mailbox, and the closed table of
//! how each can end.

use std::future::Future;

use tokio::task::JoinHandle;

use crate::contract::fault::Fault;

/// How an actor ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// Its work was done.
    Done,
    /// It was told to stop, or whom it serves is gone.
    Cancelled,
    /// Something went wrong.
    Fault(Fault),
}

/// An actor that runs as a task.
pub(super) struct Actor {
    name: String,
    /// `None` once its end has been seen.
    task: Option<JoinHandle<Ending>>,
}

impl Actor {
    /// Starts an actor. The only place in the runtime where a task begins.
    pub(super) fn start(
        name: impl Into<String>,
        body: impl Future<Output = Ending> + Send + 'static,
    ) -> Self {
        Self { name: name.into(), task: Some(tokio::spawn(body)) }
    }

    /// Waits for its end. A panic is a fault of ours: it stops the pipeline. Cancel-safe; once the
    /// end has been seen, it is `Done`.
    pub(super) async fn ended(&mut self) -> Ending {
        let Some(task) = &mut self.task else {
            return Ending::Done;
        };
        let ended = task.await;
        self.task = None;
        match ended {
            Ok(ending) => ending,
            Err(error) if error.is_cancelled() => Ending::Cancelled,
            Err(error) => {
                Ending::Fault(Fault::halt(format!("the actor {} panicked: {error}", self.name)))
            }
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
