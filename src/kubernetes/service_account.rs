//! Service accounts of this node's pods and their tokens, for the credential plugins of kubelet that ask for them.
//!
//! Promises: a token is requested for a pod of this node alone, and only where a plugin asks for one and its last
//! answer does not count any more; equal requests at one time are one; a token is used for five minutes and dropped
//! within another, never written, and wiped when it is dropped; what the identity may not ask for is said once and
//! asked for again only after a while. Not wiped: the copies that the client for the API server makes of an answer
//! while it reads it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::kept_answers::KeptAnswers;
use crate::credentials::{
    AccountError, AccountSource, Credential, Keychain, PodAccount, Secret, ServiceAccount,
};
use crate::reference::Repository;
use crate::support::bounded_map::BoundedMap;

/// How long an account counts that was read, and what could not be had: the images of one pod follow each other within
/// seconds.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// How long a token is used: half of the ten minutes that the API server lets one live at least. (Kubelet uses one for
/// 80 % of its time, an hour by default.)
const TOKEN_USED_FOR: Duration = Duration::from_secs(300);
/// Accounts and tokens that are kept at most, each.
const KEPT_MAX: usize = 256;
/// Bytes of a token at most: those in use have one or two thousand.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an account's annotations at most: the API server's own limit.
const ANNOTATION_BYTES_MAX: usize = 256 * 1024;
/// How long an answer of the API server is waited for.
const ASK_WAIT: Duration = Duration::from_secs(5);
/// What is refused or missing is asked for again after this: the API server learns which pods are bound to a node a
/// moment after the watch tells of them.
const REFUSED_WAITS: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(750)];
/// Refusals that are remembered as said at most: a configuration has an audience or two.
const SAID_MAX: usize = 64;

/// Gives what plugins give for the service accounts of pods.
pub struct ServiceAccounts {
    keychain: Keychain,
    source: Kept,
}

impl ServiceAccounts {
    /// Runs the plugins of `keychain`, with accounts and tokens of `source`.
    pub fn new(keychain: Keychain, source: Arc<dyn AccountSource>) -> Self {
        Self { keychain, source: Kept::new(source) }
    }

    /// Drops what counts no more.
    pub(super) fn forget_old(&self) {
        self.source.accounts.forget_old();
        self.source.tokens.forget_old();
    }

    /// Whether a plugin asks for a pod's service account to give a credential for `repository`.
    pub(super) fn are_wanted_for(&self, repository: &Repository) -> bool {
        self.keychain.wants_account_for(repository)
    }

    /// What plugins give for `repository` and the service account of `pod`.
    pub(super) async fn credentials(
        &self,
        repository: &Repository,
        pod: &PodAccount,
    ) -> Result<Vec<Credential>, AccountError> {
        self.keychain.account_credentials(repository, pod, &self.source).await
    }
}

type Answers<K, V> = KeptAnswers<K, Result<V, AccountError>>;

/// A source whose answers are kept for a while.
struct Kept {
    source: Arc<dyn AccountSource>,
    /// By namespace and name.
    accounts: Answers<(String, String), ServiceAccount>,
    /// By pod and audience.
    tokens: Answers<(PodAccount, String), Secret>,
    /// What was said to be refused.
    said: Mutex<BoundedMap<Refused, ()>>,
}

/// What the identity may not ask for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Refused {
    /// Service accounts.
    Accounts,
    /// Tokens of them.
    Tokens { audience: String },
}

impl Refused {
    fn warn(&self, why: &str) {
        match self {
            Self::Accounts => tracing::warn!(
                why,
                "service accounts of pods may not be asked for: credential plugins that need them are not run"
            ),
            Self::Tokens { audience } => tracing::warn!(
                audience,
                why,
                "tokens of pods' service accounts may not be asked for with this audience: credential plugins that need them are not run"
            ),
        }
    }
}

impl Kept {
    fn new(source: Arc<dyn AccountSource>) -> Self {
        let (accounts, tokens) = (KeptAnswers::new(KEPT_MAX), KeptAnswers::new(KEPT_MAX));
        Self { source, accounts, tokens, said: Mutex::new(BoundedMap::new(SAID_MAX)) }
    }

    /// Says once that the identity may not ask for this.
    fn say(&self, refused: Refused, why: &str) {
        if self.said.lock().insert(refused.clone(), ()).is_none() {
            refused.warn(why);
        }
    }
}

