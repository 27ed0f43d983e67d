//! How a question is put: which endpoints, how often, how long; and what is counted of it.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use hyper::body::Incoming;
use tokio::time::Instant;
use url::Url;

use super::body;
use super::endpoint::health::{Turn, UnderWay};
use super::endpoint::select::{self, Endpoint};
use super::error::{ConnectStage, Error};
use super::exchange::{AuthContext, Question, RegistryAnswer};
use super::metrics::Kind;
use super::transport::address::Trust;
use super::{Allowed, Core, Upstream};
use crate::credentials::PresentedCredential;
use crate::reference::{Digest, MANIFEST_BYTES_MAX, Reference, Registry, Repository, UPSTREAM_ACCEPT};

/// A question that failed quickly is asked again this often.
const RETRIES_MAX: usize = 2;
/// The first pause before asking again; jittered, then doubled.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Everything about a question at most, over all endpoints and retries: until a small answer has come whole, or the head
/// of a large one.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

impl Upstream {
    /// Asks for something small and takes all of it, within [`ANSWER_WAIT`].
    pub(super) async fn small<T, F>(
        &self,
        question: &Question<'_>,
        take: impl FnOnce(RegistryAnswer) -> F,
    ) -> Result<Allowed<T>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.within(question, async {
            let answer = self.first_answer(question).await?;
            let public = answer.public;
            Ok(Allowed { value: take(answer).await?, public })
        })
        .await
    }

    /// Asks for something large and takes the head of the answer, within [`ANSWER_WAIT`].
    pub(super) async fn head_of(&self, question: &Question<'_>) -> Result<RegistryAnswer, Error> {
        self.within(question, self.first_answer(question)).await
    }

    async fn within<T>(
        &self,
        question: &Question<'_>,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let done = tokio::time::timeout(ANSWER_WAIT, work).await.unwrap_or_else(|_| {
            let host = question.repository.registry().to_string();
            let why = format!("no complete answer within {ANSWER_WAIT:?}");
            Err(Error::Unreachable { host, stage: ConnectStage::Timeout, why })
        });
        self.count_failure(question.repository, done)
    }

    /// The first endpoint that has an answer; else the last one's error. Those in trouble come last.
    async fn first_answer(&self, question: &Question<'_>) -> Result<RegistryAnswer, Error> {
        let registry = question.repository.registry();
        let proof = question.auth.proof.is_some();
        let all = select::endpoints(&self.0.configured.current().config, registry)?.into_iter();
        let turns = all.filter(|endpoint| endpoint.authoritative || !proof).map(|endpoint| {
            let turn = self.0.health.turn(&endpoint);
            (endpoint, turn)
        });
        let (sound, troubled): (Vec<_>, Vec<_>) = turns.partition(|(_, turn)| matches!(turn, Turn::Ask));
        let why = "none of its endpoints is authoritative; mark one with authoritative = true".to_owned();
        let mut last = (Error::Declined { registry: registry.clone(), why }, false);
        for (endpoint, _) in sound {
            match self
                .ask_one(&endpoint, self.0.health.under_way(&endpoint, registry), question, RETRIES_MAX)
                .await
            {
                Err(error) if error.is_worth_another_endpoint() => last = last_word(last, error, &endpoint),
                said => {
                    self.try_again_behind(troubled, question);
                    return said;
                }
            }
        }
        for (endpoint, turn) in troubled {
            let said = match turn {
                Turn::Leave(error, true) => Err(error),
                // Once: what is in trouble is not asked again and again by everybody.
                Turn::Try(held) => self.ask_one(&endpoint, held, question, 0).await,
                _ => self.ask_one(&endpoint, self.0.health.under_way(&endpoint, registry), question, 0).await,
            };
            match said {
                Err(error) if error.is_worth_another_endpoint() => last = last_word(last, error, &endpoint),
                said => return said,
            }
        }
        Err(last.0)
    }

    /// Asks one endpoint, again where that may help, and remembers whether it answered.
    async fn ask_one(
        &self,
        endpoint: &Endpoint,
        mut under_way: UnderWay,
        question: &Question<'_>,
        retries: usize,
    ) -> Result<RegistryAnswer, Error> {
        let pauses =
            ExponentialBuilder::default().with_min_delay(RETRY_PAUSE).with_max_times(retries).with_jitter();
        let shown = &question.auth.presented;
        let shown = if endpoint.may_see(shown.principal.kind) { shown } else { &self.0.anonymous };
        let (who, class) = (shown.principal, (question.kind, question.method.clone()));
        if let Some(wait) = self.0.limits.wait(endpoint.name(), who, &class) {
            return Err(Error::RateLimited { host: endpoint.host(), retry_after: Some(wait) });
        }
        under_way.begin();
        let said = (|| self.0.ask(endpoint, question)).retry(pauses).when(Error::is_worth_a_retry).await;
        under_way.end(&said);
        match said {
            Err(Error::RateLimited { host, retry_after }) => {
                let registry = question.repository.registry();
                let wait = self.0.limits.refused(registry, endpoint.name(), who, class, retry_after);
                Err(Error::RateLimited { host, retry_after: Some(wait) })
            }
            said => {
                self.0.limits.answered(endpoint.name(), who, &class);
                said
            }
        }
    }

    /// Tries endpoints whose time has come while nobody waits for them: anything that they answer will do.
    fn try_again_behind(&self, troubled: Vec<(Endpoint, Turn)>, question: &Question<'_>) {
        for (endpoint, turn) in troubled {
            let Turn::Try(mut under_way) = turn else { continue };
            let (upstream, registry) = (self.clone(), question.repository.registry().clone());
            tokio::spawn(async move {
                under_way.begin();
                let said = upstream.0.knock(&registry, &endpoint).await;
                under_way.end(&said);
            });
        }
    }

    pub(super) async fn whole(
        &self,
        repository: &Repository,
        response: Response<Incoming>,
        host: &str,
    ) -> Result<Bytes, Error> {
        let received = self.received(repository.registry());
        let chunks = body::Chunks { body: response.into_body(), host: host.to_owned(), received };
        let idle = self.0.configured.current().config.timeouts.idle;
        body::whole(chunks, MANIFEST_BYTES_MAX, idle).await
    }

    pub(super) fn received(&self, registry: &Registry) -> crate::support::metrics::IntCounter {
        self.0.labels.with(registry.as_str(), |label| self.0.metrics.bytes.with_label_values(&[label]))
    }

    fn count_failure<T>(&self, repository: &Repository, done: Result<T, Error>) -> Result<T, Error> {
        match &done {
            Ok(_) => self.0.labels.admit(repository.registry().as_str()),
            Err(error) => self.0.labels.with(repository.registry().as_str(), |label| {
                self.0.metrics.errors.with_label_values(&[label, error.reason()]).inc();
            }),
        }
        done
    }
}

