//! Logins of NATS's decentralised authentication: an operator vouches for accounts and an account for
//! its users, each with a signed token of claims, as `nsc` makes them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// An operator with an account for its servers and one for its users.
pub(crate) struct Operator {
    key: KeyPair,
    system: KeyPair,
    account: KeyPair,
}

impl Operator {
    /// An operator with new keys.
    pub(crate) fn new() -> Self {
        let (system, account) = (KeyPair::new_account(), KeyPair::new_account());
        Self { key: KeyPair::new_operator(), system, account }
    }

    /// What a server needs to know of it: who may log in, and what the users' account may store.
    pub(crate) fn server_config(&self) -> String {
        let itself = claims(&self.key, &self.key, "operator", &json!({}));
        let any = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1,
        });
        let mut stored = any.clone();
        for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
            stored[limit] = json!(-1);
        }
        let account = |key: &KeyPair, limits: &Value| {
            let token = claims(&self.key, key, "account", &json!({ "limits": limits }));
            format!("{}: {token}", key.public_key())
        };
        format!(
            "operator: {itself}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}\n{}\n}}\n",
            self.system.public_key(),
            account(&self.system, &any),
            account(&self.account, &stored)
        )
    }

    /// A new user of the account.
    pub(crate) fn user(&self) -> User {
        let key = KeyPair::new_user();
        let limits = json!({ "subs": -1, "data": -1, "payload": -1 });
        User {
            token: claims(&self.account, &key, "user", &limits),
            seed: key.seed().expect("a seed"),
        }
    }
}

/// What a user logs in with.
pub(crate) struct User {
    /// Says who the user is; signed by the account.
    pub(crate) token: String,
    /// Proves that it is the user who shows the token.
    pub(crate) seed: String,
}

impl User {
    /// The text of a credentials file.
    pub(crate) fn credentials(&self) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            self.token, self.seed
        )
    }
}

/// What `issuer` says of `subject`, signed.
fn claims(issuer: &KeyPair, subject: &KeyPair, kind: &str, what: &Value) -> String {
    let mut nats = what.clone();
    nats["type"] = json!(kind);
    nats["version"] = json!(2);
    let claims = json!({
        "jti": subject.public_key(),
        "iat": 1_767_225_600,
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": kind,
        "nats": nats,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let text = format!("{}.{}", part(&header), part(&claims));
    let signature = issuer.sign(text.as_bytes()).expect("the key can sign");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}
