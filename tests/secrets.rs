//! No secret of a deployment ever reaches an output: every place that can hold one holds a canary,
//! and every command is run over it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use tempfile::TempDir;

use crate::support::DEADLINE;
use crate::support::nats_server::NatsServer;
use crate::support::postgres::Postgres;
use crate::support::stream::{block_on, create};

/// The secret. As a seed of NATS keys it would be valid but for its checksum, so that code which
/// tells seeds from file names sees one.
const CANARY: &str = "SUACANARYCANARYCANARYCANARYCANARYCANARYCANARYCANARYCANARYC";

/// How long a `run` that cannot reach its servers is watched once it has begun.
const WATCHED: Duration = Duration::from_secs(1);

/// Of a connection to NATS: every way to write a secret. `{port}` is one on which nobody listens.
const NATS_LOGINS: [&str; 13] = [
    r#"url = "nats://user:{canary}@127.0.0.1:{port}""#,
    r#"url = "nats://{canary}@127.0.0.1:{port}""#,
    r#"url = "nats://127.0.0.1:{port},nats://user:{canary}@localhost:{port}""#,
    r#"url = "${CANARY_URL}""#,
    r#"url = "nats://user:${CANARY}@127.0.0.1:{port}""#,
    "url = \"nats://127.0.0.1:{port}\"\nuser = \"user\"\npassword = \"{canary}\"",
    "url = \"nats://127.0.0.1:{port}\"\nuser = \"user\"\npassword = \"${CANARY}\"",
    "url = \"nats://127.0.0.1:{port}\"\nuser = \"user\"\npassword = \"${UNSET:-{canary}}\"",
    "url = \"nats://127.0.0.1:{port}\"\ntoken = \"{canary}\"",
    "url = \"nats://127.0.0.1:{port}\"\ntoken = '${CANARY}'",
    "url = \"nats://127.0.0.1:{port}\"\nnkey = \"{canary}\"",
    "context = \"canary\"",
    "context = \"broken\"",
];

/// Of a Postgres URL.
const POSTGRES_URLS: [&str; 6] = [
    "postgres://user:{canary}@127.0.0.1:{port}/analytics",
    "postgres://user@127.0.0.1:{port}/analytics?password={canary}",
    "host=127.0.0.1 port={port} user=user password={canary} dbname=analytics",
    "${CANARY_DATABASE}",
    "postgres://user:${CANARY}@127.0.0.1:{port}/analytics",
    "postgres://user:${UNSET:-{canary}}@127.0.0.1:{port}/analytics?connect_timeout=1",
];

/// Settings that are wrong, with a secret in them or on the same line.
const WRONG_SOURCES: [&str; 24] = [
    "events = { type = \"nats\", stream = \"E\", pasword = \"{canary}\" }",
    "events = { type = \"nats\", stream = \"E\", tokn = '{canary}', lateness = \"soon\" }",
    "events = { type = \"nast\", stream = \"E\", passwd = \"{canary}\" }",
    "events = { tpye = \"nats\", credentials = \"{canary}\" }",
    "events = { type = \"nats\", stream = \"E\", password = \"two words {canary}\", flush = 1 }",
    "events = { type = \"nats\", stream = \"E\", password = \"a,b}c'd{canary}\", flush = 1 }",
    "events = { type = \"nats\", stream = \"E\", token = [\"{canary}\"] }",
    "events = { type = \"nats\", stream = \"E\", token = { value = \"{canary}\" } }",
    "events = { type = \"nats\", stream = \"E\", password = \"{canary}\" }",
    "events = { type = \"nats\", stream = \"E\", user = \"u\", password = \"{canary}\", token = \"{canary}\" }",
    "events = { type = \"nats\", stream = \"E\", url = \"http://user:{canary}@h\" }",
    "events = { type = \"nats\", stream = \"E\", url = \"nats://user:{canary}@h:port\" }",
    "events = { type = \"nats\", stream = \"E\", url = \"nats://user:a?b#c/{canary}@h:port\" }",
    "events = { type = \"nats\", stream = \"E\", url = \"user:{canary}@h:port\" }",
    "events = { type = \"nats\", stream = \"E\", url = \"{canary}@h:port\" }",
    "events = { type = \"nats\", stream = \"E\", url = \"nats://u:p{canary} @h:port\" }",
    "events = { type = \"nats\", stream = \"E\", url = \"${CANARY_BAD_URL}\" }",
    "events = { type = \"nats\", stream = \"E\", url = \"nats://user:${UNSET}{canary}@h\" }",
    "events = { type = \"nats\", stream = \"E\", password = \"${UNSET}{canary}\" }",
    "events = { type = \"nats\", stream = \"E\", password = \"${CANARY\", lateness = 3 }",
    "events = { type = \"nats\", stream = \"E\", password = \"{canary}",
    "events = { type = \"nats\", stream = \"E\", password = {canary} }",
    "events = { type = \"nats\", stream = \"E\", pasword = {canary} }",
    "events = { type = \"nats\" stream = \"E\" pasword = \"{canary}\" }",
];

