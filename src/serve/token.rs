//! `/token`: the token server that our challenges name.
//!
//! Clients ask it in two forms: `GET` with Basic or without a credential, and `POST` with a form (distribution, "Token
//! Authentication" and "OAuth2 Token Authentication"). The credential is sealed into the token and stored nowhere; the
//! registry sees it when the client pulls with the token, and the registry's answer is then the client's.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::client_auth::{Authorization, InvalidAuthorization};
use super::respond::{self, ErrorResponse};
use super::route::{self, RouteError};
use crate::credentials::{CallerToken, Credential, Keys, TOKEN_LIFE};
use crate::listener::{Body, BodyError};
use crate::reference::{Registry, Repository};
use crate::support::clock::Timestamp;

/// Bytes of a form at most; the longest credentials in use have about 3,000.
const FORM_BYTES_MAX: usize = 32 * 1024;

/// What a client asks for a token with.
struct TokenRequest {
    scopes: Vec<String>,
    credential: Option<Credential>,
}

/// The token as it is handed out (distribution, "Token Response Fields").
#[derive(Serialize)]
struct TokenResponse<'a> {
    token: &'a str,
    access_token: &'a str,
    expires_in: u64,
    issued_at: String,
}

/// Issues a token; `default` is the registry of scopes that name none.
///
/// # Errors
/// The answer to a request that cannot be understood.
pub(super) async fn issue<B>(
    request: &Parts,
    authorization: Result<Authorization, InvalidAuthorization>,
    body: B,
    default: &Registry,
    keys: &Keys,
    now: Timestamp,
) -> Result<Response<Body>, ErrorResponse>
where
    B: http_body::Body,
    B::Error: Into<BodyError>,
{
    let token = read(request, authorization, body, default, now).await?;
    let sealed = token.seal(keys).map_err(|error| bad_request(error.to_string()))?;
    let answer = TokenResponse {
        token: &sealed,
        access_token: &sealed,
        expires_in: TOKEN_LIFE.as_secs(),
        issued_at: humantime::format_rfc3339_seconds(now.to_system_time()).to_string(),
    };
    let mut response = respond::json(StatusCode::OK, serde_json::to_vec(&answer).unwrap_or_default());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The token that a request asks for.
async fn read<B>(
    request: &Parts,
    authorization: Result<Authorization, InvalidAuthorization>,
    body: B,
    default: &Registry,
    now: Timestamp,
) -> Result<CallerToken, ErrorResponse>
where
    B: http_body::Body,
    B::Error: Into<BodyError>,
{
    let registry = route::namespace(&request.uri, &request.headers);
    let registry = registry.map_err(|error| ErrorResponse::of_route(&error))?;
    let asked = match request.method {
        Method::POST => from_form(body).await?,
        _ => from_query(&request.uri, authorization)?,
    };
    let repositories: Result<Vec<_>, RouteError> = asked
        .scopes
        .iter()
        .flat_map(|scopes| scopes.split_ascii_whitespace())
        .filter_map(|scope| repository_of(scope, registry.as_ref(), default))
        .collect();
    let mut repositories = repositories.map_err(|error| ErrorResponse::of_route(&error))?;
    repositories.sort();
    repositories.dedup();
    Ok(CallerToken { repositories, credential: asked.credential, issued_at: now })
}

fn from_query(
    uri: &Uri,
    authorization: Result<Authorization, InvalidAuthorization>,
) -> Result<TokenRequest, ErrorResponse> {
    let credential = match authorization {
        Ok(Authorization::Nothing) => None,
        Ok(Authorization::Basic(credential)) => credential,
        // A token is not exchanged for another.
        Ok(Authorization::Token(_) | Authorization::UnknownToken) | Err(_) => {
            return Err(bad_request("expected a user name and password, or no credential".to_owned()));
        }
    };
    let mut scopes = Vec::new();
    for (key, value) in route::pairs(uri) {
        if key == "scope" {
            scopes.push(value.into_owned());
        }
    }
    Ok(TokenRequest { scopes, credential })
}

async fn from_form<B>(body: B) -> Result<TokenRequest, ErrorResponse>
where
    B: http_body::Body,
    B::Error: Into<BodyError>,
{
    let bytes = Limited::new(body, FORM_BYTES_MAX).collect().await;
    let bytes = bytes.map_err(|error| {
        let message = format!("the form cannot be read ({error}); at most {FORM_BYTES_MAX} bytes are");
        ErrorResponse { close: true, ..bad_request(message) }
    })?;
    let bytes: Bytes = bytes.to_bytes();
    let mut grant = String::new();
    let mut username = String::new();
    let mut password = Zeroizing::new(String::new());
    let mut refresh = Zeroizing::new(String::new());
    let mut scopes = Vec::new();
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
    Ok(TokenRequest { scopes, credential })
}

/// The repository of `repository:NAME:ACTIONS`; `None` for scopes of another kind, which mean nothing here.
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

fn bad_request(message: String) -> ErrorResponse {
    ErrorResponse::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", &message)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::Full;

    use super::*;

    async fn ask(
        uri: &str,
        authorization: Result<Authorization, InvalidAuthorization>,
        form: Option<&str>,
    ) -> Result<CallerToken, (StatusCode, bool)> {
        let method = if form.is_some() { Method::POST } else { Method::GET };
        let body = Full::new(Bytes::from(form.unwrap_or_default().to_owned()));
        let (request, body) = Request::builder().method(method).uri(uri).body(body).unwrap().into_parts();
        let read = read(&request, authorization, body, &Registry::docker_hub(), Timestamp(1_000)).await;
        read.map_err(|error| (error.status, error.close))
    }

    fn names(token: &CallerToken) -> Vec<String> {
        token.repositories.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn both_forms_hand_over_the_credential_for_the_repositories_of_their_scopes() {
        let basic = Ok(Authorization::Basic(Credential::password("u", "p")));
        let uri = "/token?ns=reg.test%3A5000&scope=repository:team/app:pull&scope=registry:catalog:*";
        let token = ask(uri, basic, None).await.unwrap();
        assert_eq!(names(&token), ["reg.test:5000/team/app"]);
        assert_eq!(token.credential, Credential::password("u", "p"));

        let form = "grant_type=password&username=u&password=p%26q&scope=repository:reg.test:5000/a:pull+repository:b:pull";
        let token = ask("/token", Ok(Authorization::Nothing), Some(form)).await.unwrap();
        assert_eq!(names(&token), ["docker.io/library/b", "reg.test:5000/a"]);
        assert_eq!(token.credential, Credential::password("u", "p&q"));

        let uri = "/token?scope=repository:reg.test_5000/team/app:pull";
        let token = ask(uri, Ok(Authorization::Nothing), None).await.unwrap();
        assert_eq!(names(&token), ["reg.test:5000/team/app"], "as podman can write it");

        let token = ask("/token", Ok(Authorization::Nothing), None).await.unwrap();
        assert_eq!((names(&token).len(), token.credential), (0, None));
    }

    #[tokio::test]
    async fn what_cannot_be_understood_is_no_token_and_an_endless_form_ends_the_connection() {
        let bad = (StatusCode::BAD_REQUEST, false);
        let invalid = Err(InvalidAuthorization::InvalidToken);
        assert_eq!(ask("/token", invalid, None).await, Err(bad));
        assert_eq!(ask("/token?scope=repository:A:pull", Ok(Authorization::Nothing), None).await, Err(bad));
        assert_eq!(ask("/token", Ok(Authorization::Nothing), Some("grant_type=client")).await, Err(bad));
        let long = "x".repeat(FORM_BYTES_MAX + 1);
        let endless = (StatusCode::BAD_REQUEST, true);
        assert_eq!(ask("/token", Ok(Authorization::Nothing), Some(&long)).await, Err(endless));
    }
}
