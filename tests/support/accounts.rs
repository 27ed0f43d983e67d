//! Accounts of the fake registry: who may read what, and how a request is refused.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Response;
use http::header::WWW_AUTHENTICATE;

use super::registry::Seen;

/// Who may read what of a registry with accounts.
#[derive(Clone, Default)]
pub struct Accounts {
    /// By user name: the password and the repositories.
    pub users: HashMap<String, (String, Vec<String>)>,
    /// Repositories that anonymous callers may read.
    pub public: Vec<String>,
    /// Requires user name and password with every request instead of a token.
    pub basic: bool,
    /// The status for callers that may not read: 401, 403 or 404.
    pub denial: u16,
    /// Whether a token that does not suffice is answered as most registries do: `error="insufficient_scope"`.
    pub says_scope: bool,
    /// The URL of another token server.
    pub realm: Option<String>,
    /// Counts up when all tokens become invalid.
    pub issued: u32,
}

impl Accounts {
    pub fn new(users: &[(&str, &str, &[&str])]) -> Self {
        let owned = |repositories: &[&str]| repositories.iter().map(|r| (*r).to_owned()).collect();
        let users = users
            .iter()
            .map(|(user, password, repositories)| {
                ((*user).to_owned(), ((*password).to_owned(), owned(repositories)))
            })
            .collect();
        Self { users, denial: 401, ..Self::default() }
    }

    /// The user of a Basic header; the outer `None` if the password is wrong.
    fn user(&self, header: Option<&str>) -> Option<Option<String>> {
        let Some(encoded) = header.and_then(|h| h.strip_prefix("Basic ")) else {
            return Some(None);
        };
        let plain = String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap();
        let (user, password) = plain.split_once(':').unwrap();
        self.users.get(user).filter(|(right, _)| right == password).map(|_| Some(user.to_owned()))
    }

    /// The answer if the request is refused; `None` if it may be served.
    pub fn turn_away(&self, seen: &Seen) -> Option<Response<Bytes>> {
        let header = seen.headers.get("authorization").map(|h| h.to_str().unwrap());
        let answer =
            |status: u16, body: String| Response::builder().status(status).body(body.into()).unwrap();
        if seen.path == "/token" {
            return Some(match self.user(header) {
                None => answer(401, String::new()),
                Some(user) => {
                    let user = user.unwrap_or_default();
                    answer(200, format!(r#"{{"token":"tok.{user}.{}","expires_in":300}}"#, self.issued))
                }
            });
        }
        let host = seen.headers["host"].to_str().unwrap();
        let realm = self.realm.clone().unwrap_or_else(|| format!("http://{host}/token"));
        let challenge = if self.basic {
            "Basic realm=\"fake\"".to_owned()
        } else {
            format!("Bearer realm=\"{realm}\",service=\"fake\"")
        };
        let challenged = |error: &str| {
            let challenge = format!("{challenge}{error}");
            let response = Response::builder().status(401).header(WWW_AUTHENTICATE, challenge);
            Some(response.body(Bytes::new()).unwrap())
        };
        let user = if self.basic {
            match self.user(header) {
                None => return challenged(""),
                Some(user) => user.unwrap_or_default(),
            }
        } else {
            let token = header.and_then(|h| h.strip_prefix("Bearer tok.")).and_then(|t| t.rsplit_once('.'));
            match token {
                Some((user, issued)) if issued == self.issued.to_string() => user.to_owned(),
                _ => return challenged(""),
            }
        };
        let allowed = |repositories: &[String]| {
            repositories.iter().any(|name| seen.path.starts_with(&format!("/v2/{name}/")))
        };
        if allowed(&self.public) || self.users.get(&user).is_some_and(|(_, names)| allowed(names)) {
            return None;
        }
        if self.denial == 401 || (self.basic && user.is_empty()) {
            challenged(if self.says_scope { ",error=\"insufficient_scope\"" } else { "" })
        } else {
            // A registry that hides what it denies says so as of what it does not have.
            let body = if self.denial == 404 { r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"# } else { "" };
            Some(answer(self.denial, body.to_owned()))
        }
    }
}
