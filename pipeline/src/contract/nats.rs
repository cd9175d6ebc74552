//! The connection to NATS that the source and the sink share: settings, contexts, credentials.
//!
//! | key | means |
//! |---|---|
//! | `url` | one server or several with commas: `nats://host:4222,tls://user:password@host` |
//! | `context` | the name of a context of the `nats` command line; the other keys go before it |
//! | `creds` | a credentials file |
//! | `nkey` | a seed, or the path of a file that holds one |
//! | `user`, `password` | a login |
//! | `token` | a token |
//! | `tls` | `{ ca, cert, key, first, required }`: files in PEM, and two switches |
//!
//! Without `url` and `context` it is `$NATS_URL`, else the selected `nats` context, else
//! `nats://127.0.0.1:4222`. A login in the settings goes before one in the URL, and that before one
//! in the context.

pub mod api;
mod context;
pub mod subject;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{ClientError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use tokio::sync::watch;
use waterwheel_config::secret::Secret;
use waterwheel_config::section::Section;

use self::api::Api;
use super::fault::Fault;
use super::here::{INSECURE, is_here};

const DEFAULT_URL: &str = "nats://127.0.0.1:4222";

/// How long one server may take to answer a connect, and to answer a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest pause between two attempts to connect again.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// A login that was good and is refused so long will not be good again by itself.
const REFUSAL_BORNE: Duration = Duration::from_secs(5);

/// A full subscription drops messages without a word: large enough for all that a reader pulls.
const SUBSCRIPTION_CAPACITY: usize = 1 << 17;

/// What to do where a server on another machine offers no TLS.
const NEEDS_TLS: &str = "the server is on another machine: give it TLS (and name its authority in `tls = { ca = ... }`), or write \
    `insecure = true` beside `url` if everybody on the way may read and change what passes";

/// Where to connect and as whom, as the deployment says.
#[derive(Clone, Debug, Default)]
pub struct ConnectionSpec {
    settings: Settings,
    context: Option<String>,
}

/// What the deployment, a URL or a context may say; `None` leaves it to the next.
#[derive(Clone, Debug, Default)]
struct Settings {
    url: Option<Secret>,
    creds: Option<String>,
    nkey: Option<Secret>,
    user: Option<String>,
    password: Option<Secret>,
    token: Option<Secret>,
    user_jwt: Option<Secret>,
    user_seed: Option<Secret>,
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    tls_first: bool,
    tls_required: bool,
    insecure: bool,
    inbox_prefix: Option<String>,
    jetstream_domain: Option<String>,
    jetstream_api_prefix: Option<String>,
}

impl Settings {
    fn has_login(&self) -> bool {
        let secrets = [&self.nkey, &self.password, &self.token, &self.user_jwt];
        self.creds.is_some() || self.user.is_some() || secrets.iter().any(|it| it.is_some())
    }

