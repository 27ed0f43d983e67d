//! What every step of one pull needs to know of its request: the repository, the caller, how urgent it is, until when.
//!
//! A [`PullContext`] is made once at the edge (`serve`, `prepull`) and handed down by reference; steps that go on after
//! the request has ended hold a clone, which is cheap.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::credentials::PresentedCredential;
use crate::pull::error::Error;
use crate::reference::{Principal, Reference, Repository};
use crate::upstream::{self, AskedEndpoints, ConnectStage, Patience};

/// Kept free of the time in which a client waits for an answer, so that a record can still be served in it.
const RECORD_RESERVE: Duration = Duration::from_secs(2);

/// The client that sent a request.
#[derive(Debug, Clone)]
pub enum Caller {
    /// It showed no credential and was not asked for one yet.
    Unidentified,
    /// It was asked and has no credential.
    Anonymous,
    /// It showed a credential.
    Presented(PresentedCredential),
}

impl Caller {
    /// Whether the client was asked for a credential already, or showed one.
    pub(crate) fn is_identified(&self) -> bool {
        !matches!(self, Self::Unidentified)
    }

    pub(crate) fn presented(&self) -> Option<&PresentedCredential> {
        match self {
            Self::Presented(presented) => Some(presented),
            Self::Unidentified | Self::Anonymous => None,
        }
    }

    pub(crate) fn principal(&self) -> Option<Principal> {
        self.presented().map(|presented| presented.principal)
    }

    /// Whether upstream is asked with the same credential for both.
    pub(crate) fn has_same_credential_as(&self, other: &Self) -> bool {
        self.principal() == other.principal()
    }
}

/// How urgent a pull is, the least urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Priority {
    /// No runtime waits for it: it yields to all others, and nothing is prefetched for it.
    Background,
    /// A runtime will wait for it, once it gets so far: it yields to what one waits for now, and goes before the
    /// background. Nothing is prefetched for it.
    Ahead,
    /// A runtime waits for it, or will in a moment.
    Foreground,
}

/// A number that distinguishes requests in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// A number that no request before had since the start.
    pub fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// As the log has it.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One pull, as every step of it sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PullContext(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    request_id: RequestId,
    repository: Repository,
    reference: Option<Reference>,
    caller: Caller,
    priority: Priority,
    deadline: Option<Instant>,
    patience: Patience,
    asked: AskedEndpoints,
    /// The request whose download this one reads, and the endpoints that it led to.
    download: Arc<OnceLock<(RequestId, AskedEndpoints)>>,
}

impl PullContext {
    /// A foreground pull without a deadline. `reference` is what the request names, for the log; a list names none.
    pub fn new(repository: Repository, reference: Option<Reference>, caller: Caller) -> Self {
        Self::of_request(RequestId::next(), repository, reference, caller)
    }

    /// The same for the request that has this number.
    pub fn of_request(
        request_id: RequestId,
        repository: Repository,
        reference: Option<Reference>,
        caller: Caller,
    ) -> Self {
        Self(Arc::new(Inner {
            request_id,
            repository,
            reference,
            caller,
            priority: Priority::Foreground,
            deadline: None,
            patience: Patience::Wait,
            asked: AskedEndpoints::default(),
            download: Arc::default(),
        }))
    }

    /// The same pull; its client waits for the head of an answer for so long.
    #[must_use]
    pub fn answered_within(self, wait: Duration) -> Self {
        self.change(|inner| inner.deadline = Some(Instant::now() + wait))
    }

