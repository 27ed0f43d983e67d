//! What is sent to a token server and what it answers: the texts, not the sending. Pure.
//!
//! A user name and password go by `GET` with Basic, which every token server knows; an identity token goes by `POST`
//! (distribution, "Docker Registry v2 authentication using OAuth2"), which is what it is for.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use url::Url;

use crate::credentials::Credential;
use crate::support::go_json::{Json, Names, WrongType};
use crate::support::size;
use crate::upstream::auth::authorization::AuthorizationHeader;
use crate::upstream::auth::token_cache::TokenKey;

/// Without `expires_in`, and as a floor: what the distribution specification lets clients assume.
const LIFETIME_MIN: Duration = Duration::from_secs(60);
/// A token that claims to live longer is requested again after this.
const LIFETIME_MAX: Duration = Duration::from_secs(3_600);
/// A token is not used in the last moments of its life, so that it does not expire on its way.
const EXPIRY_MARGIN: Duration = Duration::from_secs(15);

/// Bytes of a token at most: servers take heads of some 8 KiB, few of them more.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// A request to a token server.
pub(crate) struct TokenRequest {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl TokenRequest {
    /// The request for a token of `key`; without a credential for an anonymous one.
    pub(crate) fn new(key: &TokenKey, credential: Option<&Credential>) -> Self {
        let mut url = key.realm.clone();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(Credential::IdentityToken(token)) = credential {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(CONTENT_TYPE, form);
            return Self { method: Method::POST, url, headers, body: refresh_form(key, token.reveal()) };
        }
        let mut query = url.query_pairs_mut();
        if let Some(service) = &key.service {
            query.append_pair("service", service);
        }
        for scope in key.scope.split(' ') {
            query.append_pair("scope", scope);
        }
        if let Some(credential) = credential
            && let Some(basic) = AuthorizationHeader::basic(credential)
        {
            headers.insert(AUTHORIZATION, basic.value());
        }
        drop(query);
        Self { method: Method::GET, url, headers, body: Bytes::new() }
    }
}

/// The form of a refresh-token grant.
fn refresh_form(key: &TokenKey, token: &str) -> Bytes {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token);
    form.append_pair("client_id", "larder").append_pair("scope", &key.scope);
    if let Some(service) = &key.service {
        form.append_pair("service", service);
    }
    form.finish().into()
}

/// The token in the body of a response, and for how long it is used.
///
/// # Errors
/// What is wrong with the body; never quotes it.
pub(crate) fn parse(body: &[u8]) -> Result<(AuthorizationHeader, Duration), String> {
    let document = Json::read_first(body)
        .map_err(|place| format!("not JSON at line {}, column {}", place.line, place.column))?;
    let read = || {
        let fields = document.fields("the document", Names::AnyCase)?;
        Ok((fields.text("token")?, fields.text("access_token")?, fields.number("expires_in")?))
    };
    let (token, access_token, expires_in) = read().map_err(|wrong: WrongType| wrong.to_string())?;
    let token = token.filter(|token| !token.is_empty()).or(access_token);
    if token.is_some_and(|token| token.len() > TOKEN_BYTES_MAX) {
        return Err(format!("a token of more than {}", size::shown(TOKEN_BYTES_MAX as u64)));
    }
    let authorization = token.and_then(AuthorizationHeader::bearer);
    let authorization = authorization.ok_or_else(|| "no usable token in it".to_owned())?;
    Ok((authorization, lifetime(expires_in)))
}

