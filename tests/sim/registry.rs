//! The registries, their token servers, mirror and object store, and the network to them: scripted, and wrong on demand.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use larder::reference::{Digest, MediaType};
use larder::upstream::Network;

use crate::catalog::{CLAIMED, REPOS, catalog};
use crate::network::Reach;
use crate::plan::{Fault, FaultKind, Host, Part, Repo, Setup, Who};
use crate::time::Now;
use crate::truth::{Span, Truth, is_of_the_host, matches};

/// Bytes of one frame.
const FRAME: usize = 16 * 1024;
/// How long a token and a signed URL are good for.
const TOKEN_MS: u64 = 300_000;
const URL_MS: u64 = 60_000;

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A request that arrived somewhere upstream.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: u64,
    pub(crate) host: Host,
    pub(crate) part: Part,
    pub(crate) head: bool,
    pub(crate) path: String,
    pub(crate) repo: Option<Repo>,
    pub(crate) digest: Option<Digest>,
    pub(crate) range: Option<String>,
    /// `Authorization`, as it came.
    pub(crate) shown: Option<String>,
    pub(crate) status: u16,
    /// Body bytes that have left.
    pub(crate) sent: Arc<AtomicU64>,
    pub(crate) fault: Option<FaultKind>,
}

/// All of them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Upstreams(Arc<Shared>);

struct Shared {
    now: Now,
    setup: Setup,
    epoch: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    truth: Truth,
    seen: Vec<Seen>,
    tokens: BTreeMap<String, Token>,
    /// Tokens that a fault made others on their way: what was really sent.
    damaged_tokens: Vec<(String, Host)>,
}

struct Token {
    host: Host,
    who: Who,
    /// Repositories that it opens, as they were when it was made.
    opens: Vec<String>,
    until: u64,
}

impl Upstreams {
    pub(crate) fn new(now: Now, setup: Setup) -> Self {
        Self(Arc::new(Shared { now, setup, epoch: AtomicU32::new(0), state: Mutex::default() }))
    }

