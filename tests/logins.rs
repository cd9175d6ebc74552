//! Logins that a URL cannot carry: an nkey, a credentials file, and TLS on both sides.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::accounts::{Operator, User};
use crate::support::nats_server::NatsServer;
use crate::support::stream::{block_on, create, publish};
use crate::support::wait_until;
use crate::support::waterwheel::Deployment;

/// A user made for this test, and known to the whole world now.
const NKEY_SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const NKEY_PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

fn deployment(directory: &Path, connection: &str) -> Deployment {
    let text = format!(
        r#"
name = "logins"

[sources.events]
type = "nats"
{connection}
stream = "EVENTS"
until = "${{UNTIL:-final}}"

[sinks.screen]
type = "print"
from = ["events"]
"#
    );
    Deployment::new(&directory.join("run"), &text)
}

/// Five events by a client of its own, then waterwheel reads them with `connection`.
fn reads_five(directory: &Path, client: async_nats::ConnectOptions, url: &str, connection: &str) {
    block_on(async {
        let client = client.connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        let context = async_nats::jetstream::new(client);
        create(&context, "EVENTS", "events").await;
        publish(&context, "events.a", (0..5).map(|n| format!("{{\"n\":{n}}}").into_bytes())).await;
    });
    let ending = deployment(directory, connection).run();
    assert_eq!(ending.stdout.lines().count(), 5, "{}", ending.stdout);
}

#[test]
fn an_nkey_logs_in_and_nothing_else_does() {
    let directory = TempDir::new().unwrap();
    let config = format!("authorization {{ users: [ {{ nkey: {NKEY_PUBLIC} }} ] }}\n");
    let nats = NatsServer::start_with(&config);
    let client = async_nats::ConnectOptions::with_nkey(NKEY_SEED.to_owned());
    let connection = format!("url = \"{}\"\nnkey = \"{NKEY_SEED}\"", nats.url());
    reads_five(directory.path(), client, &nats.url(), &connection);
    let refused = deployment(directory.path(), &format!("url = \"{}\"", nats.url())).start().wait();
    assert_eq!(refused.status.code(), Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("refuses the login"), "{}", refused.stderr);
}

#[test]
fn a_credentials_file_logs_in_and_a_wrong_one_does_not() {
    let directory = TempDir::new().unwrap();
    let (operator, stranger) = (Operator::new(), Operator::new());
    let nats = NatsServer::start_with(&operator.server_config());
    let user = operator.user();
    let connection = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        format!("url = \"{}\"\ncreds = \"{}\"", nats.url(), file.display())
    };
    let good = connection("user.creds", &user.credentials());
    let client = async_nats::ConnectOptions::with_credentials(&user.credentials()).unwrap();
    reads_five(directory.path(), client, &nats.url(), &good);

    let foreign = stranger.user();
    let of_another = User { token: user.token.clone(), seed: operator.user().seed };
    let mistyped = User { token: user.token.clone(), seed: format!("{}A", user.seed) };
    for (what, wrong, message) in [
        ("of a stranger's account", &foreign, "refuses the login"),
        ("with the seed of another user", &of_another, "refuses the login"),
        ("with a mistyped seed", &mistyped, "credentials file"),
    ] {
        let connection = connection("wrong.creds", &wrong.credentials());
        let refused = deployment(directory.path(), &connection).start().wait();
        let output = format!("{}{}", refused.stdout, refused.stderr);
        assert_eq!(refused.status.code(), Some(4), "{what}: {output}");
        assert!(refused.stderr.contains(message), "{what}: {output}");
        let signature = wrong.token.rsplit('.').next().unwrap();
        assert!(!output.contains(&wrong.seed) && !output.contains(signature), "{what}: {output}");
    }
}

#[test]
fn both_sides_show_a_certificate() {
    let directory = TempDir::new().unwrap();
    let at = |file: &str| directory.path().join(file).display().to_string();
    certificates(directory.path());
    let config = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}\n",
        at("server.pem"),
        at("server.key"),
        at("ca.pem")
    );
    let nats = NatsServer::start_with(&config);
    let url = nats.url().replace("nats://", "tls://");
    let client = async_nats::ConnectOptions::new()
        .add_root_certificates(at("ca.pem").into())
        .add_client_certificate(at("client.pem").into(), at("client.key").into());
    let connection = format!(
        "url = \"{url}\"\ntls = {{ ca = \"{}\", cert = \"{}\", key = \"{}\" }}",
        at("ca.pem"),
        at("client.pem"),
        at("client.key")
    );
    reads_five(directory.path(), client, &url, &connection);
}

/// A login that worked at the start and is refused when the connection comes back is no outage.
#[test]
fn a_login_that_is_taken_away_ends_the_run() {
    let directory = TempDir::new().unwrap();
    let login = |password: &str| format!("authorization {{ user: u, password: {password} }}\n");
    let mut nats = NatsServer::start_with(&login("one"));
    let connection = format!("url = \"{}\"", nats.url_as("u:one"));
    let client = async_nats::ConnectOptions::with_user_and_password("u".into(), "one".into());
    reads_five(directory.path(), client, &nats.url(), &connection);
    let mut running = deployment(directory.path(), &connection).set("UNTIL", "forever").start();
    wait_until("it reads", || running.printed().lines().count() >= 5 || running.has_ended());
    running.assert_running();
    nats.kill();
    nats.reconfigure(&login("two"));
    nats.restart();
    let ending = running.wait();
    assert_eq!(ending.status.code(), Some(4), "{}", ending.stderr);
    assert!(ending.stderr.contains("refuses the login"), "{}", ending.stderr);
}

/// A CA, and a certificate by it for the server and one for the client.
fn certificates(directory: &Path) {
    openssl(directory, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca");
    for (name, extension) in [
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("client", "extendedKeyUsage=clientAuth"),
    ] {
        std::fs::write(directory.join("extension"), extension).unwrap();
        openssl(
            directory,
            &format!(
                "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ),
        );
        openssl(
            directory,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem \
                 -extfile extension"
            ),
        );
    }
}

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .expect("openssl makes the certificates: install it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
