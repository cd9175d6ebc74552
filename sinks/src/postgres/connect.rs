//! The way to the server: the URL, TLS, the connection and its session settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use waterwheel_pipeline::contract::fault::Fault;
use waterwheel_pipeline::contract::here::is_here;

use super::fault::{connect_fault, fault};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Only names that are written with their schema are found, so that no role's `search_path` can
/// lead a statement astray. A session that stands still inside a transaction ends by itself before
/// whoever waits for its lock gives up. Commits are durable when they are acknowledged, whatever
/// the role's default says.
const SESSION: &str = "
    SET search_path = pg_catalog, pg_temp;
    SET timezone = 'UTC';
    SET jit = off;
    SET statement_timeout = 0;
    SET idle_session_timeout = 0;
    SET idle_in_transaction_session_timeout = '10s';
    SET lock_timeout = '15s';
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'";

/// A server and a database, and how to reach them.
#[derive(Clone, Debug)]
pub(super) struct Address {
    config: Config,
    tls_ca: Option<PathBuf>,
    /// `host:port/database`, for people: no user, no password.
    pub(super) shown: String,
}

impl Address {
    /// Reads the URL. The error is a sentence for a finding, and quotes nothing of the URL.
    /// Off this machine TLS is required, unless `insecure` says that it need not be.
    pub(super) fn parse(
        url: &str,
        tls_ca: Option<PathBuf>,
        insecure: bool,
    ) -> Result<Self, String> {
        if !url.starts_with("postgres://")
            && !url.starts_with("postgresql://")
            && !url.contains('=')
        {
            return Err("`url` is not a Postgres URL: it must begin with postgres://".to_owned());
        }
        // Our `require` verifies, so that libpq's stricter words mean the same.
        let url = ["verify-full", "verify-ca"].iter().fold(url.to_owned(), |url, word| {
            url.replace(&format!("sslmode={word}"), "sslmode=require")
        });
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("`url` is not a Postgres URL: {}", cause.unwrap_or_else(|| error.to_string()))
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("`url` names no host".to_owned());
        }
        if tls_ca.is_some() {
            if config.get_ssl_mode() == SslMode::Disable {
                return Err("`tls_ca` asks for TLS, but `url` says sslmode=disable".to_owned());
            }
            config.ssl_mode(SslMode::Require);
        }
        if !insecure && let Some(host) = elsewhere(&config) {
            if config.get_ssl_mode() == SslMode::Disable {
                return Err(format!(
                    "`url` says sslmode=disable, and {host} is another machine: leave that out, or \
                     write `insecure = true` if everybody on the way may read and change what passes"
                ));
            }
            config.ssl_mode(SslMode::Require);
        }
        config.connect_timeout(CONNECT_TIMEOUT);
        if !url.contains("keepalives") {
            config.keepalives_idle(Duration::from_secs(10));
            config.keepalives_interval(Duration::from_secs(5));
            config.keepalives_retries(3);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(30));
        }
        let shown = shown(&config);
        Ok(Self { config, tls_ca, shown })
    }

    /// Connects, and refuses a server that cannot do what the sink needs.
    pub(super) async fn connect(&self, application: &str) -> Result<Connection, Fault> {
        let mut config = self.config.clone();
        if config.get_application_name().is_none() {
            config.application_name(application);
        }
        let tls = MakeRustlsConnect::new(self.tls()?);
        // The library's own timeout ends with the TCP handshake; a server that accepts and then
        // says nothing is found here.
        let Ok(connected) = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(tls)).await else {
            let seconds = CONNECT_TIMEOUT.as_secs();
            let message = format!("postgres at {} gave no answer in {seconds} s", self.shown);
            return Err(Fault::retry(message));
        };
        let (client, driver) = connected.map_err(|error| connect_fault(&error, &self.shown))?;
        // The library does its reading and writing in a future of its own; it ends with the client.
        let driver = Driver(tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "the connection to postgres ended");
            }
        }));
        let connection = Connection { client, driver };
        let what = || format!("postgres at {}", self.shown);
        self.check_server(&connection.client).await?;
        connection.client.batch_execute(SESSION).await.map_err(|error| fault(&error, what()))?;
        Ok(connection)
    }

    async fn check_server(&self, client: &Client) -> Result<(), Fault> {
        let asked = "SELECT current_setting('server_version_num')::int, \
             current_setting('server_version'), current_setting('server_encoding')";
        let what = format!("postgres at {}", self.shown);
        let row = client.query_one(asked, &[]).await.map_err(|error| fault(&error, &what))?;
        let (number, version, encoding): (i32, &str, &str) = (row.get(0), row.get(1), row.get(2));
        if number < 150_000 {
            return Err(Fault::stop(format_args!("{what} is version {version}"))
                .help("use Postgres 15 or later: keys with NULLs need its NULLS NOT DISTINCT"));
        }
        if encoding != "UTF8" {
            return Err(Fault::stop(format_args!("{what} stores text as {encoding}"))
                .help("use a database with the encoding UTF8: others cannot hold every text"));
        }
        Ok(())
    }

    fn tls(&self) -> Result<ClientConfig, Fault> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Fault::stop(format_args!("TLS cannot be set up: {error}")))?;
        if self.config.get_ssl_mode() != SslMode::Require {
            // `prefer` takes plain text where the server offers no TLS, so it promises nothing that
            // a certificate could keep; as in libpq it encrypts where it can.
            let verifier = Arc::new(Unverified(provider));
            let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
            return Ok(builder.with_no_client_auth());
        }
        Ok(builder.with_root_certificates(self.roots()?).with_no_client_auth())
    }

    fn roots(&self) -> Result<RootCertStore, Fault> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.tls_ca else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        };
        let unusable = |error: &dyn std::fmt::Display| {
            Fault::stop(format_args!("`tls_ca`: {} cannot be used: {error}", path.display()))
                .help("name a PEM file with the certificate of the authority")
        };
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unusable(&error))?;
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
        if roots.is_empty() {
            return Err(unusable(&"it holds no certificate"));
        }
        Ok(roots)
    }
}

