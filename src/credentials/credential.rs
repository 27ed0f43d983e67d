//! A credential for a registry: a user name with a password, or an identity token.

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

/// A credential. Its `Debug` shows the user name and no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
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

    /// The user name; `<token>` for an identity token.
    pub fn username(&self) -> &str {
        match self {
            Self::Password { username, .. } => username,
            Self::IdentityToken(_) => "<token>",
        }
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
    fn no_secret_is_in_debug_output() {
        let shown = format!(
            "{:?} {:?}",
            Credential::password("ada", "marker-secret").unwrap(),
            Credential::IdentityToken("marker-secret".to_owned().into())
        );
        assert!(shown.contains("ada") && !shown.contains("marker"), "{shown}");
    }
}
