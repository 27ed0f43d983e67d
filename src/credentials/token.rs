//! Tokens that Larder issues: the credential that a client sent to `/token`, sealed, for the client to send with its
//! requests.
//!
//! A token holds the credential (or that there was none), the repositories that it is for, and when it was issued.
//! There is no table of tokens, so a token survives restarts. Only this node can read or make one.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::credential::Credential;
use super::keys::{Keys, KeysError};
use crate::reference::Repository;
use crate::support::clock::Timestamp;

/// The lifetime that a token declares: longer than any pull, since older containerd versions cannot renew one within a
/// pull.
pub const TOKEN_LIFE: Duration = Duration::from_secs(12 * 3_600);
/// A token is accepted for twice as long, for clients that ignore its lifetime.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Repositories of one token at most.
const REPOSITORIES_MAX: usize = 8;
/// Bytes of a credential at most, so that the token fits into a request head. A JSON key of a Google service account
/// has about 2,400.
const CREDENTIAL_BYTES_MAX: usize = 7 * 1024;
const PURPOSE: &str = "larder token 1";

/// The content of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerToken {
    /// What the token may be used for.
    pub repositories: Vec<Repository>,
    /// The credential of the client; `None` if it sent none.
    pub credential: Option<Credential>,
    /// When the token was sealed.
    pub issued_at: Timestamp,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not sealed by this node, or changed since.
    #[error("the token was not issued by this node")]
    Foreign,
    /// Older than 24 hours.
    #[error("the token has expired")]
    Expired,
}

/// Why no token can be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The credential does not fit a header.
    #[error("the credential is longer than {CREDENTIAL_BYTES_MAX} bytes")]
    TooLong,
    /// More repositories than a pull needs.
    #[error("a token is for at most {REPOSITORIES_MAX} repositories")]
    TooMany,
    /// The operating system gives no random bytes.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// What is sealed; never written anywhere else.
#[derive(Serialize, Deserialize)]
struct Plain {
    r: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    u: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<Zeroizing<String>>,
    at: Timestamp,
}

impl CallerToken {
    /// Seals the token.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn seal(&self, keys: &Keys) -> Result<String, IssueError> {
        if self.repositories.len() > REPOSITORIES_MAX {
            return Err(IssueError::TooMany);
        }
        let (u, p) = match &self.credential {
            None => (None, None),
            Some(Credential::Password { username, password }) => {
                (Some(username.clone()), Some(Zeroizing::new(password.reveal().to_owned())))
            }
            Some(Credential::IdentityToken(token)) => (None, Some(Zeroizing::new(token.reveal().to_owned()))),
        };
        let bytes = u.as_ref().map_or(0, String::len) + p.as_ref().map_or(0, |p| p.len());
        if bytes > CREDENTIAL_BYTES_MAX {
            return Err(IssueError::TooLong);
        }
        let r = self.repositories.iter().map(ToString::to_string).collect();
        // A map of texts always serializes.
        let plain = serde_json::to_vec(&Plain { r, u, p, at: self.issued_at }).unwrap_or_default();
        Ok(keys.seal(PURPOSE, &Zeroizing::new(plain))?)
    }

    /// Opens a token that a client sent.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn open(keys: &Keys, token: &str, now: Timestamp) -> Result<Self, TokenError> {
        let plain = keys.unseal(PURPOSE, token).ok_or(TokenError::Foreign)?;
        // The seal is intact, so another version of Larder wrote this; the parser's message could quote the secret.
        let Ok(Plain { r, u, p, at }) = serde_json::from_slice(&plain) else {
            return Err(TokenError::Foreign);
        };
        if at.age_at(now) > TOKEN_LIFE_MAX {
            return Err(TokenError::Expired);
        }
        let credential = match (u, p) {
            (None, None) => None,
            (Some(username), Some(password)) => {
                Some(Credential::password(&username, &password).ok_or(TokenError::Foreign)?)
            }
            (None, Some(token)) => Some(Credential::IdentityToken(token.as_str().to_owned().into())),
            (Some(_), None) => return Err(TokenError::Foreign),
        };
        let Ok(repositories) = r.iter().map(|name| name.parse()).collect() else {
            return Err(TokenError::Foreign);
        };
        Ok(Self { repositories, credential, issued_at: at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(credential: Option<Credential>) -> CallerToken {
        let repositories =
            vec!["reg.test:5000/team/app".parse().unwrap(), "docker.io/library/x".parse().unwrap()];
        CallerToken { repositories, credential, issued_at: Timestamp(1_000) }
    }

    #[test]
    fn a_token_gives_its_content_back_and_only_to_this_node() {
        let (keys, others) = (Keys::ephemeral().unwrap(), Keys::ephemeral().unwrap());
        let long = "x".repeat(2_400);
        for credential in [
            None,
            Credential::password("u", "p:\n\"q"),
            Credential::password("_json_key", &long),
            Some(Credential::IdentityToken("t".to_owned().into())),
        ] {
            let token = token(credential);
            let sealed = token.seal(&keys).unwrap();
            assert!(!sealed.contains("team"), "{sealed}");
            assert_eq!(CallerToken::open(&keys, &sealed, Timestamp(1_001)), Ok(token));
            assert_eq!(CallerToken::open(&others, &sealed, Timestamp(1_001)), Err(TokenError::Foreign));
        }
        assert_eq!(CallerToken::open(&keys, "anonymous", Timestamp(0)), Err(TokenError::Foreign));
    }

    #[test]
    fn a_token_is_valid_through_the_longest_pull_and_not_for_ever() {
        let keys = Keys::ephemeral().unwrap();
        let sealed = token(None).seal(&keys).unwrap();
        let at = |seconds| CallerToken::open(&keys, &sealed, Timestamp(seconds)).map(|_| ());
        assert_eq!(at(1_000 + 23 * 3_600), Ok(()));
        assert_eq!(at(5), Ok(()), "a clock that was set back");
        assert_eq!(at(1_001 + 24 * 3_600), Err(TokenError::Expired));
    }

    #[test]
    fn a_token_that_would_not_fit_a_header_is_not_issued() {
        let keys = Keys::ephemeral().unwrap();
        let huge = token(Credential::password("u", &"x".repeat(CREDENTIAL_BYTES_MAX)));
        assert!(matches!(huge.seal(&keys), Err(IssueError::TooLong)));
        let many = CallerToken { repositories: vec!["a.b/c".parse().unwrap(); 9], ..token(None) };
        assert!(matches!(many.seal(&keys), Err(IssueError::TooMany)));
    }
}
