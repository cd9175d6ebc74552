//! Contexts of the `nats` command line: named connections in files of the user.

use std::path::PathBuf;

use serde::Deserialize;
use waterwheel_config::names::nearest;
use waterwheel_config::secret::Secret;

use super::super::fault::Fault;
use super::{Environment, Settings};

/// The file of a context; what waterwheel has no use for is left out.
#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    url: String,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    user_jwt: String,
    user_seed: String,
    tls_first: bool,
    inbox_prefix: String,
    jetstream_domain: String,
    jetstream_api_prefix: String,
}

fn directory(environment: Environment<'_>) -> Option<PathBuf> {
    let config = environment("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(config.join("nats"))
}

/// The name of the selected context, if one is selected.
pub(super) fn selected(environment: Environment<'_>) -> Option<String> {
    let text = std::fs::read_to_string(directory(environment)?.join("context.txt")).ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The settings of a context.
pub(super) fn load(name: &str, environment: Environment<'_>) -> Result<Settings, Fault> {
    let contexts = directory(environment)
        .map(|directory| directory.join("context"))
        .ok_or_else(|| Fault::stop(format!("nats context `{name}`: $HOME is not set")))?;
    let path = contexts.join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let fault = Fault::stop(format!("nats context `{name}`: {}: {error}", path.display()));
        let known: Vec<String> = std::fs::read_dir(&contexts)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|file| file.strip_suffix(".json").map(str::to_owned))
            .collect();
        match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => fault.help(format!("did you mean `{near}`?")),
            None => fault.help("`nats context ls` lists the contexts"),
        }
    })?;
    // An error of the parser may quote the file, which holds secrets: its place is enough.
    let file: File = serde_json::from_str(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Fault::stop(format!("nats context `{name}` is not valid JSON at {line}:{column}"))
    })?;
    let text = |value: String| Some(value).filter(|value| !value.is_empty());
    let secret = |value: String| text(value).map(Secret::new);
    let path = |value: String| text(value).map(|value| home_path(&value, environment));
    // The command line gives both names to one value, so a user without password is a token.
    let (user, password) = (text(file.user), secret(file.password));
    let (user, lone_user) = if password.is_some() { (user, None) } else { (None, user) };
    Ok(Settings {
        url: secret(file.url),
        creds: path(file.creds),
        nkey: path(file.nkey).map(Secret::new),
        user,
        password,
        token: secret(file.token).or(lone_user.map(Secret::new)),
        user_jwt: secret(file.user_jwt),
        user_seed: secret(file.user_seed),
        ca: path(file.ca),
        cert: path(file.cert),
        key: path(file.key),
        tls_first: file.tls_first,
        tls_required: false,
        insecure: false,
        inbox_prefix: text(file.inbox_prefix),
        jetstream_domain: text(file.jetstream_domain),
        jetstream_api_prefix: text(file.jetstream_api_prefix),
    })
}

/// A path with a leading `~/` replaced by the home directory.
pub(super) fn home_path(path: &str, environment: Environment<'_>) -> String {
    match (path.strip_prefix("~/"), environment("HOME")) {
        (Some(rest), Some(home)) => format!("{home}/{rest}"),
        _ => path.to_owned(),
    }
}