/// How long an answer counts: one that is good for `used_for`, and one that is not known for nothing.
fn counts_for<V>(answer: &Result<V, AccountError>, used_for: Duration) -> Duration {
    match answer {
        Ok(_) => used_for,
        Err(AccountError::Forbidden(_) | AccountError::Missing) => KEPT_FOR,
        Err(AccountError::Unavailable(_)) => Duration::ZERO,
    }
}

/// The answer of `ask`, which is asked again for a moment while it refuses.
async fn asked<'a, V>(ask: impl Fn() -> BoxFuture<'a, Result<V, AccountError>>) -> Result<V, AccountError> {
    let mut waits = REFUSED_WAITS.iter();
    loop {
        let answer = timeout(ASK_WAIT, ask()).await;
        match answer.unwrap_or_else(|_| Err(AccountError::Unavailable("no answer in time".to_owned()))) {
            Err(error @ (AccountError::Forbidden(_) | AccountError::Missing)) => match waits.next() {
                Some(wait) => sleep(*wait).await,
                None => return Err(error),
            },
            other => return other,
        }
    }
}

fn unknown() -> AccountError {
    AccountError::Unavailable("the question failed".to_owned())
}

fn within_bounds(account: ServiceAccount) -> Result<ServiceAccount, AccountError> {
    let bytes: usize = account.annotations.iter().map(|(key, text)| key.len() + text.len()).sum();
    if bytes > ANNOTATION_BYTES_MAX {
        return Err(AccountError::Unavailable("its answer has too many annotations".to_owned()));
    }
    Ok(account)
}

fn token_within_bounds(token: Secret) -> Result<Secret, AccountError> {
    match token.reveal().len() {
        1..=TOKEN_BYTES_MAX => Ok(token),
        _ => Err(AccountError::Unavailable("its answer has no token".to_owned())),
    }
}

impl AccountSource for Kept {
    fn account<'a>(&'a self, pod: &'a PodAccount) -> BoxFuture<'a, Result<ServiceAccount, AccountError>> {
        async move {
            let key = (pod.namespace.clone(), pod.service_account.clone());
            let (source, of) = (Arc::clone(&self.source), pod.clone());
            let ask = || async move {
                asked(|| async { source.account(&of).await.and_then(within_bounds) }.boxed()).await
            };
            let answer = self.accounts.get(key, |answer| counts_for(answer, KEPT_FOR), ask).await;
            let answer = answer.unwrap_or_else(|| Err(unknown()));
            if let Err(AccountError::Forbidden(why)) = &answer {
                self.say(Refused::Accounts, why);
            }
            answer
        }
        .boxed()
    }