/// The first host that is not this machine.
fn elsewhere(config: &Config) -> Option<String> {
    let names = config.get_hosts().iter().filter_map(|host| match host {
        Host::Tcp(name) => Some(name.clone()),
        Host::Unix(_) => None,
    });
    let addresses = config.get_hostaddrs().iter().map(ToString::to_string);
    // Where there are both, the address is where it goes.
    let mut all: Vec<String> = addresses.collect();
    if all.is_empty() {
        all = names.collect();
    }
    all.into_iter().find(|host| !is_here(host))
}

fn shown(config: &Config) -> String {
    let ports = config.get_ports();
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
    let name = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let mut hosts: Vec<String> = config.get_hosts().iter().map(name).collect();
    if hosts.is_empty() {
        hosts = config.get_hostaddrs().iter().map(ToString::to_string).collect();
    }
    let hosts: Vec<String> =
        hosts.iter().enumerate().map(|(at, host)| format!("{host}:{}", port(at))).collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or("(default)");
    format!("{}/{database}", hosts.join(","))
}

/// A connection and the task that drives it; dropping it cuts the connection.
pub(super) struct Connection {
    pub(super) client: Client,
    driver: Driver,
}

impl Connection {
    /// Says goodbye to the server, which otherwise logs a lost connection.
    pub(super) async fn close(self) {
        let Self { client, mut driver } = self;
        drop(client);
        // Nothing depends on the goodbye being heard.
        let _ = tokio::time::timeout(Duration::from_secs(2), &mut driver.0).await;
    }
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Accepts every certificate, for `sslmode=prefer`.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_user_and_password() {
        for (url, shown) in [
            ("postgres://u:pw@db.example:5433/shop", "db.example:5433/shop"),
            ("postgres://u:pw@a,b:5433/shop?sslmode=verify-full", "a:5432,b:5433/shop"),
            ("host=/run/pg user=me password=pw", "/run/pg:5432/me"),
        ] {
            assert_eq!(Address::parse(url, None, false).expect(url).shown, shown);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_quoting_it() {
        for (url, wrong) in [
            ("mysql://u:pw@h/d", "Postgres URL"),
            ("postgres://u:pw@h/d?sslmode=perhaps", "sslmode"),
            ("postgres://u:pw@h/d?sslrootcert=x", "sslrootcert"),
            ("user=u password=pw", "no host"),
        ] {
            let error = Address::parse(url, None, false).expect_err(url);
            assert!(error.contains(wrong), "{error}");
            assert!(!error.contains("pw"), "{error}");
        }
        let contradiction =
            Address::parse("postgres://localhost/d?sslmode=disable", Some("ca".into()), false);
        assert!(contradiction.expect_err("a contradiction").contains("tls_ca"));
    }
    #[test]
    fn off_this_machine_tls_is_required() {
        for (url, insecure, mode) in [
            ("postgres://localhost/d", false, SslMode::Prefer),
            ("postgres://[::1]/d?sslmode=disable", false, SslMode::Disable),
            ("host=/run/pg user=me", false, SslMode::Prefer),
            ("host=db hostaddr=127.0.0.1 user=me", false, SslMode::Prefer),
            ("postgres://db.internal/d", false, SslMode::Require),
            ("postgres://localhost,db.internal/d", false, SslMode::Require),
            ("postgres://10.0.0.7/d?sslmode=prefer", false, SslMode::Require),
            ("postgres://db.internal/d", true, SslMode::Prefer),
            ("postgres://db.internal/d?sslmode=disable", true, SslMode::Disable),
        ] {
            let address = Address::parse(url, None, insecure).expect(url);
            assert_eq!(address.config.get_ssl_mode(), mode, "{url}");
        }
        let refused = Address::parse("postgres://u:pw@db.internal/d?sslmode=disable", None, false);
        let refused = refused.expect_err("no TLS");
        assert!(refused.contains("db.internal is another machine"), "{refused}");
    }
}