/// Wrong sinks, likewise.
const WRONG_SINKS: [&str; 8] = [
    "out = { type = \"postgres\", from = [\"events\"], url = \"mysql://user:{canary}@h/db\" }",
    "out = { type = \"postgres\", from = [\"events\"], url = \"postgres://user:{canary}@h:port/db\" }",
    "out = { type = \"postgres\", from = [\"events\"], url = \"user:{canary}@h/db\" }",
    "out = { type = \"postgres\", from = [\"events\"], url = \"postgres://user:{canary}\" }",
    "out = { type = \"postgres\", from = [\"events\"], url = \"host=h passwrd={canary}\" }",
    "out = { type = \"postgres\", from = [\"nowhere\"], ulr = \"postgres://user:{canary}@h/db\" }",
    "out = { type = \"postgres\", from = [\"events\"], url = \"postgres://h/db\", pasword = \"{canary}\" }",
    "out = { type = \"nats\", from = [\"events\"], subject = \"results.>\", token = \"{canary}\" }",
];

#[test]
fn a_source_shows_no_secret() {
    let scene = Scene::new();
    for login in NATS_LOGINS {
        scene.check_all(&deployment(&format!("type = \"nats\"\nstream = \"E\"\n{login}"), PRINT));
    }
}

#[test]
fn a_sink_shows_no_secret() {
    let scene = Scene::new();
    for login in NATS_LOGINS {
        let sink = format!("type = \"nats\"\nfrom = [\"events\"]\nsubject = \"r.x\"\n{login}");
        scene.check_all(&deployment(GENERATE, &sink));
    }
    for url in POSTGRES_URLS {
        let sink = format!("type = \"postgres\"\nfrom = [\"events\"]\nurl = \"{url}\"");
        scene.check_all(&deployment(GENERATE, &sink));
    }
}

#[test]
fn a_finding_shows_no_secret() {
    let scene = Scene::new();
    for source in WRONG_SOURCES {
        scene.check_wrong(&format!(
            "name = \"canary\"\n[sources]\n{source}\n[sinks.out]\n{PRINT}\n"
        ));
    }
    for sink in WRONG_SINKS {
        scene.check_wrong(&format!(
            "name = \"canary\"\n[sources.events]\n{GENERATE}\n[sinks]\n{sink}\n"
        ));
    }
}

#[test]
fn a_server_that_refuses_the_login_is_told_no_secret() {
    let scene = Scene::new();
    let nats = NatsServer::start_with("authorization { user: user, password: other }");
    let url = nats.url_as(&format!("user:{CANARY}"));
    let text = deployment(&format!("type = \"nats\"\nstream = \"E\"\nurl = \"{url}\""), PRINT);
    let ending = scene.run(&text);
    assert_eq!(ending.code, Some(4), "{}", ending.said);
    assert!(ending.said.contains("refuses the login"), "{}", ending.said);

    let directory = TempDir::new().unwrap();
    let postgres = Postgres::start(directory.path()).expect("postgres starts");
    let (_, server) =
        postgres.url().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let url = format!("postgres://nobody:{CANARY}@{server}");
    let sink = format!("type = \"postgres\"\nfrom = [\"events\"]\nurl = \"{url}\"");
    let ending = scene.run(&deployment(GENERATE, &sink));
    assert_eq!(ending.code, Some(4), "{}", ending.said);
}