pub(super) fn manifest_question<'a>(
    method: Method,
    repository: &'a Repository,
    reference: &Reference,
    auth: &'a AuthContext,
) -> Question<'a> {
    Question {
        auth,
        kind: Kind::Manifest,
        method,
        repository,
        rest: format!("manifests/{reference}"),
        query: None,
        accept: Some(UPSTREAM_ACCEPT),
        range: None,
    }
}

pub(super) fn blob_question<'a>(
    method: Method,
    repository: &'a Repository,
    digest: Digest,
    auth: &'a AuthContext,
) -> Question<'a> {
    let rest = format!("blobs/{digest}");
    Question { auth, kind: Kind::Blob, method, repository, rest, query: None, accept: None, range: None }
}

/// What stands when one endpoint after the other failed, and whether somebody said it whose word counts: such a no is
/// not undone by a mirror that cannot be reached.
fn last_word(before: (Error, bool), error: Error, endpoint: &Endpoint) -> (Error, bool) {
    let stands = before.1 && before.0.is_denied() && error.is_outage();
    if stands { before } else { (error, endpoint.authoritative) }
}

impl Core {
    pub(super) fn nobody(&self) -> PresentedCredential {
        self.anonymous.clone()
    }

    /// Whether an endpoint answers at all, asked as nobody.
    async fn knock(&self, registry: &Registry, endpoint: &Endpoint) -> Result<(), Error> {
        let (url, fields) = (endpoint.root(), HeaderMap::new());
        let sent =
            self.observed(Kind::Ping, registry, endpoint.trust, Method::GET, &url, fields, Bytes::new());
        let response = sent.await?;
        match response.status().as_u16() {
            status @ 500.. => Err(Error::ServerError { host: select::authority(&url), status }),
            _ => Ok(()),
        }
    }

    /// Sends one request, counted and timed.
    #[allow(clippy::too_many_arguments, reason = "they are the request")]
    pub(super) async fn observed(
        &self,
        kind: Kind,
        registry: &Registry,
        trust: Trust,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Error> {
        let start = Instant::now();
        let transport = &self.configured.current().transport;
        let sent = transport.send(registry, trust, method.clone(), url, headers, body).await;
        let status = match &sent {
            Ok(response) => match response.status().as_u16() / 100 {
                2 => "2xx",
                3 => "3xx",
                4 => "4xx",
                5 => "5xx",
                _ => "other",
            },
            Err(_) => "none",
        };
        self.labels.with(registry.as_str(), |label| {
            self.metrics.requests.with_label_values(&[label, kind.label(), status]).inc();
            self.metrics.latency.with_label_values(&[label]).observe(start.elapsed().as_secs_f64());
        });
        tracing::debug!(
            %method,
            host = %select::authority(url),
            path = url.path(),
            status,
            elapsed_ms = start.elapsed().as_millis() as u64,
            "asked upstream"
        );
        sent
    }
}