fn lifetime(expires_in: Option<i64>) -> Duration {
    let claimed = expires_in.and_then(|s| u64::try_from(s).ok()).map_or(LIFETIME_MIN, Duration::from_secs);
    claimed.clamp(LIFETIME_MIN, LIFETIME_MAX) - EXPIRY_MARGIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Principal, PrincipalKind};

    fn key() -> TokenKey {
        TokenKey {
            registry: "reg.test".parse().unwrap(),
            realm: "https://auth.test/token?x=1".parse().unwrap(),
            service: Some("reg.test".to_owned()),
            scope: "repository:a/b:pull aws".to_owned(),
            principal: Principal::new(PrincipalKind::Caller, [1; 16]),
        }
    }

    #[test]
    fn a_token_is_read_as_clients_written_in_go_read_it() {
        for body in [
            r#"{"token":"t"}"#,
            r#"{"access_token":"t","token":""}"#,
            r#"{"token":"s","token":"t","expires_in":60}"#,
            r#"{"Token":"t","access_token":null,"EXPIRES_IN":null}"#,
            "{\"token\":\"t\"}\n{}",
            "\n {\"token\":\"t\",\"token_type\":1}<!-- -->",
        ] {
            let (authorization, _) = parse(body.as_bytes()).unwrap();
            assert_eq!(authorization.value(), "Bearer t", "{body}");
        }
        for body in ["", "<html>", "[]", r#"{"token":1}"#, r#"{"token":"t""#] {
            let why = parse(body.as_bytes()).err().expect(body);
            assert!(!why.contains("line 0"), "{why}");
        }
    }

    #[test]
    fn no_claimed_life_is_believed_beyond_its_bounds() {
        for (claimed, seconds) in
            [(None, 45), (Some(0), 45), (Some(-5), 45), (Some(300), 285), (Some(i64::MAX), 3_585)]
        {
            assert_eq!(lifetime(claimed), Duration::from_secs(seconds), "{claimed:?}");
        }
    }

    #[test]
    fn no_secret_is_in_the_url_of_a_token_request() {
        let query = "x=1&service=reg.test&scope=repository%3Aa%2Fb%3Apull&scope=aws";
        let anonymous = TokenRequest::new(&key(), None);
        assert_eq!((anonymous.method, anonymous.url.query()), (Method::GET, Some(query)));
        assert!(!anonymous.headers.contains_key(AUTHORIZATION));

        let password = Credential::password("u", "marker").unwrap();
        let password = TokenRequest::new(&key(), Some(&password));
        assert_eq!(password.url.query(), Some(query), "a user name may be a token, and a URL is logged");
        assert!(password.headers.contains_key(AUTHORIZATION));

        let identity =
            TokenRequest::new(&key(), Some(&Credential::IdentityToken("marker".to_owned().into())));
        assert_eq!((identity.method, identity.url.query()), (Method::POST, Some("x=1")));
        let form = String::from_utf8(identity.body.to_vec()).unwrap();
        assert!(form.contains("grant_type=refresh_token&refresh_token=marker&"), "{form}");
    }

    #[test]
    fn a_token_of_a_megabyte_is_none() {
        let document = |name, len| format!(r#"{{"{name}": "{}"}}"#, "t".repeat(len));
        for (name, len, is_one) in [
            ("token", TOKEN_BYTES_MAX, true),
            ("token", TOKEN_BYTES_MAX + 1, false),
            ("token", 1_000_000, false),
            ("access_token", 1_000_000, false),
        ] {
            let parsed = parse(document(name, len).as_bytes());
            assert_eq!(parsed.is_ok(), is_one, "{name} {len}");
            assert!(parsed.err().is_none_or(|why| why.len() < 100));
        }
    }

    #[test]
    fn a_response_without_a_usable_token_is_an_error_that_quotes_nothing() {
        for (body, usable) in [
            (r#"{"token": "t"}"#, true),
            (r#"{"access_token": "t", "expires_in": 300}"#, true),
            (r#"{"token": "", "access_token": "t"}"#, true),
            (r#"{"token": ""}"#, false),
            (r#"{"token": "a\nb"}"#, false),
            (r#"{"token": "t", "expires_in": "marker"}"#, false),
            ("{}", false),
            ("<html>marker", false),
        ] {
            let parsed = parse(body.as_bytes());
            assert_eq!(parsed.is_ok(), usable, "{body}");
            assert!(parsed.err().is_none_or(|why| !why.contains("marker")), "{body}");
        }
    }
}