    /// What is so, to be changed.
    pub(crate) fn truth<T>(&self, with: impl FnOnce(&mut Truth, u64) -> T) -> T {
        let at = self.0.now.ms();
        with(&mut self.state().truth, at)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Every token that was ever sent, with its host; those that a fault damaged are good for nothing.
    pub(crate) fn tokens(&self) -> Vec<(String, Host)> {
        let state = self.state();
        let issued = state.tokens.iter().map(|(text, token)| (text.clone(), token.host));
        issued.chain(state.damaged_tokens.iter().cloned()).collect()
    }

    pub(crate) fn begin_fault(&self, fault: &Fault) {
        self.truth(|truth, at| {
            truth.faults.push(Span { what: fault.clone(), from: at, until: None, hit: None });
        });
    }

    pub(crate) fn heal(&self, id: Option<u32>) {
        self.truth(|truth, at| {
            for span in &mut truth.faults {
                if span.until.is_none() && id.is_none_or(|id| span.what.id == id) {
                    span.until = Some(at);
                }
            }
        });
    }

    /// The daemon that was has gone: nothing of its reaches anybody any more.
    pub(crate) fn cut_off(&self) {
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The network, as the daemon that is about to start sees it.
    pub(crate) fn network(&self) -> Arc<dyn Network> {
        Arc::new(Reach::new(self.clone(), self.epoch()))
    }

    /// Counts the daemons that have gone.
    pub(crate) fn epoch(&self) -> u32 {
        self.0.epoch.load(Ordering::SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// What goes wrong with this; counted.
    fn fault_for(&self, host: Host, part: Part, head: bool, repo: Option<Repo>) -> Option<FaultKind> {
        let at = self.0.now.ms();
        let mut state = self.state();
        let span = state.truth.faults.iter_mut().rev().find(|span| {
            span.until.is_none()
                && !is_of_the_host(span.what.kind)
                && matches(&span.what, host, part, head, repo)
        })?;
        span.hit = Some(at);
        if let Some(left) = &mut span.what.times {
            *left = left.saturating_sub(1);
            if *left == 0 {
                span.until = Some(at);
            }
        }
        Some(span.what.kind)
    }

    /// What is wrong with the machine, if it is one of these kinds; counted.
    pub(crate) fn host_fault(&self, host: Host, kinds: &[FaultKind]) -> Option<FaultKind> {
        let at = self.0.now.ms();
        let mut state = self.state();
        let span =
            state.truth.faults.iter_mut().rev().find(|span| {
                span.until.is_none() && span.what.host == host && kinds.contains(&span.what.kind)
            })?;
        span.hit = Some(at);
        Some(span.what.kind)
    }

    /// Answers one request.
    ///
    /// # Errors
    /// The connection ends without an answer.
    pub(crate) async fn answer(
        &self,
        host: Host,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, io::Error> {
        self.0.now.stir();
        if self.host_fault(host, &[FaultKind::Refuse]).is_some() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let (path, head) = (request.uri().path().to_owned(), request.method() == http::Method::HEAD);
        let (part, repo, rest) = classify(host, &path);
        let shown = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (authorization, range) = (shown("authorization"), shown("range"));
        let fault = self.fault_for(host, part, head, repo);
        let sent = Arc::new(AtomicU64::new(0));
        let digest = rest.as_deref().and_then(|rest| rest.parse().ok());
        let number = {
            let mut state = self.state();
            state.seen.push(Seen {
                at: self.0.now.ms(),
                host,
                part,
                head,
                path: path.clone(),
                repo,
                digest,
                range: range.clone(),
                shown: authorization.clone(),
                status: 0,
                sent: Arc::clone(&sent),
                fault,
            });
            state.seen.len() - 1
        };
        if fault == Some(FaultKind::Hang) {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            return Err(io::ErrorKind::TimedOut.into());
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        let asked = Asked { host, repo, rest, range, authorization, query, part };
        let response = self.wrong_or_right(&asked, fault);
        let mut state = self.state();
        state.seen[number].status = response.status().as_u16();
        if part == Part::Token
            && let Ok(sent) = serde_json::from_slice::<serde_json::Value>(response.body())
            && let Some(token) = sent["token"].as_str().filter(|token| !state.tokens.contains_key(*token))
        {
            state.damaged_tokens.push((token.to_owned(), host));
        }
        drop(state);
        Ok(self.send(response, head, fault, sent))
    }

    fn wrong_or_right(&self, asked: &Asked, fault: Option<FaultKind>) -> Response<Bytes> {
        match fault {
            Some(FaultKind::Status(code)) => status(code),
            Some(FaultKind::TooMany(seconds)) => {
                let mut response = status(429);
                response.headers_mut().insert("retry-after", seconds.into());
                response
            }
            Some(FaultKind::Page) => {
                let mut response = Response::new(Bytes::from_static(b"<html><body>Sign in</body></html>"));
                response.headers_mut().insert("content-type", "text/html".parse().unwrap());
                response
            }
            Some(FaultKind::Nothing) => Response::new(Bytes::new()),
            Some(FaultKind::IgnoreRange) => self.proper(&Asked { range: None, ..asked.clone() }),
            Some(FaultKind::WrongRange) => {
                let mut response = self.proper(asked);
                if response.status() == 206 {
                    let mut bytes = response.body().to_vec();
                    bytes.rotate_left(1);
                    *response.body_mut() = bytes.into();
                }
                response
            }
            Some(FaultKind::NoDigest) => {
                let mut response = self.proper(asked);
                response.headers_mut().remove("docker-content-digest");
                response
            }
            Some(FaultKind::Corrupt) => {
                let mut response = self.proper(asked);
                if response.status().is_success() && !response.body().is_empty() {
                    let mut bytes = response.body().to_vec();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    *response.body_mut() = bytes.into();
                }
                response
            }
            _ => self.proper(asked),
        }
    }

    fn proper(&self, asked: &Asked) -> Response<Bytes> {
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
        let _ = good.map(|token| token.who);
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

    /// Gives a response its length and its body, whole or not.
    fn send(
        &self,
        response: Response<Bytes>,
        head: bool,
        fault: Option<FaultKind>,
        sent: Arc<AtomicU64>,
    ) -> Response<Body> {
        let (mut parts, bytes) = response.into_parts();
        let success = parts.status.is_success();
        let mut length = Some(bytes.len() as i64);
        match fault {
            Some(FaultKind::Chunked) if success => length = None,
            Some(FaultKind::LengthOff(by)) if success => length = Some((bytes.len() as i64 + by).max(0)),
            _ => {}
        }
        if let Some(claimed) = parts.headers.remove("x-claimed") {
            parts.headers.insert("content-length", claimed);
        } else if let Some(length) = length {
            parts.headers.insert("content-length", length.into());
        }
        let body =
            if head { pieces(Bytes::new()).boxed() } else { self.paced(bytes, fault.filter(|_| success)) };
        let now = self.0.now.clone();
        let counted = body.map(move |frame| {
            now.stir();
            if let Ok(bytes) = &frame {
                sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            frame.map(Frame::data)
        });
        Response::from_parts(parts, StreamBody::new(counted).boxed_unsync())
    }

    fn paced(&self, bytes: Bytes, fault: Option<FaultKind>) -> stream::BoxStream<'static, io::Result<Bytes>> {
        let cut = |after: u64| bytes.slice(..(after as usize).min(bytes.len()));
        match fault {
            Some(FaultKind::CutAfter(after)) => {
                let end = stream::once(async {
                    // What was sent leaves before the connection ends.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(io::Error::other("cut on purpose"))
                });
                pieces(cut(after)).chain(end).boxed()
            }
            Some(FaultKind::StallAfter(after)) => pieces(cut(after)).chain(stream::pending()).boxed(),
            Some(FaultKind::LengthOff(by)) => {
                let len = (bytes.len() as i64 + by).max(0) as usize;
                if len <= bytes.len() {
                    pieces(bytes.slice(..len)).boxed()
                } else {
                    let end = stream::once(async { Err(io::Error::other("shorter than said")) });
                    pieces(bytes).chain(end).boxed()
                }
            }
            Some(FaultKind::Slow(count)) => drip(bytes, count.max(1) as usize, 10),
            // A hostile layer: a few bytes at a time, for two minutes.
            _ if bytes.len() == 120 => drip(bytes, 1, 1_000).chain(stream::pending()).boxed(),
            _ => pieces(bytes).boxed(),
        }
    }
}

#[derive(Clone)]
struct Asked {
    host: Host,
    repo: Option<Repo>,
    /// The reference, digest or what else follows the kind.
    rest: Option<String>,
    range: Option<String>,
    authorization: Option<String>,
    query: String,
    part: Part,
}

fn classify(host: Host, path: &str) -> (Part, Option<Repo>, Option<String>) {
    if path == "/token" {
        return (Part::Token, None, None);
    }
    if let Some(digest) = path.strip_prefix("/obj/") {
        return (Part::Blob, None, Some(digest.to_owned()));
    }
    let Some(rest) = path.strip_prefix("/v2/") else { return (Part::Any, None, Some(path.to_owned())) };
    if rest.is_empty() {
        return (Part::Any, None, None);
    }
    for (mark, part) in [("/manifests/", Part::Manifest), ("/blobs/", Part::Blob), ("/tags/", Part::Tags)] {
        if let Some((name, reference)) = rest.split_once(mark) {
            let home = if host == Host::Mirror { Host::Reg } else { host };
            let repo = REPOS.into_iter().find(|repo| repo.host() == home && repo.path() == name);
            return (part, repo, Some(reference.to_owned()));
        }
    }
    (Part::Any, None, Some(rest.to_owned()))
}

fn status(code: u16) -> Response<Bytes> {
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
        return status(416);
    }
    let end = end.parse::<usize>().map_or(bytes.len(), |last| (last + 1).min(bytes.len()));
    response
        .status(206)
        .header("content-range", format!("bytes {start}-{}/{}", end - 1, bytes.len()))
        .body(bytes.slice(start..end))
        .unwrap()
}

fn pieces(bytes: Bytes) -> stream::Iter<std::vec::IntoIter<io::Result<Bytes>>> {
    let at = (0..bytes.len()).step_by(FRAME);
    stream::iter(at.map(|at| Ok(bytes.slice(at..(at + FRAME).min(bytes.len())))).collect::<Vec<_>>())
}

fn drip(bytes: Bytes, count: usize, every_ms: u64) -> stream::BoxStream<'static, io::Result<Bytes>> {
    let parts: Vec<Bytes> =
        (0..bytes.len()).step_by(count).map(|at| bytes.slice(at..(at + count).min(bytes.len()))).collect();
    let paced = stream::iter(parts).then(move |part| async move {
        tokio::time::sleep(Duration::from_millis(every_ms)).await;
        Ok(part)
    });
    paced.boxed()
}
