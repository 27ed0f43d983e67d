//! A credential for a registry: a user name with a password, or an identity token.

use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::secret::Secret;

/// Base64 as Go reads it: padded or not, stray bits ignored.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Stands for a user name that may be a token.
const HIDDEN: &str = "(hidden: it may be a token)";
/// How tokens of GitHub, GitLab, Docker Hub, AWS, Google, Slack and JSON web tokens begin.
const TOKEN_PREFIXES: &[&str] = &[
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "gldt-",
    "dckr_",
    "AKIA",
    "ASIA",
    "ya29.",
    "xox",
    "eyJ",
];
/// Passwords that only say that the user name is the token.
const PLACEHOLDER_PASSWORDS: &[&str] =
    &["x-oauth-basic", "x-token-auth", "x", "-", "unused", "token", "none"];
/// Bytes of a user name that is shown at most: the longest in use are e-mail addresses and robot accounts.
const USERNAME_MAX: usize = 80;
/// Letters and digits in a row, mixed, from which on a user name looks random; the parts of a UUID have 12 at most.
const RANDOM_RUN_MIN: usize = 16;
/// Digits in such a run at least: `oauth2accesstoken` is a name.
const RANDOM_DIGITS_MIN: usize = 3;

/// A credential. Its `Debug` shows nothing of it: with some registries the user name is the token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A user name and a password, or a token in the password's place.
    Password {
        /// The user name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token (`docker login` of some registries).
    IdentityToken(Secret),
}

impl Credential {
    /// A user name and a password; `None` if either is empty, which containerd takes for no credential too.
    pub fn password(username: &str, password: &str) -> Option<Self> {
        if username.is_empty() || password.is_empty() {
            return None;
        }
        Some(Self::Password { username: username.to_owned(), password: password.to_owned().into() })
    }

    /// Reads base64 of `user:password`, as `auth` of a docker config and HTTP Basic (RFC 7617) have it. The first
    /// colon divides: passwords may hold more of them.
    pub fn decode(encoded: &str) -> Option<(String, Secret)> {
        // Go's decoder skips line breaks.
        let compact: Zeroizing<String> =
            Zeroizing::new(encoded.chars().filter(|c| !matches!(c, '\r' | '\n')).collect());
        let decoded = Zeroizing::new(LENIENT.decode(compact.trim()).ok()?);
        let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some((username.to_owned(), password.to_owned().into()))
    }

    /// Base64 of `user:password` (RFC 7617); `None` for an identity token, which is never sent that way.
    pub fn to_basic(&self) -> Option<Zeroizing<String>> {
        match self {
            Self::Password { username, password } => {
                let plain = Zeroizing::new(format!("{username}:{}", password.reveal()));
                Some(Zeroizing::new(LENIENT.encode(plain.as_bytes())))
            }
            Self::IdentityToken(_) => None,
        }
    }

    /// The user name as it may be shown to the operator of the node: hidden where it may be a token, as some registries
    /// have it (`TOKEN:x-oauth-basic`).
    pub(super) fn shown_username(&self) -> &str {
        match self {
            Self::Password { username, password } if may_be_token(username, password.reveal()) => HIDDEN,
            _ => self.username(),
        }
    }

    /// The user name; `<token>` for an identity token. It may be a secret: it is for the registry, and for nothing
    /// shown.
    pub fn username(&self) -> &str {
        match self {
            Self::Password { username, .. } => username,
            Self::IdentityToken(_) => "<token>",
        }
    }
}

/// Whether a user name may be a token, or the password in its place: by the marks of known tokens, by a password that
/// is only a placeholder, and by looking random.
fn may_be_token(username: &str, password: &str) -> bool {
    let marked = TOKEN_PREFIXES.iter().any(|prefix| username.starts_with(prefix));
    let random = |run: &str| {
        let digits = run.bytes().filter(u8::is_ascii_digit).count();
        run.len() >= RANDOM_RUN_MIN && digits >= RANDOM_DIGITS_MIN && digits < run.len()
    };
    username == password
        || marked
        || PLACEHOLDER_PASSWORDS.contains(&password)
        || username.len() > USERNAME_MAX
        || username.split(|c: char| !c.is_ascii_alphanumeric()).any(random)
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_is_read_as_go_reads_it() {
        for (encoded, expected) in [
            ("dTpw", Some(("u", "p"))),
            ("dTpwOnE=", Some(("u", "p:q"))),
            ("dTpwOnE", Some(("u", "p:q"))),
            ("dTpw\nOnE=", Some(("u", "p:q"))),
            ("dTo=", Some(("u", ""))),
            ("dQ==", None),
            ("!!", None),
            ("/w==", None),
        ] {
            let decoded = Credential::decode(encoded);
            let shown = decoded.as_ref().map(|(u, p)| (u.as_str(), p.reveal()));
            assert_eq!(shown, expected, "{encoded}");
        }
        let credential = Credential::password("u", "p:q").unwrap();
        assert_eq!(credential.to_basic().unwrap().as_str(), "dTpwOnE=");
    }

    #[test]
    fn a_user_name_that_may_be_a_token_is_not_shown() {
        for (username, password, shown) in [
            ("ada", "p", true),
            ("oauth2accesstoken", "ya29.secret", true),
            ("_json_key", "{}", true),
            ("AWS", "secret", true),
            ("robot$project+builder", "p", true),
            ("00000000-0000-0000-0000-000000000000", "p", true),
            ("someone.with-a-long-name@department.example.com", "p", true),
            ("marker", "x-oauth-basic", false),
            ("marker", "marker", false),
            ("ghp_marker", "p", false),
            ("glpat-marker", "p", false),
            ("eyJmarker", "p", false),
            ("4f0c2b7de19a4f0cmarker", "p", false),
            (&"marker-".repeat(12), "p", false),
        ] {
            let credential = Credential::password(username, password).unwrap();
            assert_eq!(credential.shown_username() == username, shown, "{username}");
            assert!(shown || !credential.shown_username().contains("marker"));
        }
        assert_eq!(Credential::IdentityToken("marker".to_owned().into()).shown_username(), "<token>");
    }

    #[test]
    fn no_secret_is_in_debug_output() {
        let shown = format!(
            "{:?} {:?}",
            Credential::password("marker-user", "marker-secret").unwrap(),
            Credential::IdentityToken("marker-secret".to_owned().into())
        );
        assert_eq!(shown, "Password(..) IdentityToken(..)");
    }
}