    /// The same pull, as urgent as that.
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        self.change(|inner| inner.priority = priority)
    }

    /// The same pull, for which upstream is not waited for while it refuses connections: its client asks the registry
    /// itself, or there is something older to serve.
    #[must_use]
    pub fn without_patience(&self) -> Self {
        match self.patience() {
            Patience::None => self.clone(),
            Patience::Wait => self.clone().change(|inner| inner.patience = Patience::None),
        }
    }

    /// The same pull, that goes on after its client was answered.
    #[must_use]
    pub(crate) fn after_the_answer(&self) -> Self {
        self.clone().change(|inner| inner.deadline = None)
    }

    /// The same pull, of another repository: an arch alias, say.
    #[must_use]
    pub(crate) fn in_repository(&self, repository: Repository) -> Self {
        self.clone().change(|inner| inner.repository = repository)
    }

    /// The same pull by a client without a credential.
    #[must_use]
    pub(crate) fn as_anonymous(&self) -> Self {
        self.clone().change(|inner| inner.caller = Caller::Anonymous)
    }

    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Distinguishes requests in the log.
    pub fn request_id(&self) -> RequestId {
        self.0.request_id
    }

    /// The repository that is read.
    pub fn repository(&self) -> &Repository {
        &self.0.repository
    }

    /// What the request names.
    pub fn reference(&self) -> Option<&Reference> {
        self.0.reference.as_ref()
    }

    /// The client.
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// How urgent it is.
    pub fn priority(&self) -> Priority {
        self.0.priority
    }

    /// Whether it is worth waiting for an upstream that refuses connections.
    pub(crate) fn patience(&self) -> Patience {
        self.0.patience
    }

    /// The endpoints that the pull leads to, for the log.
    pub(crate) fn asked(&self) -> &AskedEndpoints {
        &self.0.asked
    }

    /// The URLs of the endpoints that were asked so far for the pull, or for the download that it reads.
    pub fn asked_urls(&self) -> Vec<String> {
        if let Some((_, of_leader)) = self.0.download.get() {
            self.0.asked.add(of_leader);
        }
        self.0.asked.urls()
    }

    /// The request that leads the download from which this one is answered, if it is answered from a download.
    pub fn download(&self) -> Option<RequestId> {
        self.0.download.get().map(|(leader, _)| *leader)
    }

    /// Records that the answer comes from the download that `leader` began; the first time counts.
    pub(crate) fn reads_download_of(&self, leader: &Self) {
        let _ = self.0.download.set((leader.request_id(), leader.asked().clone()));
    }

    /// Until when the client waits for the head of an answer; `None` if no client waits.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// Waits for `work` while there is time to serve something older instead; `None` when that time has come. The work
    /// stays where it is pinned: a future that is moved is copied, and these are large.
    pub(crate) async fn in_time<T>(&self, work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match self.deadline().and_then(|at| at.checked_sub(RECORD_RESERVE)) {
            Some(deadline) => timeout_at(deadline, work).await.ok(),
            None => Some(work.await),
        }
    }

    /// The error of a question to upstream that took too long for the client that waits. What the node used up before
    /// the registry was asked, or after it had answered, is no outage.
    pub(crate) fn too_slow(&self, wait: &UpstreamWait, begun: Instant) -> Error {
        if !wait.is_under_way() {
            return Error::OutOfTime { seconds: begun.elapsed().as_secs() };
        }
        let host = self.repository().registry().to_string();
        let why = "no answer in the time in which the client waits".to_owned();
        upstream::Error::Unreachable { host, stage: ConnectStage::Timeout, why }.into()
    }
}

/// Whether upstream is being waited for at this moment.
#[derive(Debug, Default)]
pub(crate) struct UpstreamWait(AtomicBool);

impl UpstreamWait {
    /// Waits for the answer to `request`.
    pub(crate) async fn ask<T>(&self, request: impl Future<Output = T>) -> T {
        self.0.store(true, Ordering::Relaxed);
        let result = request.await;
        self.0.store(false, Ordering::Relaxed);
        result
    }

    /// True also of a wait that was given up.
    fn is_under_way(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_that_the_node_used_up_by_itself_is_no_outage_of_the_registry() {
        let context = PullContext::new("reg.test/app".parse().unwrap(), None, Caller::Anonymous)
            .answered_within(Duration::from_secs(25));
        let (wait, begun) = (UpstreamWait::default(), Instant::now());
        let plugin = async {
            wait.ask(async {}).await;
            std::future::pending::<()>().await;
        };
        assert_eq!(context.in_time(pin!(plugin)).await, None);
        assert!(matches!(context.too_slow(&wait, begun), Error::OutOfTime { seconds: 23 }));
        assert_eq!(context.in_time(pin!(wait.ask(std::future::pending::<()>()))).await, None);
        let error = context.too_slow(&wait, begun);
        assert!(matches!(error, Error::Upstream(upstream::Error::Unreachable { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_derived_context_is_the_same_request_and_leaves_the_first_as_it_was() {
        let app: Repository = "reg.test/app".parse().unwrap();
        let first = PullContext::new(app.clone(), Some("v1".parse().unwrap()), Caller::Unidentified)
            .answered_within(Duration::from_secs(25));
        let other = first
            .in_repository("reg.test/app-arm64".parse().unwrap())
            .as_anonymous()
            .with_priority(Priority::Background);
        assert_eq!((first.repository(), first.priority()), (&app, Priority::Foreground));
        assert!(!first.caller().is_identified() && other.caller().is_identified());
        assert_eq!((other.request_id(), other.deadline()), (first.request_id(), first.deadline()));
        assert_ne!(PullContext::new(app, None, Caller::Anonymous).request_id(), first.request_id());
    }
}
