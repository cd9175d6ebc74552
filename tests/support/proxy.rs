//! A TCP proxy in front of Postgres that breaks or holds a connection around a COMMIT.
//!
//! It follows the client's side of the protocol, so that a cut falls exactly before, within or after
//! the message that it is meant for. Connections must not be encrypted: `sslmode=disable`.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What happens to the next COMMIT, or to the next BEGIN.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// The connection breaks before anything of the COMMIT is sent.
    Before,
    /// The connection breaks after so many of its bytes, counted round and round.
    Torn(usize),
    /// The connection breaks so long after it was sent.
    After(Duration),
    /// The server answers, and the connection breaks before the answer arrives.
    Answered,
    /// The connection breaks for the client; the server receives the COMMIT so much later.
    Delayed(Duration),
    /// The COMMIT stands still until [`Proxy::release`].
    HoldCommit,
    /// The BEGIN and all behind it stand still until [`Proxy::release`].
    HoldBegin,
}

/// A proxy on a port of its own; it takes no more connections when dropped.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    armed: Mutex<Option<Cut>>,
    struck: AtomicUsize,
    is_held: Mutex<bool>,
    released: Condvar,
    is_over: AtomicBool,
}

impl Proxy {
    /// Starts a proxy for the Postgres at a port of this machine.
    pub(crate) fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            target,
            armed: Mutex::new(None),
            struck: AtomicUsize::new(0),
            is_held: Mutex::new(false),
            released: Condvar::new(),
            is_over: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.is_over.load(Ordering::Relaxed) {
                    break;
                }
                if let Ok(client) = client {
                    accepting.connect(client);
                }
            }
        });
        Self { port, shared }
    }

    /// The URL of a database behind it.
    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://waterwheel@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Lets it happen to the next one.
    pub(crate) fn arm(&self, cut: Cut) {
        *self.shared.is_held() = matches!(cut, Cut::HoldBegin | Cut::HoldCommit);
        *self.shared.armed() = Some(cut);
    }

    /// How often it has happened.
    pub(crate) fn struck(&self) -> usize {
        self.shared.struck.load(Ordering::SeqCst)
    }

    /// Lets go what is held; nothing is held from now on.
    pub(crate) fn release(&self) {
        *self.shared.armed() = None;
        *self.shared.is_held() = false;
        self.shared.released.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.release();
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn armed(&self) -> MutexGuard<'_, Option<Cut>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_held(&self) -> MutexGuard<'_, bool> {
        self.is_held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(self: &Arc<Self>, client: TcpStream) {
        // A server that is down refuses: so does the proxy, by closing.
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (Ok(client_back), Ok(server_back)) = (client.try_clone(), server.try_clone()) else {
            return;
        };
        let swallow = Arc::new(AtomicBool::new(false));
        let (shared, swallows) = (self.clone(), swallow.clone());
        thread::spawn(move || {
            let _ = shared.forward(&client, &server, &swallow);
            let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Write));
        });
        thread::spawn(move || {
            let _ = answer(&server_back, &client_back, &swallows);
            let _ = (client_back.shutdown(Shutdown::Both), server_back.shutdown(Shutdown::Both));
        });
    }

    /// Takes the armed cut if it is for such a message.
    fn take(&self, is_begin: bool) -> Option<Cut> {
        let mut armed = self.armed();
        let cut = armed.filter(|cut| matches!(cut, Cut::HoldBegin) == is_begin)?;
        *armed = None;
        Some(cut)
    }

    /// From the client to the server, message by message.
    fn forward(
        &self,
        mut client: &TcpStream,
        mut server: &TcpStream,
        swallow: &AtomicBool,
    ) -> io::Result<()> {
        let mut messages = Messages::default();
        let mut chunk = vec![0; 64 << 10];
        // The messages of a COMMIT, until it is whole.
        let mut commit: Option<Vec<u8>> = None;
        loop {
            let length = client.read(&mut chunk)?;
            if length == 0 {
                return Ok(());
            }
            messages.bytes.extend(&chunk[..length]);
            let mut out = Vec::new();
            while let Some((kind, message)) = messages.next() {
                if kind == Kind::Begin
                    && let Some(cut) = self.take(true)
                {
                    server.write_all(&std::mem::take(&mut out))?;
                    self.strike(cut, Vec::new(), client, server, swallow)?;
                }
                match &mut commit {
                    Some(commit) => commit.extend(message),
                    None if kind == Kind::Commit => commit = Some(message),
                    None => out.extend(message),
                }
                if kind == Kind::Sync
                    && let Some(whole) = commit.take()
                {
                    server.write_all(&std::mem::take(&mut out))?;
                    match self.take(false) {
                        Some(cut) => self.strike(cut, whole, client, server, swallow)?,
                        None => server.write_all(&whole)?,
                    }
                }
            }
            server.write_all(&out)?;
        }
    }

    /// Does it; `commit` is what has not been sent. An error ends the connection.
    fn strike(
        &self,
        cut: Cut,
        commit: Vec<u8>,
        client: &TcpStream,
        mut server: &TcpStream,
        swallow: &AtomicBool,
    ) -> io::Result<()> {
        self.struck.fetch_add(1, Ordering::SeqCst);
        match cut {
            Cut::Before => {}
            Cut::Torn(bytes) => server.write_all(&commit[..bytes % commit.len()])?,
            Cut::After(delay) => {
                server.write_all(&commit)?;
                thread::sleep(delay);
            }
            Cut::Answered => {
                swallow.store(true, Ordering::SeqCst);
                // The other direction breaks it.
                return server.write_all(&commit);
            }
            Cut::Delayed(delay) => {
                client.shutdown(Shutdown::Both)?;
                thread::sleep(delay);
                server.write_all(&commit)?;
            }
            Cut::HoldBegin | Cut::HoldCommit => {
                let mut is_held = self.is_held();
                while *is_held {
                    let woken = self.released.wait(is_held);
                    is_held = woken.unwrap_or_else(PoisonError::into_inner);
                }
                return server.write_all(&commit);
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

/// From the server to the client; where the answer to a COMMIT is to be lost, up to there.
fn answer(mut server: &TcpStream, mut client: &TcpStream, swallow: &AtomicBool) -> io::Result<()> {
    const COMMITTED: &[u8] = b"COMMIT\0";
    let mut chunk = vec![0; 64 << 10];
    let mut tail: Vec<u8> = Vec::new();
    loop {
        let length = server.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        if swallow.load(Ordering::SeqCst) {
            tail.extend(&chunk[..length]);
            if tail.windows(COMMITTED.len()).any(|bytes| bytes == COMMITTED) {
                return Ok(());
            }
            tail.drain(..tail.len().saturating_sub(COMMITTED.len()));
        }
        client.write_all(&chunk[..length])?;
    }
}

/// What a message of the client is about.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// The use of the prepared BEGIN.
    Begin,
    /// The use of the prepared COMMIT.
    Commit,
    Sync,
    Other,
}

/// The client's bytes, cut into messages.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    is_started: bool,
    begin: Option<Vec<u8>>,
    commit: Option<Vec<u8>>,
}

impl Messages {
    fn next(&mut self) -> Option<(Kind, Vec<u8>)> {
        // What a connection begins with has no type.
        let typed = usize::from(self.is_started);
        let length = self.bytes.get(typed..typed + 4)?;
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize + typed;
        if self.bytes.len() < length {
            return None;
        }
        let rest = self.bytes.split_off(length);
        let message = std::mem::replace(&mut self.bytes, rest);
        if !self.is_started {
            self.is_started = true;
            return Some((Kind::Other, message));
        }
        let kind = self.kind(message[0], &message[5..]);
        Some((kind, message))
    }

    fn kind(&mut self, letter: u8, body: &[u8]) -> Kind {
        let mut words = body.split(|byte| *byte == 0);
        let (first, second) = (words.next().unwrap_or(body), words.next().unwrap_or_default());
        match letter {
            // Parse: the name of the statement, and its text.
            b'P' if second == b"COMMIT" => self.commit = Some(first.to_vec()),
            b'P' if second.starts_with(b"BEGIN") => self.begin = Some(first.to_vec()),
            // Bind: the name of the portal, and of the statement.
            b'B' if self.commit.as_deref() == Some(second) => return Kind::Commit,
            b'B' if self.begin.as_deref() == Some(second) => return Kind::Begin,
            b'S' => return Kind::Sync,
            _ => {}
        }
        Kind::Other
    }
}