    /// These settings, and what they leave open from `below`. A login is taken whole from one of
    /// the two: half of each would be nobody's.
    fn over(self, below: Self) -> Self {
        let login = if self.has_login() { self.clone() } else { below.clone() };
        Self {
            url: self.url.or(below.url),
            ca: self.ca.or(below.ca),
            cert: self.cert.or(below.cert),
            key: self.key.or(below.key),
            tls_first: self.tls_first || below.tls_first,
            tls_required: self.tls_required || below.tls_required,
            insecure: self.insecure || below.insecure,
            inbox_prefix: self.inbox_prefix.or(below.inbox_prefix),
            jetstream_domain: self.jetstream_domain.or(below.jetstream_domain),
            jetstream_api_prefix: self.jetstream_api_prefix.or(below.jetstream_api_prefix),
            ..login
        }
    }
}

/// Reads the keys of a connection from the table of a source or a sink.
pub fn read(section: &Section<'_>) -> Option<ConnectionSpec> {
    let findings_before = section.findings().errors();
    let secret = |key: &str| section.secret(key).map(|text| Secret::new(text.value));
    let text = |key: &str| section.text(key).map(|text| text.value);
    // Findings may show which server it is.
    let _ = section.node("url");
    let url = section.secret("url");
    if let Some(url) = &url
        && section.findings().errors() == findings_before
        && let Err(problem) = addresses(&url.value)
    {
        section.findings().error(url.span.clone(), problem);
    }
    let mut settings = Settings {
        url: url.map(|url| Secret::new(url.value)),
        creds: text("creds"),
        nkey: secret("nkey"),
        user: text("user"),
        password: secret("password"),
        token: secret("token"),
        insecure: section.boolean(INSECURE).is_some_and(|flag| flag.value),
        ..Settings::default()
    };
    check_login(section);
    if let Some(tls) = section.table("tls") {
        let file = |key: &str| tls.text(key).map(|text| text.value);
        (settings.ca, settings.cert, settings.key) = (file("ca"), file("cert"), file("key"));
        settings.tls_first = tls.boolean("first").is_some_and(|flag| flag.value);
        settings.tls_required = tls.boolean("required").is_some_and(|flag| flag.value);
        for (given, missing) in [("cert", "key"), ("key", "cert")] {
            if tls.has(given) && !tls.has(missing) {
                let message = "`cert` and `key` go together".to_owned();
                tls.missing(missing, tls.key_span(given), message, None);
            }
        }
        tls.finish();
    }
    let spec = ConnectionSpec { settings, context: text("context") };
    (section.findings().errors() == findings_before).then_some(spec)
}

fn check_login(section: &Section<'_>) {
    let ways = ["creds", "nkey", "user", "token"];
    let used: Vec<&str> = ways.into_iter().filter(|key| section.has(key)).collect();
    if let [_, second, ..] = used.as_slice() {
        section.findings().error_help(
            section.key_span(second),
            format!("there are several logins: `{}`", used.join("`, `")),
            "keep one of them",
        );
        return;
    }
    for (given, missing) in [("user", "password"), ("password", "user")] {
        if section.has(given) && !section.has(missing) {
            let message = "`user` and `password` go together".to_owned();
            section.missing(missing, section.key_span(given), message, None);
        }
    }
}

/// The servers of a list with commas, without the user parts.
fn addresses(url: &str) -> Result<Vec<ServerAddr>, String> {
    let parts: Vec<&str> = url.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err("the URL of the server is empty".to_owned());
    }
    parts.into_iter().map(|part| parse_url(part).map(|(address, _)| address)).collect()
}

