//! Secrets of a deployment: they come from the environment or from a file, and findings never show
//! them.

use crate::document::{Node, NodeKind};
use crate::finding::Span;
use crate::secret::is_secret_key;

use super::{Section, Spanned};

/// What stands before the path of a file that holds the value.
const FILE: &str = "file:";

const HELP: &str = "write `${NAME}` and set it in the environment, or `file:PATH`";

impl Section<'_> {
    /// A password, a token, or a URL that may hold one: as written, with `${NAME}` as everywhere, or
    /// what the file of `file:PATH` holds. One that stands in the deployment itself is a warning.
    pub fn secret(&self, key: &str) -> Option<Spanned<String>> {
        self.asked.borrow_mut().push(key.to_owned());
        let node = self.entry(key)?;
        let text = self.node_text(node, key)?;
        if let Some(path) = text.value.strip_prefix(FILE) {
            return self.secret_in(path, key, &text.span);
        }
        self.warn_of_clear(node, key);
        Some(text)
    }

    /// The same, of a key that must be there.
    pub fn required_secret(&self, key: &str) -> Option<Spanned<String>> {
        self.require(key)?;
        self.secret(key)
    }

    fn secret_in(&self, path: &str, key: &str, span: &Span) -> Option<Spanned<String>> {
        let file = self.beside(path);
        match std::fs::read_to_string(&file) {
            // Whoever writes such a file with an editor or `echo` ends its line.
            Ok(text) => Some(Spanned::new(text.trim_end_matches(['\r', '\n']).to_owned(), span)),
            Err(error) => {
                let message = format!("the file of `{key}` cannot be read: {error}");
                let help = format!("it is {}, beside the deployment", file.display());
                self.findings().error_help(span.clone(), message, help);
                None
            }
        }
    }

    fn warn_of_clear(&self, node: &Node, key: &str) {
        let NodeKind::Text(written) = &node.kind else { return };
        let secret = if is_secret_key(key) { Some(written.as_str()) } else { in_url(written) };
        // The path of a file is none: see the keys that take one.
        let is_path = key == "nkey" && written.contains(['/', '.']);
        if secret.is_some_and(|secret| !secret.is_empty() && !secret.contains("${")) && !is_path {
            let message = format!("a secret stands in the deployment: `{key}`");
            self.findings().warning(node.span.clone(), message, HELP);
        }
    }
}

/// The password or the token in a URL, in one of several with commas, or in libpq's words.
fn in_url(text: &str) -> Option<&str> {
    if let Some((_, rest)) = text.split_once("password=") {
        return rest.split([' ', '&']).next();
    }
    text.split(',').find_map(|url| {
        let (scheme, rest) = url.split_once("://")?;
        // People put characters into passwords that no URL may hold, so the last `@` counts.
        let (user, _) = rest.rsplit_once('@')?;
        match user.split_once(':') {
            Some((_, password)) => Some(password),
            // A user alone is a token to NATS, and no secret to Postgres.
            None => (!scheme.trim_start().starts_with("postgres")).then_some(user),
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::document::Document;

    /// What is read of a key, and the findings.
    fn read(toml: &str, path: &str, key: &str) -> (Option<String>, String) {
        let variable = |name: &str| (name == "PW").then(|| "hunter2".to_owned());
        let document = Document::parse(path, toml, Box::new(variable));
        let value = document.root().secret(key).map(|text| text.value);
        (value, document.render_findings(false))
    }

    #[test]
    fn what_stands_in_clear_is_warned_of_and_not_shown() {
        for (toml, is_clear) in [
            ("password = \"topsecret\"", true),
            ("password = \"${PW}\"", false),
            ("token = \"topsecret\"", true),
            ("nkey = \"SUTOPSECRET\"", true),
            ("nkey = \"~/user.nk\"", false),
            ("url = \"nats://h:4222\"", false),
            ("url = \"nats://topsecret@h:4222\"", true),
            ("url = \"nats://h:1,tls://u:topsecret@h:4222\"", true),
            ("url = \"nats://u:${PW}@h:4222\"", false),
            ("url = \"postgres://u:topsecret@h/d\"", true),
            ("url = \"postgres://u@h/d\"", false),
            ("url = \"host=h user=u password=topsecret dbname=d\"", true),
            ("url = \"host=h user=u password=${PW}\"", false),
        ] {
            let key = toml.split(' ').next().unwrap_or_default();
            let (value, findings) = read(toml, "t.toml", key);
            assert!(value.is_some(), "{toml}");
            assert_eq!(findings.starts_with("warning: a secret"), is_clear, "{toml}: {findings}");
            assert!(!findings.to_lowercase().contains("topsecret"), "{toml}: {findings}");
        }
    }

    #[test]
    fn a_file_holds_the_secret_beside_the_deployment() {
        let folder = std::env::temp_dir().join(format!("waterwheel-secret-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("pw"), "hunter2\n").unwrap();
        let path = folder.join("t.toml");
        let read_it = |toml| read(toml, &path.to_string_lossy(), "password");
        let (value, findings) = read_it("password = \"file:pw\"");
        assert_eq!((value.as_deref(), findings.as_str()), (Some("hunter2"), ""));
        let (value, findings) = read_it("password = \"file:gone\"");
        assert_eq!(value, None);
        assert!(findings.starts_with("error: the file of `password` cannot be read"), "{findings}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