    fn token<'a>(
        &'a self,
        pod: &'a PodAccount,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<Secret, AccountError>> {
        async move {
            let key = (pod.clone(), audience.to_owned());
            let (source, (of, wanted)) = (Arc::clone(&self.source), key.clone());
            let ask = || async move {
                asked(|| async { source.token(&of, &wanted).await.and_then(token_within_bounds) }.boxed())
                    .await
            };
            let answer = self.tokens.get(key, |answer| counts_for(answer, TOKEN_USED_FOR), ask).await;
            let answer = answer.unwrap_or_else(|| Err(unknown()));
            if let Err(AccountError::Forbidden(why)) = &answer {
                self.say(Refused::Tokens { audience: audience.to_owned() }, why);
            }
            answer
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::support::log_for_tests::Log;

    /// Answers with what is next, the last for ever, and writes down what it was asked.
    #[derive(Default)]
    struct Scripted {
        tokens: Mutex<Vec<Result<Secret, AccountError>>>,
        asked: Mutex<Vec<String>>,
    }

    impl AccountSource for Scripted {
        fn account<'a>(&'a self, pod: &'a PodAccount) -> BoxFuture<'a, Result<ServiceAccount, AccountError>> {
            self.asked.lock().push(format!("{}/{}", pod.namespace, pod.service_account));
            async { Ok(ServiceAccount { uid: "u".to_owned(), annotations: BTreeMap::new() }) }.boxed()
        }

        fn token<'a>(
            &'a self,
            pod: &'a PodAccount,
            audience: &'a str,
        ) -> BoxFuture<'a, Result<Secret, AccountError>> {
            self.asked.lock().push(format!("{}/{} {audience}", pod.namespace, pod.pod));
            let mut tokens = self.tokens.lock();
            let answer = if tokens.len() > 1 { tokens.remove(0) } else { tokens[0].clone() };
            async move { answer }.boxed()
        }
    }

    fn scene(tokens: Vec<Result<Secret, AccountError>>) -> (Kept, Arc<Scripted>) {
        let source = Arc::new(Scripted { tokens: Mutex::new(tokens), ..Scripted::default() });
        (Kept::new(Arc::clone(&source) as _), source)
    }

    fn pod(name: &str) -> PodAccount {
        let text = str::to_owned;
        PodAccount {
            namespace: text("shop"),
            service_account: text("builder"),
            pod: text(name),
            uid: text(name),
        }
    }

    fn token(text: &str) -> Result<Secret, AccountError> {
        Ok(text.to_owned().into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_of_one_pod_and_audience_and_is_requested_anew_before_it_ends() {
        let (kept, source) = scene(vec![token("one"), token("two"), token("three"), token("four")]);
        let ask = async |name: &str, audience: &str| {
            kept.token(&pod(name), audience).await.map(|token| token.reveal().to_owned()).unwrap()
        };
        let together = tokio::join!(ask("a", "reg"), ask("a", "reg"));
        assert_eq!(together, ("one".to_owned(), "one".to_owned()));
        assert_eq!((ask("b", "reg").await, ask("a", "other").await), ("two".to_owned(), "three".to_owned()));
        tokio::time::advance(TOKEN_USED_FOR).await;
        assert_eq!(ask("a", "reg").await, "four");
        assert_eq!(source.asked.lock().len(), 4);
        let (a, b) = (pod("a"), pod("b"));
        let (one, other) = tokio::join!(kept.account(&a), kept.account(&b));
        assert!(one.is_ok() && other.is_ok());
        assert_eq!(source.asked.lock().len(), 5, "pods of one account ask for it once");
        tokio::time::advance(TOKEN_USED_FOR).await;
        kept.tokens.forget_old();
        kept.accounts.forget_old();
        assert_eq!(
            (kept.tokens.len(), kept.accounts.len()),
            (0, 0),
            "in memory no longer than they are used"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_asked_for_again_and_again_and_one_of_a_moment_costs_a_moment() {
        let refused = || Err(AccountError::Forbidden("no".to_owned()));
        let (kept, source) = scene(vec![refused(), Err(AccountError::Missing), token("late")]);
        assert!(
            kept.token(&pod("a"), "reg").await.is_ok(),
            "the API server learns of the pod a moment later"
        );
        assert_eq!(source.asked.lock().len(), 3);
        let (kept, source) = scene(vec![refused()]);
        for _ in 0..10 {
            assert!(matches!(kept.token(&pod("a"), "reg").await, Err(AccountError::Forbidden(_))));
        }
        assert_eq!(source.asked.lock().len(), 1 + REFUSED_WAITS.len());
        tokio::time::advance(KEPT_FOR).await;
        assert!(kept.token(&pod("a"), "reg").await.is_err());
        assert!(source.asked.lock().len() > 1 + REFUSED_WAITS.len(), "asked again after a while");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_that_are_refused_are_told_though_accounts_were_before_whatever_the_audience() {
        let log = Log::of_this_thread();
        let (kept, _) = scene(vec![token("unused")]);
        for _ in 0..2 {
            for what in [Refused::Accounts, Refused::Tokens { audience: String::new() }] {
                kept.say(what, "no");
            }
        }
        let told = log.lines("WARN");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("service accounts of pods may not") && told[1].contains("tokens of"),
            "{told:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_no_token_is_used_for_nothing_and_not_kept() {
        let huge = || token(&"x".repeat(TOKEN_BYTES_MAX + 1));
        let away = Err(AccountError::Unavailable("away".to_owned()));
        let (kept, _) = scene(vec![huge(), token(""), away, token("good")]);
        for _ in 0..3 {
            assert!(matches!(kept.token(&pod("a"), "reg").await, Err(AccountError::Unavailable(_))));
        }
        assert!(kept.token(&pod("a"), "reg").await.is_ok());
        assert!(!format!("{:?}", kept.token(&pod("a"), "reg").await).contains("good"));
    }
}
