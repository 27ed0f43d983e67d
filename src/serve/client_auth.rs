//! The caller of a request: read from `Authorization`, and asked for with a challenge where that is missing.
//!
//! Clients hand over a credential only after a Bearer challenge whose realm is our own `/token` (containerd 1.6 and
//! later then shows the pod's pull secret, and an anonymous pod fetches an anonymous token). A user name and password
//! may also be sent directly.

use std::collections::HashSet;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::route::AddressedBy;
use crate::credentials::{CallerToken, Credential, Keychain, TokenError};
use crate::pull::Caller;
use crate::reference::{Registry, Repository};
use crate::support::clock::Timestamp;

/// Why a challenge is given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidAuthorization {
    /// What was sent is no token of this node, or too old (RFC 6750 §3.1).
    InvalidToken,
    /// The token is for another repository.
    InsufficientScope,
}

impl InvalidAuthorization {
    /// The `error` of the challenge.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::InvalidToken => "invalid_token",
            Self::InsufficientScope => "insufficient_scope",
        }
    }

    /// The text for people.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::InvalidToken => {
                "the Authorization header holds no valid token of this cache; fetch a new token"
            }
            Self::InsufficientScope => "the token is for another repository; fetch one for this repository",
        }
    }
}

/// The credential of a request, as `Authorization` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Authorization {
    /// No credential.
    Nothing,
    /// A user name and password; `None` where one of them is empty, which counts as no credential, as in containerd.
    Basic(Option<Credential>),
    /// A token that this node has issued.
    Token(CallerToken),
    /// A Bearer token that this node did not issue, or that is too old. It is no credential, and none may be needed:
    /// some clients send a fixed one with every request.
    UnknownToken,
}

/// Reads `Authorization`.
///
/// # Errors
/// The header is there twice or malformed.
pub(crate) fn read(
    headers: &HeaderMap,
    keychain: &Keychain,
    now: Timestamp,
) -> Result<Authorization, InvalidAuthorization> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(first), None) = (given.next(), given.next()) else {
        return if headers.contains_key(AUTHORIZATION) {
            Err(InvalidAuthorization::InvalidToken)
        } else {
            Ok(Authorization::Nothing)
        };
    };
    let (scheme, rest) = first
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or(InvalidAuthorization::InvalidToken)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("basic") {
        let (username, password) = Credential::decode(rest).ok_or(InvalidAuthorization::InvalidToken)?;
        return Ok(Authorization::Basic(Credential::password(&username, password.reveal())));
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(InvalidAuthorization::InvalidToken);
    }
    match CallerToken::open(keychain.keys(), rest, now) {
        Ok(token) => Ok(Authorization::Token(token)),
        Err(TokenError::Foreign | TokenError::Expired) if is_one_word(rest) => {
            Ok(Authorization::UnknownToken)
        }
        Err(_) => Err(InvalidAuthorization::InvalidToken),
    }
}

fn is_one_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_whitespace)
}

impl Authorization {
    /// The caller of a request for `repository`.
    ///
    /// # Errors
    /// A token for other repositories.
    pub(crate) fn caller(
        self,
        repository: &Repository,
        keychain: &Keychain,
    ) -> Result<Caller, InvalidAuthorization> {
        let credential = match self {
            Self::Nothing | Self::UnknownToken => return Ok(Caller::Unidentified),
            Self::Basic(credential) => credential,
            Self::Token(token) if token.repositories.contains(repository) => token.credential,
            Self::Token(_) => return Err(InvalidAuthorization::InsufficientScope),
        };
        Ok(credential.map_or(Caller::Anonymous, |credential| {
            Caller::Presented(keychain.caller_credential(credential))
        }))
    }
}

/// What becomes of the credential that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    /// It counts as it was sent, if there was one.
    AsSent,
    /// It was for this cache's own address, and is not for the registry that the path names.
    Withheld,
}

impl Login {
    /// A client that is logged in to this cache's own address sends that login whatever registry the path names. It
    /// is for the registries `named`, which the operator has named; at others the client is one
    /// without a credential. A credential of a mirror client is for the registry that the client names, and one for the
    /// default registry is for the registry that the operator has set.
    pub(crate) fn of(
        caller: Caller,
        registry: &Registry,
        addressed_by: AddressedBy,
        named: &HashSet<Registry>,
    ) -> (Caller, Self) {
        let by_path = addressed_by.is_by_path() && matches!(caller, Caller::Presented(_));
        if by_path && !named.contains(registry) {
            (Caller::Anonymous, Self::Withheld)
        } else {
            (caller, Self::AsSent)
        }
    }
}