/// A server and the login that its URL carries. The client library would print a URL with its
/// password when tracing, and does not use it, so the user part is taken out here.
fn parse_url(text: &str) -> Result<(ServerAddr, Settings), String> {
    let bad = |why: String| format!("`{text}` is no URL of a NATS server: {why}");
    let full = if text.contains("://") { text.to_owned() } else { format!("nats://{text}") };
    let mut url = url::Url::parse(&full).map_err(|error| bad(error.to_string()))?;
    if !["nats", "tls"].contains(&url.scheme()) {
        return Err(bad("it must begin with nats:// or tls://".to_owned()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("it names no host".to_owned()));
    }
    let mut login = Settings::default();
    if !url.username().is_empty() {
        let user = percent_decode(url.username());
        match url.password().map(percent_decode) {
            Some(password) => {
                login.user = Some(user);
                login.password = Some(Secret::new(password));
            }
            None => login.token = Some(Secret::new(user)),
        }
    }
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    cleared.map_err(|()| bad("its user part cannot be read".to_owned()))?;
    let address = ServerAddr::from_url(url).map_err(|error| bad(error.to_string()))?;
    Ok((address, login))
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = text
            .get(text.len() - after.len()..text.len() - after.len() + 2)
            .filter(|_| first == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl ConnectionSpec {
    /// The spec for one URL and nothing else.
    pub fn for_url(url: &str) -> Self {
        let settings = Settings { url: Some(Secret::new(url)), ..Settings::default() };
        Self { settings, context: None }
    }

    /// The servers as `host:port`, with no secret.
    pub fn describe(&self) -> String {
        match self.resolve(&process_environment) {
            Ok((servers, _)) => show(&servers),
            Err(_) => match &self.context {
                Some(context) => format!("the servers of context `{context}`"),
                None => "the servers of the selected nats context".to_owned(),
            },
        }
    }

    fn resolve(&self, environment: Environment<'_>) -> Result<(Vec<ServerAddr>, Settings), Fault> {
        let mut settings = self.settings.clone();
        if let Some(name) = &self.context {
            settings = settings.over(context::load(name, environment)?);
        }
        if settings.url.is_none() {
            settings.url = environment("NATS_URL").map(Secret::new);
            if settings.url.is_none()
                && self.context.is_none()
                && let Some(name) = context::selected(environment)
            {
                settings = settings.over(context::load(&name, environment)?);
            }
        }
        let url = settings.url.clone().unwrap_or_else(|| Secret::new(DEFAULT_URL));
        let servers = addresses(url.expose()).map_err(Fault::stop)?;
        let login = url
            .expose()
            .split(',')
            .filter_map(|part| parse_url(part.trim()).ok())
            .map(|(_, login)| login)
            .find(Settings::has_login);
        // A login beside the URL in the deployment is meant; one in a context is only a default.
        if !self.settings.has_login()
            && let Some(login) = login
        {
            settings = login.over(settings);
        }
        Ok((servers, settings))
    }
}

fn show(servers: &[ServerAddr]) -> String {
    let shown: Vec<String> =
        servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect();
    shown.join(",")
}

/// An open connection, which reconnects by itself.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client.
    pub client: async_nats::Client,
    /// The JetStream API over the client.
    pub api: Api,
    /// The servers as `host:port`.
    pub address: String,
    connects: watch::Receiver<u64>,
}

impl Connection {
    /// Changes with every new connection to a server: what was asked of the old one is gone.
    pub fn connects(&self) -> watch::Receiver<u64> {
        self.connects.clone()
    }

    /// Waits until a server is connected. Nothing is to be sent before: requests would queue up
    /// and all be made at once.
    ///
    /// # Errors
    /// The server is there and refuses the login, again and again.
    pub async fn connected(&self) -> Result<(), Fault> {
        self.api.connected().await.map_err(|refused| refused.fault("reconnecting"))
    }

    /// True while a server is connected.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

/// Connects; `name` is what the server's monitoring shows.
///
/// # Errors
/// Retry where no server answers, stop where one refuses the login or a file cannot be read.
pub async fn connect(spec: &ConnectionSpec, name: &str) -> Result<Connection, Fault> {
    let (servers, settings) = spec.resolve(&process_environment)?;
    let address = show(&servers);
    let (connected, connects) = watch::channel(0_u64);
    let heard = Arc::new(Mutex::new(Heard::default()));
    let needs_tls = !settings.insecure && servers.iter().any(|server| !is_here(server.host()));
    let options = authenticate(options(&settings, name, needs_tls), &settings)?;
    let options = options.event_callback({
        let (connected, heard) = (Arc::new(connected), heard.clone());
        move |event| {
            if matches!(event, Event::Connected) {
                connected.send_modify(|count| *count += 1);
            }
            heard.lock().unwrap_or_else(PoisonError::into_inner).note(&event);
            async {}
        }
    });
    // Which provider of cryptography is meant must not hang on the features of other crates.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let limit = PATIENCE * 2 * u32::try_from(servers.len()).unwrap_or(1);
    let client = match tokio::time::timeout(limit, options.connect(servers.as_slice())).await {
        Err(_) => return Err(Fault::retry(format!("no NATS server answers at {address}"))),
        Ok(Err(error)) => {
            let fault = connect_fault(&error, &address);
            return Err(match needs_tls && is_without_tls(&error) {
                true => Fault::stop(fault.message).help(NEEDS_TLS),
                false => fault,
            });
        }
        Ok(Ok(client)) => client,
    };
    let prefix = match (&settings.jetstream_api_prefix, &settings.jetstream_domain) {
        (Some(prefix), _) => prefix.trim_end_matches('.').to_owned(),
        (None, Some(domain)) => format!("$JS.{domain}.API"),
        (None, None) => "$JS.API".to_owned(),
    };
    let api = Api::new(client.clone(), prefix, address.clone(), connects.clone(), heard);
    Ok(Connection { client, api, address, connects })
}

/// What the server said that no request gets as its answer.
#[derive(Debug, Default)]
struct Heard {
    /// The last refusals of a right.
    denials: Vec<String>,
    /// Since when every attempt to connect again ends with the login being refused.
    refused_since: Option<Instant>,
}

impl Heard {
    fn note(&mut self, event: &Event) {
        const DENIALS_KEPT: usize = 16;
        match event {
            Event::ServerError(ServerError::Other(text)) if text.contains("ermissions") => {
                self.denials.push(text.clone());
                let surplus = self.denials.len().saturating_sub(DENIALS_KEPT);
                self.denials.drain(..surplus);
            }
            // The client goes on trying, and only says so here.
            Event::ClientError(ClientError::Other(text)) if text.contains("authorization") => {
                self.refused_since.get_or_insert_with(Instant::now);
            }
            Event::ClientError(_) | Event::Connected => self.refused_since = None,
            _ => {}
        }
    }

    fn is_refused(&self) -> bool {
        self.refused_since.is_some_and(|since| since.elapsed() >= REFUSAL_BORNE)
    }
}

/// The pause before an attempt to connect again. The library's own grows to four seconds, for which
/// everything would wait after the server is back.
fn reconnect_delay(attempts: usize) -> Duration {
    let doubled = Duration::from_millis(1) * 2_u32.saturating_pow(attempts.min(16) as u32);
    if attempts == 0 { Duration::ZERO } else { doubled.min(RECONNECT_PAUSE_MAX) }
}

fn options(settings: &Settings, name: &str, needs_tls: bool) -> ConnectOptions {
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(PATIENCE)
        .request_timeout(Some(PATIENCE))
        .ping_interval(Duration::from_secs(10))
        .reconnect_delay_callback(reconnect_delay)
        .subscription_capacity(SUBSCRIPTION_CAPACITY);
    if let Some(ca) = &settings.ca {
        options = options.add_root_certificates(ca.into());
    }
    if let (Some(cert), Some(key)) = (&settings.cert, &settings.key) {
        options = options.add_client_certificate(cert.into(), key.into());
    }
    if settings.tls_first {
        options = options.tls_first();
    }
    if let Some(prefix) = &settings.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    options.require_tls(settings.tls_required || settings.tls_first || needs_tls)
}

fn authenticate(options: ConnectOptions, settings: &Settings) -> Result<ConnectOptions, Fault> {
    if let Some(path) = &settings.creds {
        let path = context::home_path(path, &process_environment);
        let unusable = |error| Fault::stop(format!("credentials file {path}: {error}"));
        let text = std::fs::read_to_string(&path).map_err(unusable)?;
        return options.credentials(&text).map_err(unusable);
    }
    if let (Some(jwt), Some(seed)) = (&settings.user_jwt, &settings.user_seed) {
        let (jwt, seed) = (jwt.expose(), seed.expose());
        let text = format!(
            "-----JWT-----\n{jwt}\n-----END-----\n\n-----SEED-----\n{seed}\n-----END-----\n"
        );
        return options.credentials(&text).map_err(|error| {
            Fault::stop(format!("user_jwt and user_seed of the context: {error}"))
        });
    }
    if let Some(nkey) = &settings.nkey {
        return Ok(options.nkey(read_seed(nkey)?));
    }
    if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
        return Ok(options.user_and_password(user.clone(), password.expose().to_owned()));
    }
    Ok(match &settings.token {
        Some(token) => options.token(token.expose().to_owned()),
        None => options,
    })
}

/// A seed as written, or the first one in the file of that path.
fn read_seed(nkey: &Secret) -> Result<String, Fault> {
    let is_seed = |text: &str| {
        text.len() == 58
            && text.starts_with("SU")
            && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    let written = nkey.expose().trim();
    if is_seed(written) {
        return Ok(written.to_owned());
    }
    let path = context::home_path(written, &process_environment);
    // The text may be a mistyped seed, so it is not shown.
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Fault::stop(format!("`nkey` is neither a user seed nor a file: {error}"))
    })?;
    text.split_whitespace()
        .find(|word| is_seed(word))
        .map(str::to_owned)
        .ok_or_else(|| Fault::stop("the file that `nkey` names holds no user seed"))
}

/// True where a server answered the handshake with plain text, or with a certificate that nobody
/// vouches for.
fn is_without_tls(error: &async_nats::ConnectError) -> bool {
    let said = error.to_string();
    error.kind() == ConnectErrorKind::Tls || said.contains("InvalidContentType")
}

fn login_refused(address: &str) -> Fault {
    Fault::stop(format!("the NATS server at {address} refuses the login"))
        .help("check user, password, token, nkey or creds of the connection")
}

fn connect_fault(error: &async_nats::ConnectError, address: &str) -> Fault {
    let said = error.to_string().to_lowercase();
    let refused = ["authorization", "authentication", "certificate"];
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            login_refused(address)
        }
        ConnectErrorKind::Tls | ConnectErrorKind::ServerParse => {
            Fault::stop(format!("cannot connect to NATS at {address}: {error}"))
        }
        _ if refused.iter().any(|word| said.contains(word)) => {
            Fault::stop(format!("cannot connect to NATS at {address}: {error}"))
        }
        _ => Fault::retry(format!("cannot connect to NATS at {address}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waterwheel_config::document::Document;

    fn plan(source: &str) -> (Option<ConnectionSpec>, String) {
        let document = Document::parse("t.toml", source, Box::new(|_| None));
        let root = document.root();
        let spec = read(&root);
        root.finish();
        (spec, document.render_findings(false))
    }

    fn resolve(spec: &ConnectionSpec, variables: &[(&str, &str)]) -> (String, Settings) {
        let environment = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let (servers, settings) = spec.resolve(&environment).unwrap();
        (show(&servers), settings)
    }

    #[test]
    fn urls_carry_servers_and_a_login() {
        let (spec, text) = plan("url = \"nats://bob:${PW:-p%40ss}@a:1, b\"");
        assert_eq!(text, "");
        let spec = spec.unwrap();
        let (servers, settings) = resolve(&spec, &[]);
        assert_eq!(servers, "a:1,b:4222");
        assert_eq!(settings.user.as_deref(), Some("bob"));
        assert_eq!(settings.password.unwrap().expose(), "p@ss");
        assert_eq!(spec.describe(), "a:1,b:4222");
        assert!(!format!("{spec:?}").contains("bob"));

        let (_, settings) = resolve(&ConnectionSpec::for_url("tls://s3cret@h"), &[]);
        assert_eq!(settings.token.unwrap().expose(), "s3cret");
    }

    #[test]
    fn wrong_settings_are_findings() {
        for (source, part) in [
            ("url = \"http://h\"", "nats:// or tls://"),
            ("url = \" \"", "is empty"),
            ("user = \"u\"", "go together"),
            ("token = \"t\"\ncreds = \"c\"", "several logins"),
            ("tls = { cert = \"c\" }", "go together"),
            ("tls = { vert = \"c\" }", "did you mean `cert`?"),
        ] {
            let (_, text) = plan(source);
            assert!(text.contains(part), "{source}: {text}");
        }
        let (_, text) = plan("url = \"ftp://bob:hunter2@h\"");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_url_comes_from_the_environment_then_from_the_selected_context() {
        let home = tempfile::tempdir().unwrap();
        let contexts = home.path().join("nats/context");
        std::fs::create_dir_all(&contexts).unwrap();
        std::fs::write(home.path().join("nats/context.txt"), "prod\n").unwrap();
        let prod = r#"{"url":"nats://prod:4333","user":"u","password":"p","tls_first":true,
            "jetstream_domain":"hub","inbox_prefix":"_I","ca":"","nsc":"","color_scheme":""}"#;
        std::fs::write(contexts.join("prod.json"), prod).unwrap();
        let config = home.path().to_str().unwrap();

        let spec = ConnectionSpec::default();
        assert_eq!(resolve(&spec, &[("HOME", "/nonexistent")]).0, "127.0.0.1:4222");
        let (servers, settings) = resolve(&spec, &[("XDG_CONFIG_HOME", config)]);
        assert_eq!(servers, "prod:4333");
        assert_eq!(settings.user.as_deref(), Some("u"));
        assert_eq!(settings.ca, None);
        assert_eq!(settings.jetstream_domain.as_deref(), Some("hub"));
        assert!(settings.tls_first);

        let variables = [("XDG_CONFIG_HOME", config), ("NATS_URL", "e:1")];
        let (servers, settings) = resolve(&spec, &variables);
        assert_eq!((servers.as_str(), settings.user), ("e:1", None));

        // A login in the deployment replaces the context's whole login.
        let (named, text) = plan("context = \"prod\"\ntoken = \"${T:-t}\"");
        assert_eq!(text, "");
        let (servers, settings) = resolve(&named.unwrap(), &[("XDG_CONFIG_HOME", config)]);
        assert_eq!((servers.as_str(), settings.user), ("prod:4333", None));

        let missing = ConnectionSpec { context: Some("pord".to_owned()), ..spec };
        let environment = |name: &str| (name == "XDG_CONFIG_HOME").then(|| config.to_owned());
        let fault = missing.resolve(&environment).unwrap_err();
        assert!(fault.help.unwrap().contains("`prod`"), "{}", fault.message);
    }

    #[test]
    fn a_mistyped_seed_is_not_shown() {
        let fault = read_seed(&Secret::new("SUAMISTYPEDSEED")).unwrap_err();
        assert!(!fault.message.contains("MISTYPED"), "{fault}");
    }

    #[test]
    fn a_login_is_refused_only_while_nothing_else_is_heard() {
        let other = |text: &str| Event::ClientError(ClientError::Other(text.to_owned()));
        let mut heard = Heard::default();
        heard.note(&other("authorization violation"));
        assert!(heard.refused_since.is_some() && !heard.is_refused(), "it may be passing");
        heard.refused_since = heard.refused_since.and_then(|at| at.checked_sub(REFUSAL_BORNE));
        heard.note(&other("authorization violation"));
        assert!(heard.is_refused());
        for event in [other("IO error"), Event::Connected] {
            heard.note(&other("authorization violation"));
            heard.note(&event);
            assert!(heard.refused_since.is_none(), "{event}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_waited_for() {
        // The port is taken and closed again, so nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let spec = ConnectionSpec::for_url(&format!("nats://u:hunter2@127.0.0.1:{port}"));
        let fault = connect(&spec, "test").await.unwrap_err();
        assert_eq!(fault.remedy, super::super::fault::Remedy::Retry);
        assert!(!fault.message.contains("hunter2"), "{fault}");
    }
}