/// A header with a bare carriage return panics in the client library, in the middle of everything.
#[test]
fn a_panic_shows_no_secret() {
    let scene = Scene::new();
    let login = format!("authorization {{ user: user, password: \"{CANARY}\" }}");
    let nats = NatsServer::start_with(&login);
    let url = nats.url_as(&format!("user:{CANARY}"));
    let address = nats.url().replace("nats://", "");
    block_on(async {
        let login = ConnectOptions::with_user_and_password("user".to_owned(), CANARY.to_owned());
        let client = login.connect(nats.url()).await.unwrap();
        create(&async_nats::jetstream::new(client), "E", "events").await;
    });
    let mut wire = TcpStream::connect(address).unwrap();
    let connect =
        format!(r#"CONNECT {{"verbose":false,"headers":true,"user":"user","pass":"{CANARY}"}}"#);
    let head = "NATS/1.0\r\nA: 1\rB: 2\r\n\r\n";
    let size = head.len();
    let message =
        format!("{connect}\r\nHPUB events.x {size} {}\r\n{head}{{}}\r\nPING\r\n", size + 2);
    wire.write_all(message.as_bytes()).unwrap();
    let mut heard = String::new();
    let mut bytes = [0; 4096];
    while !heard.contains("PONG") {
        let length = wire.read(&mut bytes).unwrap();
        assert!(length > 0, "the server hangs up: {heard}");
        heard.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    let source = format!("type = \"nats\"\nstream = \"E\"\nurl = \"{url}\"\nuntil = \"end\"");
    let text =
        format!("{}[engine]\ncheckpoint = {{ path = \"state\" }}\n", deployment(&source, PRINT));
    let ending = scene.run(&text);
    assert!(ending.said.contains("panicked"), "{}", ending.said);
    let noted = fs::read_to_string(scene.directory.path().join("state/canary/panics")).unwrap();
    assert!(!noted.is_empty() && !noted.contains(CANARY), "{noted}");
}

const PRINT: &str = "type = \"print\"\nfrom = [\"events\"]";
const GENERATE: &str = "type = \"generate\"\ncount = 10";

fn deployment(source: &str, sink: &str) -> String {
    format!("name = \"canary\"\n[sources.events]\n{source}\n[sinks.out]\n{sink}\n")
}

/// A directory with contexts of the `nats` command line, and a port on which nobody listens.
struct Scene {
    directory: TempDir,
    /// Bound and never listened on by anybody else, so that connections are refused.
    port: u16,
}

struct Ending {
    code: Option<i32>,
    said: String,
}

impl Scene {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let contexts = directory.path().join("nats/context");
        fs::create_dir_all(&contexts).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let context = format!(
            r#"{{"url":"nats://127.0.0.1:{port}","user":"user","password":"{CANARY}","token":""}}"#
        );
        fs::write(contexts.join("canary.json"), context).unwrap();
        fs::write(contexts.join("broken.json"), format!("{{\"password\": {CANARY}}}")).unwrap();
        Self { directory, port }
    }

    /// Every command over a deployment that is right.
    fn check_all(&self, text: &str) {
        let checked = self.end(text, &["check"]);
        assert_eq!(checked.code, Some(0), "{text}\n{}", checked.said);
        self.end(text, &["check", "--connect"]);
        for format in ["text", "mermaid", "json"] {
            let explained = self.end(text, &["explain", "--format", format]);
            assert_eq!(explained.code, Some(0), "{text}\n{}", explained.said);
        }
        let run = self.end(text, &["run"]);
        assert!(run.said.contains("starting"), "{text}\n{}", run.said);
    }

    /// Every command over a deployment with findings.
    fn check_wrong(&self, text: &str) {
        for command in ["check", "explain", "run"] {
            let ending = self.end(text, &[command]);
            assert_eq!(ending.code, Some(1), "{text}\n{}", ending.said);
            assert!(ending.said.contains("error: "), "{text}\n{}", ending.said);
        }
    }

    /// Runs a deployment that ends by itself.
    fn run(&self, text: &str) -> Ending {
        self.watch(text, &["run"], DEADLINE)
    }

    fn end(&self, text: &str, arguments: &[&str]) -> Ending {
        self.watch(text, arguments, WATCHED)
    }

    /// Runs a command with every log line that there is.
    fn watch(&self, text: &str, arguments: &[&str], patience: Duration) -> Ending {
        let text = text.replace("{canary}", CANARY).replace("{port}", &self.port.to_string());
        let file = self.directory.path().join("canary.toml");
        fs::write(&file, &text).unwrap();
        let child = self.command(&file, arguments).spawn().expect("waterwheel starts");
        let ending = watch(child, patience);
        for part in [CANARY, &CANARY[3..40], &CANARY.to_lowercase()] {
            assert!(!ending.said.contains(part), "{arguments:?} of\n{text}\n{}", ending.said);
        }
        ending
    }

    fn command(&self, file: &Path, arguments: &[&str]) -> Command {
        let database = format!("postgres://user:{CANARY}@127.0.0.1:{}/analytics", self.port);
        let mut command = Command::new(env!("CARGO_BIN_EXE_waterwheel"));
        command
            .arg(arguments[0])
            .arg(file)
            .args(&arguments[1..])
            .current_dir(self.directory.path())
            .env("XDG_CONFIG_HOME", self.directory.path())
            .env("RUST_LOG", "trace")
            .env("CANARY", CANARY)
            .env("CANARY_URL", format!("nats://user:{CANARY}@127.0.0.1:{}", self.port))
            .env("CANARY_BAD_URL", format!("user:{CANARY}@h:port"))
            .env("CANARY_DATABASE", database)
            .env_remove("UNSET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// What a process says until it ends. A `run` never ends while its servers are down; it is watched
/// for a while after it has said that it starts.
fn watch(mut child: Child, patience: Duration) -> Ending {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let pipes: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    let readers = pipes.map(|mut pipe| {
        let heard = heard.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut bytes) {
                heard.lock().unwrap().extend_from_slice(&bytes[..length]);
            }
        })
    });
    let said = || String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    let began = Instant::now();
    let mut running_since = None;
    while child.try_wait().expect("a child can be asked").is_none() {
        if running_since.is_none() && said().contains("\"starting\"") {
            running_since = Some(Instant::now());
        }
        if running_since.is_some_and(|since| since.elapsed() > patience) {
            // It may have ended by itself in the meantime.
            let _ = child.kill();
        }
        assert!(began.elapsed() < DEADLINE, "it neither ends nor starts: {}", said());
        std::thread::sleep(Duration::from_millis(5));
    }
    let code = child.wait().expect("a child can be waited for").code();
    readers.into_iter().for_each(|reader| reader.join().expect("a reader does not panic"));
    Ending { code, said: said() }
}
