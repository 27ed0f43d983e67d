//! A registry in this process. It serves what was put into it, records every request, and makes faults on demand.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, RANGE, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use larder::reference::{Algorithm, Digest, MediaType};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use super::accounts::Accounts;
pub use super::fault::Fault;
use super::fault::{Body, empty, finish, with};

type Wrong = Box<dyn Fn(&Seen) -> Option<Fault> + Send + Sync>;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
}

#[derive(Default)]
struct Content {
    manifests: HashMap<(String, String), (String, Bytes)>,
    blobs: HashMap<(String, Digest), Bytes>,
    referrers: bool,
    algorithm: Option<Algorithm>,
    token: Option<Token>,
    accounts: Option<Accounts>,
}

#[derive(Clone)]
struct Token {
    realm: Option<String>,
    extra: String,
    issued: u32,
}

#[derive(Default)]
struct Shared {
    content: Mutex<Content>,
    seen: Mutex<Vec<Seen>>,
    wrong: Mutex<Vec<Wrong>>,
}

/// The registry. A drop stops it.
pub struct FakeRegistry {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl FakeRegistry {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Self { address, shared: Arc::default(), server: Mutex::new(None) };
        registry.serve(listener);
        registry
    }

    fn serve(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let shared = Arc::clone(&shared);
                        async move { Ok::<_, Infallible>(shared.answer(request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        *self.server.lock().unwrap() = Some(server);
    }

    /// Stops the registry: connections are refused from now on.
    pub async fn stop(&self) {
        let server = self.server.lock().unwrap().take();
        if let Some(server) = server {
            server.abort();
            let _ = server.await;
        }
    }

    /// Starts the registry again, at the same address.
    pub async fn restart(&self) {
        self.serve(TcpListener::bind(self.address).await.unwrap());
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn put_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let mut content = self.shared.content.lock().unwrap();
        let digest = content.digest(&bytes);
        content.blobs.insert((repository.to_owned(), digest), bytes);
        digest
    }

    pub fn remove_blob(&self, repository: &str, digest: Digest) {
        self.shared.content.lock().unwrap().blobs.remove(&(repository.to_owned(), digest));
    }

    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Digest {
        let bytes = bytes.into();
        let mut content = self.shared.content.lock().unwrap();
        let digest = content.digest(&bytes);
        for reference in [Some(digest.to_string()), tag.map(str::to_owned)].into_iter().flatten() {
            content
                .manifests
                .insert((repository.to_owned(), reference), (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    pub fn remove_manifest(&self, repository: &str, reference: &str) {
        self.shared.content.lock().unwrap().manifests.remove(&(repository.to_owned(), reference.to_owned()));
    }

    /// Adds a blob of one repository to another one.
    pub fn mount_blob(&self, from: &str, to: &str, digest: Digest) {
        let mut content = self.shared.content.lock().unwrap();
        let bytes = content.blobs[&(from.to_owned(), digest)].clone();
        content.blobs.insert((to.to_owned(), digest), bytes);
    }

    /// A manifest that was put in.
    pub fn manifest(&self, repository: &str, digest: Digest) -> Bytes {
        self.shared.content.lock().unwrap().manifests[&(repository.to_owned(), digest.to_string())].1.clone()
    }

    /// The size of a manifest that was put in.
    pub fn size(&self, repository: &str, digest: Digest) -> usize {
        self.shared.content.lock().unwrap().manifests[&(repository.to_owned(), digest.to_string())].1.len()
    }

    /// Names content by this algorithm from now on.
    pub fn name_by(&self, algorithm: Algorithm) {
        self.shared.content.lock().unwrap().algorithm = Some(algorithm);
    }

    /// Serves the referrers API from now on, with an empty index.
    pub fn support_referrers(&self) {
        self.shared.content.lock().unwrap().referrers = true;
    }

    /// Requires an anonymous bearer token from now on; `realm` overrides its own, `extra` are challenge parameters.
    pub fn require_token(&self, realm: Option<String>, extra: &str) {
        let token = Token { realm, extra: extra.to_owned(), issued: 0 };
        self.shared.content.lock().unwrap().token = Some(token);
    }

    /// Requires one of these accounts from now on.
    pub fn know(&self, accounts: Accounts) {
        self.shared.content.lock().unwrap().accounts = Some(accounts);
    }

    /// Changes the accounts; tokens issued before are invalid if `renew`.
    pub fn change(&self, renew: bool, change: impl FnOnce(&mut Accounts)) {
        let mut content = self.shared.content.lock().unwrap();
        let accounts = content.accounts.as_mut().unwrap();
        change(accounts);
        accounts.issued += u32::from(renew);
    }

    /// Makes every token issued so far invalid.
    pub fn expire_tokens(&self) {
        if let Some(token) = &mut self.shared.content.lock().unwrap().token {
            token.issued += 1;
        }
    }

    /// Makes the fault that `wrong` returns for a request; the newest rule is asked first.
    pub fn wrong(&self, wrong: impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static) {
        self.shared.wrong.lock().unwrap().push(Box::new(wrong));
    }

    /// Makes `fault` on paths that contain `part`.
    pub fn wrong_at(&self, part: &str, fault: Fault) {
        let part = part.to_owned();
        self.wrong(move |seen| seen.path.contains(&part).then(|| fault.clone()));
    }

    /// Makes `fault` on the next request whose path contains `part`, and only on that one.
    pub fn wrong_once(&self, part: &str, fault: Fault) {
        let (part, fault) = (part.to_owned(), Mutex::new(Some(fault)));
        self.wrong(move |seen| if seen.path.contains(&part) { fault.lock().unwrap().take() } else { None });
    }

    pub fn behave(&self) {
        self.shared.wrong.lock().unwrap().clear();
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn forget_seen(&self) {
        self.shared.seen.lock().unwrap().clear();
    }

    /// How many requests of `method` came for paths that contain `part`.
    pub fn count(&self, method: Method, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method && seen.path.contains(part)).count()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().unwrap().take() {
            server.abort();
        }
    }
}

impl Content {
    fn digest(&self, bytes: &[u8]) -> Digest {
        Digest::computed(self.algorithm.unwrap_or(Algorithm::Sha256), bytes)
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let seen = Seen {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            headers: request.headers().clone(),
        };
        self.seen.lock().unwrap().push(seen.clone());
        let fault = self.wrong.lock().unwrap().iter().rev().find_map(|wrong| wrong(&seen));
        let head = seen.method == Method::HEAD;
        match fault {
            None => finish(self.proper(&seen, true), head, None),
            Some(Fault::Hang) => {
                tokio::time::sleep(Duration::from_secs(3_600)).await;
                empty(StatusCode::GATEWAY_TIMEOUT)
            }
            Some(Fault::Status(status, headers)) => {
                with(empty(StatusCode::from_u16(status).unwrap()), &headers)
            }
            Some(Fault::Answer(status, headers, body)) => {
                let mut response = Response::new(body);
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                finish(with(response, &headers), head, None)
            }
            Some(Fault::IgnoreRange) => finish(self.proper(&seen, false), head, None),
            Some(Fault::Unsized) => finish(self.proper(&seen, false), head, Some(Fault::Chunked)),
            Some(fault) => finish(self.proper(&seen, true), head, Some(fault)),
        }
    }

    fn proper(&self, seen: &Seen, ranges: bool) -> Response<Bytes> {
        let content = self.content.lock().unwrap();
        if let Some(away) = content.accounts.as_ref().and_then(|accounts| accounts.turn_away(seen)) {
            return away;
        }
        if let Some(token) = &content.token {
            if seen.path == "/token" {
                let body = format!(r#"{{"token":"t{}","expires_in":300}}"#, token.issued);
                return Response::new(body.into());
            }
            let wanted = format!("Bearer t{}", token.issued);
            if seen.headers.get("authorization").is_none_or(|given| given.to_str().unwrap() != wanted) {
                let host = seen.headers["host"].to_str().unwrap();
                let realm = token.realm.clone().unwrap_or_else(|| format!("http://{host}/token"));
                let challenge = format!(r#"Bearer realm="{realm}",service="fake"{}"#, token.extra);
                return Response::builder()
                    .status(401)
                    .header(WWW_AUTHENTICATE, challenge)
                    .body(Bytes::new())
                    .unwrap();
            }
        }
        let not_found = || {
            let body = Bytes::from_static(br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#);
            Response::builder().status(404).body(body).unwrap()
        };
        let Some(rest) = seen.path.strip_prefix("/v2/") else {
            return not_found();
        };
        if let Some((repository, reference)) = rest.split_once("/manifests/") {
            let Some((media_type, bytes)) =
                content.manifests.get(&(repository.to_owned(), reference.to_owned()))
            else {
                return not_found();
            };
            let digest = content.digest(bytes).to_string();
            return Response::builder()
                .header(CONTENT_TYPE, media_type)
                .header("docker-content-digest", digest)
                .body(bytes.clone())
                .unwrap();
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            let Ok(digest) = digest.parse() else { return not_found() };
            let Some(bytes) = content.blobs.get(&(repository.to_owned(), digest)) else {
                return not_found();
            };
            return ranged(seen.headers.get(RANGE).filter(|_| ranges).and_then(|r| r.to_str().ok()), bytes);
        }
        if let Some(repository) = rest.strip_suffix("/tags/list") {
            let mut tags: Vec<&String> = content
                .manifests
                .keys()
                .filter(|(name, tag)| name == repository && !tag.contains(':'))
                .map(|(_, tag)| tag)
                .collect();
            tags.sort();
            return page_of(repository, &tags, &seen.query);
        }
        if rest.contains("/referrers/") && content.referrers {
            let body = r#"{"schemaVersion":2,"manifests":[]}"#;
            return Response::builder().header(CONTENT_TYPE, MediaType::OCI_INDEX).body(body.into()).unwrap();
        }
        not_found()
    }
}

/// A page of tags as the distribution specification has it: `n` entries after `last`, and a link to the next ones.
fn page_of(repository: &str, tags: &[&String], query: &str) -> Response<Bytes> {
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let left: Vec<_> =
        tags.iter().filter(|tag| value("last").is_none_or(|last| tag.as_str() > last)).collect();
    let count = value("n").and_then(|n| n.parse().ok()).unwrap_or(left.len());
    let page = &left[..count.min(left.len())];
    let mut response = Response::builder().header(CONTENT_TYPE, "application/json");
    if let (true, Some(last)) = (page.len() < left.len(), page.last()) {
        let link = format!("</v2/{repository}/tags/list?n={count}&last={last}>; rel=\"next\"");
        response = response.header("link", link);
    }
    let body = serde_json::json!({"name": repository, "tags": page}).to_string();
    response.body(body.into()).unwrap()
}

fn ranged(range: Option<&str>, bytes: &Bytes) -> Response<Bytes> {
    let Some((start, end)) = range.and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'))
    else {
        return Response::new(bytes.clone());
    };
    let start: usize = start.parse().unwrap();
    if start >= bytes.len() {
        let size = format!("bytes */{}", bytes.len());
        return Response::builder().status(416).header("content-range", size).body(Bytes::new()).unwrap();
    }
    let end = end.parse::<usize>().map_or(bytes.len(), |last| (last + 1).min(bytes.len()));
    Response::builder()
        .status(206)
        .header(CONTENT_RANGE, format!("bytes {start}-{}/{}", end - 1, bytes.len()))
        .body(bytes.slice(start..end))
        .unwrap()
}
