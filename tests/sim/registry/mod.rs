//! The registries, their token servers, mirror and object store, and the network to them: scripted, and wrong on demand.
//!
//! Here is what they know, what goes wrong with whom, and what was seen; `proper` answers as a registry should, `wrong`
//! makes of that what a fault says.

mod proper;
mod wrong;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use larder::reference::Digest;
use larder::upstream::Network;

use crate::bucket::{self, Way};
use crate::catalog::REPOS;
use crate::network::Reach;
use crate::plan::{Fault, FaultKind, Host, Method, Part, Repo, Setup, Who};
use crate::s3::{self, Bucket};
use crate::time::Now;
use crate::truth::{Span, Truth, is_of_the_host, matches};

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
    bucket: Bucket,
    epoch: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    truth: Truth,
    bucket_seen: Vec<(u64, String)>,
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
        let bucket = bucket::new(&now);
        let this = Self(Arc::new(Shared {
            now,
            setup,
            bucket: bucket.clone(),
            epoch: AtomicU32::new(0),
            state: Mutex::default(),
        }));
        let faults = Arc::downgrade(&this.0);
        bucket.wrong(move |asked| Self(faults.upgrade()?).bucket_fault(asked).map(bucket::wrong));
        this
    }

    /// The object store of the shared tier.
    pub(crate) fn bucket(&self) -> &Bucket {
        &self.0.bucket
    }

    /// The way to it, for the daemon that is about to start.
    pub(crate) fn way_to_bucket(&self) -> Arc<dyn larder::tier::Network> {
        Arc::new(Way::new(self.clone(), self.epoch()))
    }

    /// What goes wrong with this request to the bucket; counted.
    fn bucket_fault(&self, asked: &s3::Asked) -> Option<FaultKind> {
        self.0.now.stir();
        let (part, writes) = bucket::about(asked);
        let fault = self.fault_that(|fault| {
            fault.host == Host::Bucket
                && (fault.part == Part::Any || fault.part == part)
                && match fault.method {
                    Method::Any => true,
                    Method::Head | Method::Get => !writes,
                    Method::Put => writes,
                }
        });
        let wrong = fault.map_or(String::new(), |fault| format!(", on purpose: {fault:?}"));
        let range = asked.headers.get("range").and_then(|range| range.to_str().ok()).unwrap_or_default();
        let line = format!("{} <- {:?} {} {range}{wrong}", Host::Bucket.name(), asked.op, asked.key);
        self.state().bucket_seen.push((self.0.now.ms(), line));
        fault
    }

    /// Requests that came to the bucket, with when.
    pub(crate) fn bucket_seen(&self) -> Vec<(u64, String)> {
        self.state().bucket_seen.clone()
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

    /// Whom each token was issued to.
    pub(crate) fn token_owners(&self) -> BTreeMap<String, Who> {
        self.state().tokens.iter().map(|(text, token)| (text.clone(), token.who)).collect()
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
        self.fault_that(|fault| matches(fault, host, part, head, repo))
    }

    fn fault_that(&self, touches: impl Fn(&Fault) -> bool) -> Option<FaultKind> {
        let at = self.0.now.ms();
        let mut state = self.state();
        let span =
            state.truth.faults.iter_mut().rev().find(|span| {
                span.until.is_none() && !is_of_the_host(span.what.kind) && touches(&span.what)
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
