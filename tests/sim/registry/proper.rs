//! Answers as they should be: of the registries, the token servers and the object store.

use base64::Engine;
use bytes::Bytes;
use http::Response;
use larder::reference::{Digest, MediaType};

use super::{Asked, Token, Upstreams};
use crate::catalog::{CLAIMED, REPOS, catalog};
use crate::plan::{Host, Part, Repo, Who};

/// How long a token and a signed URL are good for.
const TOKEN_MS: u64 = 300_000;
const URL_MS: u64 = 60_000;

impl Upstreams {
    pub(super) fn proper(&self, asked: &Asked) -> Response<Bytes> {
        let Asked { host, repo, part, rest, range, .. } = asked;
        if *part == Part::Token {
            return self.token(asked);
        }
        if *host == Host::Objects {
            let fresh = asked.query.strip_prefix("until=").and_then(|until| until.parse::<u64>().ok());
            if fresh.is_none_or(|until| until < self.0.now.ms()) {
                return status(403);
            }
            return blob(rest.as_deref(), range.as_deref());
        }
        let Some(repo) = *repo else {
            return if *part == Part::Any && rest.is_none() { status(200) } else { status(404) };
        };
        if let Some(refusal) = self.refusal(asked, repo) {
            return refusal;
        }
        let at = self.0.now.ms();
        let rest = rest.as_deref().unwrap_or_default();
        match part {
            Part::Manifest => {
                let meant = match rest.parse::<Digest>() {
                    Ok(digest) => Some(digest).filter(|digest| catalog().has(repo, *digest)),
                    Err(_) if rest == "v1" => {
                        let version = self.state().truth.version(repo, at);
                        Some(catalog().image(repo, version).top)
                    }
                    Err(_) => None,
                };
                manifest(meant)
            }
            Part::Blob => {
                let Some(digest) = rest.parse::<Digest>().ok().filter(|d| catalog().has(repo, *d)) else {
                    return status(404);
                };
                if *host == Host::Store || *host == Host::Reg && self.0.setup.redirects {
                    let to = format!("https://{}/obj/{digest}?until={}", Host::Objects.name(), at + URL_MS);
                    let mut response = status(307);
                    response.headers_mut().insert("location", to.parse().unwrap());
                    return response;
                }
                blob(Some(rest), range.as_deref())
            }
            Part::Tags => {
                let mut response =
                    Response::new(Bytes::from(format!(r#"{{"name":"{}","tags":["v1"]}}"#, repo.path())));
                response.headers_mut().insert("content-type", "application/json".parse().unwrap());
                response
            }
            Part::Any | Part::Token => status(404),
        }
    }

    /// The token server of a host.
    fn token(&self, asked: &Asked) -> Response<Bytes> {
        let who = match asked.authorization.as_deref().and_then(|a| a.strip_prefix("Basic ")) {
            None => Who::Nobody,
            Some(encoded) => {
                let plain = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
                let plain = String::from_utf8(plain).unwrap_or_default();
                let known = plain.split_once(':').and_then(|(user, password)| Who::of(user, password));
                match known {
                    Some(who) if asked.host == Host::Reg => who,
                    _ => return status(401),
                }
            }
        };
        let at = self.0.now.ms();
        let scopes = url::form_urlencoded::parse(asked.query.as_bytes())
            .filter(|(name, _)| name == "scope")
            .flat_map(|(_, value)| value.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|scope| Some(scope.strip_prefix("repository:")?.split_once(':')?.0.to_owned()));
        let mut state = self.state();
        let opens = scopes
            .filter(|path| {
                let found = REPOS.into_iter().find(|r| r.host() == asked.host && r.path() == path);
                found.is_some_and(|repo| state.truth.may(who, repo, at))
            })
            .collect();
        let text =
            format!("token-{}-{:08x}", state.tokens.len(), state.tokens.len() * 0x9e37_79b1 % 0xffff_ffff);
        let token = Token { host: asked.host, who, opens, until: at + TOKEN_MS };
        state.tokens.insert(text.clone(), token);
        let mut response = Response::new(Bytes::from(format!(r#"{{"token":"{text}","expires_in":300}}"#)));
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    }

    /// What those get who may not.
    fn refusal(&self, asked: &Asked, repo: Repo) -> Option<Response<Bytes>> {
        if !matches!(asked.host, Host::Reg | Host::Hub) {
            return None;
        }
        let state = self.state();
        let token = asked.authorization.as_deref().and_then(|a| a.strip_prefix("Bearer "));
        let token = token.and_then(|text| state.tokens.get(text));
        let good = token.filter(|token| token.host == asked.host && token.until > self.0.now.ms());
        if good.is_some_and(|token| token.opens.iter().any(|path| path == repo.path())) {
            return None;
        }
        let scheme = if asked.host.is_configured() { "http" } else { "https" };
        let mut response = status(401);
        let error = if good.is_some() { ",error=\"insufficient_scope\"" } else { "" };
        let challenge = format!(
            "Bearer realm=\"{scheme}://{}/token\",service=\"{0}\",scope=\"repository:{}:pull\"{error}",
            asked.host.name(),
            repo.path()
        );
        response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
        Some(response)
    }
}

pub(super) fn status(code: u16) -> Response<Bytes> {
    Response::builder().status(code).body(Bytes::new()).unwrap()
}

fn manifest(digest: Option<Digest>) -> Response<Bytes> {
    let content = digest.and_then(|digest| catalog().content.get(&digest.to_string()));
    let (Some(digest), Some(content)) = (digest, content) else { return status(404) };
    let Some(media_type) = &content.media_type else { return status(404) };
    Response::builder()
        .header("content-type", media_type)
        .header("docker-content-digest", digest.to_string())
        .body(content.bytes.clone())
        .unwrap()
}

fn blob(digest: Option<&str>, range: Option<&str>) -> Response<Bytes> {
    if digest == Some(catalog().claimed.to_string().as_str()) {
        let response = Response::builder().header("x-claimed", CLAIMED);
        return response.body(Bytes::from(vec![0; 120])).unwrap();
    }
    let Some(content) = digest.and_then(|digest| catalog().content.get(digest)) else { return status(404) };
    let bytes = &content.bytes;
    let response = Response::builder().header("content-type", MediaType::OCTET_STREAM);
    let bounds = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((start, end)) = bounds else { return response.body(bytes.clone()).unwrap() };
    let start: usize = start.parse().unwrap_or(0);
    if start >= bytes.len() {
        let response =
            Response::builder().status(416).header("content-range", format!("bytes */{}", bytes.len()));
        return response.body(Bytes::new()).unwrap();
    }
    let end = end.parse::<usize>().map_or(bytes.len(), |last| (last + 1).min(bytes.len()));
    response
        .status(206)
        .header("content-range", format!("bytes {start}-{}/{}", end - 1, bytes.len()))
        .body(bytes.slice(start..end))
        .unwrap()
}
