//! `/token`: where clients that were challenged hand over a credential, or say that they have none.
//!
//! Both forms that clients use: `GET` with Basic or without anything, and `POST` with a form (distribution, "Token
//! Authentication" and "OAuth2 Token Authentication"). The credential is sealed into the token and kept nowhere; it
//! is shown to the registry when something is asked for, and the registry's answer is then the client's.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::client_auth::{Authorization, InvalidAuthorization};
use super::respond::{self, Refusal};
use super::route::{self, RouteError};
use crate::credentials::{CallerToken, Credential, Keys, TOKEN_LIFE};
use crate::listener::{Body, BodyError};
use crate::reference::{Registry, Repository};
use crate::support::clock::Timestamp;

/// Bytes of a form at most; the longest credentials in use have about 3,000.
const FORM_BYTES_MAX: usize = 32 * 1024;

/// What a client sent.
struct Wanted {
    registry: Option<Registry>,
    scopes: Vec<String>,
    credential: Option<Credential>,
}

/// The answer (distribution, "Token Response Fields").
#[derive(Serialize)]
struct Answer<'a> {
    token: &'a str,
    access_token: &'a str,
    expires_in: u64,
    issued_at: String,
}

/// Issues a token.
///
/// # Errors
/// The refusal to answer with.
pub(super) async fn issue<B>(
    request: &Parts,
    shown: Result<Authorization, InvalidAuthorization>,
    body: B,
    default: &Registry,
    keys: &Keys,
    now: Timestamp,
) -> Result<Response<Body>, Refusal>
where
    B: http_body::Body,
    B::Error: Into<BodyError>,
{
    let uri = &request.uri;
    let wanted = match request.method {
        Method::POST => from_form(uri, body).await?,
        _ => from_query(uri, shown)?,
    };
    let repositories: Result<Vec<_>, RouteError> = wanted
        .scopes
        .iter()
        .flat_map(|scopes| scopes.split_ascii_whitespace())
        .filter_map(|scope| repository_of(scope, wanted.registry.as_ref(), default))
        .collect();
    let mut repositories = repositories.map_err(|error| Refusal::of_route(&error))?;
    repositories.sort();
    repositories.dedup();
    let token = CallerToken { repositories, credential: wanted.credential, issued_at: now };
    let sealed = token.seal(keys).map_err(|error| bad_request(error.to_string()))?;
    let answer = Answer {
        token: &sealed,
        access_token: &sealed,
        expires_in: TOKEN_LIFE.as_secs(),
        issued_at: humantime::format_rfc3339_seconds(now.to_system_time()).to_string(),
    };
    let mut response = respond::json(StatusCode::OK, serde_json::to_vec(&answer).unwrap_or_default());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn from_query(uri: &Uri, shown: Result<Authorization, InvalidAuthorization>) -> Result<Wanted, Refusal> {
    let credential = match shown {
        Ok(Authorization::Nothing) => None,
        Ok(Authorization::Basic(credential)) => credential,
        // What we issued is not what we take for one.
        Ok(Authorization::Token(_)) | Err(_) => {
            return Err(bad_request("expected a user name and password, or nothing".to_owned()));
        }
    };
    let mut scopes = Vec::new();
    for (key, value) in route::pairs(uri) {
        if key == "scope" {
            scopes.push(value.into_owned());
        }
    }
    Ok(Wanted { registry: registry(uri)?, scopes, credential })
}

async fn from_form<B>(uri: &Uri, body: B) -> Result<Wanted, Refusal>
where
    B: http_body::Body,
    B::Error: Into<BodyError>,
{
    let bytes = Limited::new(body, FORM_BYTES_MAX).collect().await;
    let bytes = bytes.map_err(|_| {
        let message = format!("the form broke off, or has more than {FORM_BYTES_MAX} bytes");
        Refusal { close: true, ..bad_request(message) }
    })?;
    let bytes: Bytes = bytes.to_bytes();
    let (mut grant, mut username, mut scopes) = (String::new(), String::new(), Vec::new());
    let (mut password, mut refresh) = (Zeroizing::new(String::new()), Zeroizing::new(String::new()));
    for (key, value) in form_urlencoded::parse(&bytes) {
        match key.as_ref() {
            "grant_type" => grant = value.into_owned(),
            "username" => username = value.into_owned(),
            "password" => password = Zeroizing::new(value.into_owned()),
            "refresh_token" => refresh = Zeroizing::new(value.into_owned()),
            "scope" => scopes.push(value.into_owned()),
            _ => {}
        }
    }
    let credential = match grant.as_str() {
        "password" => Credential::password(&username, &password),
        "refresh_token" if !refresh.is_empty() => {
            Some(Credential::IdentityToken(refresh.as_str().to_owned().into()))
        }
        "refresh_token" => None,
        _ => return Err(bad_request("grant_type: expected password or refresh_token".to_owned())),
    };
    Ok(Wanted { registry: registry(uri)?, scopes, credential })
}

fn registry(uri: &Uri) -> Result<Option<Registry>, Refusal> {
    route::namespace(uri).map_err(|error| Refusal::of_route(&error))
}

/// The repository of `repository:NAME:ACTIONS`; `None` for scopes of another kind, which open nothing here.
fn repository_of(
    scope: &str,
    registry: Option<&Registry>,
    default: &Registry,
) -> Option<Result<Repository, RouteError>> {
    // The name may hold a colon (a port), the actions do not.
    let (name, _actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
    let segments: Vec<&str> = name.split('/').collect();
    Some(route::repository(&segments, registry, default).map(|(repository, _)| repository))
}

fn bad_request(message: String) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, code: "UNSUPPORTED", message, retry_after: None, close: false }
}
