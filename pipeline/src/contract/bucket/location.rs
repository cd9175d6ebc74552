//! Where a setting `path` leads: a directory, or a bucket.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use url::Url;
use waterwheel_config::secret::redact;
use waterwheel_config::section::{Section, Spanned};

use super::{Bucket, PATIENCE};
use crate::contract::here::{INSECURE, is_here};

/// Where files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Directory(PathBuf),
    /// In an object store.
    Bucket(Bucket),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

/// Reads `path` and `insecure`; everything wrong becomes a finding. `example` is a directory.
pub fn place(section: &Section<'_>, example: &str) -> Option<Place> {
    let path = section.required_text("path");
    let insecure = section.boolean(INSECURE);
    let findings = section.findings();
    let path = path?;
    let help = format!("name a directory, such as \"{example}\"");
    if path.value.is_empty() {
        findings.error_help(path.span, "`path` is empty", help);
        return None;
    }
    let Some((scheme, _)) = path.value.split_once("://") else {
        if let Some(insecure) = insecure {
            let message = "`insecure` is about servers: a directory has none";
            findings.error_help(insecure.span, message, "leave it out");
        }
        return Some(Place::Directory(PathBuf::from(&path.value)));
    };
    if !["s3", "gs", "az"].contains(&scheme) {
        let message = format!("`{scheme}://` is not a place for files");
        findings.error_help(path.span, message, help);
        return None;
    }
    match open(&path, insecure.is_some_and(|insecure| insecure.value)) {
        Ok(bucket) => {
            if scheme != "s3" {
                let message = format!(
                    "`{scheme}://` is written to as `s3://` is, but has been tried far less"
                );
                let help = "of object stores, only those with the interface of S3 have been tested under \
                            kills and takeovers";
                findings.warning(path.span, message, help);
            }
            Some(Place::Bucket(bucket))
        }
        Err((message, help)) => {
            match help {
                Some(help) => findings.error_help(path.span, message, help),
                None => findings.error(path.span, message),
            }
            None
        }
    }
}

/// A problem, and what to do about it.
type Problem = (String, Option<String>);

/// Makes what the settings and the environment say ready to be used; nothing is connected to yet.
fn open(path: &Spanned<String>, insecure: bool) -> Result<Bucket, Problem> {
    let text = path.value.trim_end_matches('/');
    let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err((format!("`{}` names no bucket", path.value), None));
    }
    if bucket.contains(['@', '?', '#', ':']) {
        let message = "`path` holds more than a bucket and a prefix".to_owned();
        let help = "credentials and the endpoint come from the environment: AWS_ACCESS_KEY_ID, ...";
        return Err((message, Some(help.to_owned())));
    }
    if Path::parse(prefix).is_err() {
        return Err((format!("`{prefix}` cannot name objects in a bucket"), None));
    }
    // Which provider of cryptography is meant must not hang on the features of other crates.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = match scheme {
        "s3" => s3(bucket, insecure),
        "gs" => gs(bucket, insecure),
        _ => az(bucket, insecure),
    }?;
    Ok(Bucket { store, prefix: prefix.to_owned(), url: text.to_owned() })
}

type Store = Arc<dyn ObjectStore>;

fn s3(bucket: &str, insecure: bool) -> Result<Store, Problem> {
    let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retries());
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let allow = is_plain(endpoint.as_deref(), "AWS_ENDPOINT_URL", insecure)?;
    built(builder.with_allow_http(allow).build())
}

fn gs(bucket: &str, insecure: bool) -> Result<Store, Problem> {
    let builder =
        GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retries());
    let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    let allow = is_plain(endpoint.as_deref(), "GOOGLE_BASE_URL", insecure)?;
    let key = GoogleConfigKey::Client(ClientConfigKey::AllowHttp);
    built(builder.with_config(key, allow.to_string()).build())
}

fn az(container: &str, insecure: bool) -> Result<Store, Problem> {
    let builder =
        MicrosoftAzureBuilder::from_env().with_container_name(container).with_retry(retries());
    let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
    let allow = is_plain(endpoint.as_deref(), "AZURE_ENDPOINT", insecure)?;
    built(builder.with_allow_http(allow).build())
}

fn built(store: object_store::Result<impl ObjectStore>) -> Result<Store, Problem> {
    match store {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => {
            let message = match &error {
                object_store::Error::Generic { source, .. } => source.to_string(),
                other => other.to_string(),
            };
            let help =
                "the object store is described by the environment: AWS_*, GOOGLE_* or AZURE_*";
            let message = redact(&format!("the object store cannot be used: {message}"));
            Err((message, Some(help.to_owned())))
        }
    }
}

/// True for an endpoint without TLS: one on this machine, or one that is wanted so.
fn is_plain(endpoint: Option<&str>, variable: &str, insecure: bool) -> Result<bool, Problem> {
    let Some(endpoint) = endpoint else { return Ok(false) };
    let Ok(url) = Url::parse(endpoint) else {
        return Err((format!("{variable} is not a URL"), None));
    };
    let is_here = url.host_str().is_some_and(is_here);
    match url.scheme() {
        "https" => Ok(false),
        "http" if is_here || insecure => Ok(true),
        "http" => {
            let host = url.host_str().unwrap_or_default();
            let message = format!("{variable} leads to `{host}` without TLS");
            let help = "use https, or write `insecure = true` beside `path` if everybody on the \
                        way may read and change what is stored";
            Err((message, Some(help.to_owned())))
        }
        other => Err((format!("{variable} has the scheme `{other}`; use https"), None)),
    }
}

/// A store that is busy for a moment is asked again at once; what lasts is the pipeline's to wait for.
fn retries() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries: 8, retry_timeout: PATIENCE }
}