/// The challenge. Its realm is under the very name by which the client addressed us, since clients compare the two, and
/// carries the registry of a mirror client, since scopes do not name one. `error` has no character that ends a quoted
/// string.
pub(crate) fn challenge(
    host: &str,
    about: Option<(&Repository, AddressedBy)>,
    error: Option<&str>,
) -> Option<HeaderValue> {
    let mut text = format!("Bearer realm=\"http://{host}/token");
    if let Some((repository, AddressedBy::Namespace)) = about {
        let registry = repository.registry().as_str();
        let ns: String = url::form_urlencoded::byte_serialize(registry.as_bytes()).collect();
        text += &format!("?ns={ns}");
    }
    text += "\",service=\"larder\"";
    if let Some((repository, addressed_by)) = about {
        text += &format!(",scope=\"repository:{}:pull\"", addressed_by.name_of(repository));
    }
    if let Some(error) = error {
        text += &format!(",error=\"{error}\"");
    }
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::credentials::{CredentialSource, PresentedCredential};
    use crate::reference::{Principal, PrincipalKind};

    #[test]
    fn a_login_for_this_cache_is_for_no_registry_that_the_operator_has_not_named() {
        let presented = || PresentedCredential {
            principal: Principal::new(PrincipalKind::Caller, [1; 16]),
            credential: Credential::password("u", "p"),
            headers: Arc::default(),
            source: CredentialSource::Caller,
        };
        let named = HashSet::from(["quay.io".parse().unwrap()]);
        for (registry, addressed_by, sent) in [
            ("quay.io", AddressedBy::Path, true),
            ("evil.example", AddressedBy::Path, false),
            ("docker.io", AddressedBy::Path, false),
            ("quay.io:443", AddressedBy::Path, false),
            ("quay.io:443", AddressedBy::PathWithoutColon, false),
            ("evil.example", AddressedBy::Namespace, true),
            ("docker.io", AddressedBy::Default, true),
        ] {
            let registry = registry.parse().unwrap();
            let (caller, login) = Login::of(Caller::Presented(presented()), &registry, addressed_by, &named);
            assert_eq!(matches!(caller, Caller::Presented(_)), sent, "{registry} {addressed_by:?}");
            assert_eq!(login == Login::AsSent, sent, "{registry} {addressed_by:?}");
        }
        let evil = "evil.example".parse().unwrap();
        let (caller, login) = Login::of(Caller::Unidentified, &evil, AddressedBy::Path, &named);
        assert!(matches!(caller, Caller::Unidentified) && login == Login::AsSent, "it is challenged as ever");
    }

    #[test]
    fn a_challenge_leads_back_to_us_and_names_what_was_asked_for() {
        let at = |registry: &str, path: &str| {
            Repository::new(registry.parse().unwrap(), path.parse().unwrap()).unwrap()
        };
        let app = at("reg.test:5000", "team/app");
        for (about, error, expected) in [
            (None, None, r#"Bearer realm="http://h:1/token",service="larder""#),
            (
                Some((&app, AddressedBy::Namespace)),
                None,
                r#"Bearer realm="http://h:1/token?ns=reg.test%3A5000",service="larder",scope="repository:team/app:pull""#,
            ),
            (
                Some((&app, AddressedBy::Path)),
                Some("invalid_token"),
                r#"Bearer realm="http://h:1/token",service="larder",scope="repository:reg.test:5000/team/app:pull",error="invalid_token""#,
            ),
            (
                Some((&app, AddressedBy::PathWithoutColon)),
                None,
                r#"Bearer realm="http://h:1/token",service="larder",scope="repository:reg.test_5000/team/app:pull""#,
            ),
            (
                Some((&app, AddressedBy::Default)),
                Some("insufficient_scope"),
                r#"Bearer realm="http://h:1/token",service="larder",scope="repository:team/app:pull",error="insufficient_scope""#,
            ),
        ] {
            assert_eq!(challenge("h:1", about, error).unwrap(), expected);
        }
    }
}
