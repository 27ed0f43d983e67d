//! The value of an `Authorization` header: the only form in which a secret leaves this module.

use http::HeaderValue;

use crate::credentials::Credential;

/// A bearer token, or a user name and password. It has no `Debug` and no `Display`.
#[derive(Clone)]
pub(crate) struct AuthorizationHeader(HeaderValue);

impl AuthorizationHeader {
    /// A user name and password (RFC 7617); `None` for an identity token, which is never sent that way.
    pub(crate) fn basic(credential: &Credential) -> Option<Self> {
        Self::sensitive(&format!("Basic {}", *credential.to_basic()?))
    }

    /// A bearer token (RFC 6750); `None` if it is empty or does not fit a header.
    pub(crate) fn bearer(token: &str) -> Option<Self> {
        if token.is_empty() { None } else { Self::sensitive(&format!("Bearer {token}")) }
    }

    /// The value, for the one request that it is meant for.
    pub(crate) fn value(&self) -> HeaderValue {
        self.0.clone()
    }

    /// Bytes of the value.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    fn sensitive(text: &str) -> Option<Self> {
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_header_or_say_nothing_is_no_authorization() {
        assert!(AuthorizationHeader::bearer("").is_none());
        assert!(AuthorizationHeader::bearer("a\r\nX: y").is_none());
        assert!(AuthorizationHeader::basic(&Credential::IdentityToken("t".to_owned().into())).is_none());
        let basic = AuthorizationHeader::basic(&Credential::password("u", "p").unwrap()).unwrap();
        assert_eq!(basic.value(), "Basic dTpw");
        assert!(!format!("{:?}", basic.value()).contains("dTpw"), "a secret in a log line");
    }
}
