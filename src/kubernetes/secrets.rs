//! The pull secrets of a pod, read by name and merged as kubelet merges them.
//!
//! Kubelet reads `imagePullSecrets` of the pod alone: those of its service account were copied into it by the API
//! server's admission. A secret that does not exist is passed over; one that may not be read is waited for, and nothing
//! is asked without it; one that is malformed fails the pull, of every image of the pod, as it does with kubelet.
//! Promises: the images of a pod that begin together read a secret once; what was read counts for seconds, is dropped
//! within a minute after that, never written, and wiped when it is dropped; what a secret opens is proved by the
//! registry, as for any caller. Not wiped: the copies that the client for the API server makes of an answer while it
//! reads it, which are freed at once.
//!
//! The tenant who makes a secret chooses how much is in it: it is read away from the async threads, what is kept has a
//! bound of bytes, and a pod whose secrets have ever so many entries or bytes is left to kubelet.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::kept_answers::KeptAnswers;
use super::source::{Secret, SecretError, SecretSource};
use crate::credentials::PullSecrets;

/// How long a secret counts that was read: the images of one pod follow each other within seconds.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Secrets that are kept at most.
const KEPT_MAX: usize = 256;
/// Bytes of a secret at most: the API server's own limit is 1 MiB of content, in base64.
const SECRET_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of all secrets that are kept: a few of the largest, or all 256 of any that is in use.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of all secrets of a pod at most. Each fetch has a copy of what is in them for as long as it lasts.
const POD_BYTES_MAX: usize = SECRET_BYTES_MAX;
/// Entries of all secrets of a pod at most: some registries with a path for each team have a hundred.
const ENTRIES_MAX: usize = 1_024;
/// How long one secret is waited for.
const READ_WAIT: Duration = Duration::from_secs(5);
/// A secret that may not be read is asked for again after this: the API server learns which pods are bound to a node a
/// moment after the watch tells of them, and lets the node read their secrets from then on.
const FORBIDDEN_WAITS: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(750)];

/// Why the pull secrets of a pod cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PodSecretsError {
    /// Kubelet does not pull with it either.
    #[error("a pull secret of the pod cannot be used: {0}")]
    Malformed(String),
    /// Which credentials kubelet will use is not known.
    #[error("a pull secret of the pod cannot be read: {0}")]
    Unavailable(String),
}

/// A secret; `None`: it was not there.
type Read = Result<Option<Secret>, PodSecretsError>;

/// Pull secrets of pods, through a source.
pub(super) struct PodSecrets {
    source: Arc<dyn SecretSource>,
    /// By namespace and name.
    kept: KeptAnswers<(String, String), Read>,
    /// Held while a secret is merged: one that is refused for its entries takes some 30 MB until then.
    merging: Arc<Mutex<()>>,
}

impl PodSecrets {
    pub(super) fn new(source: Arc<dyn SecretSource>) -> Self {
        let bytes_of = |read: &Read| match read {
            Ok(Some(secret)) => secret.manifest.len(),
            _ => 0,
        };
        Self {
            source,
            kept: KeptAnswers::of_bytes(KEPT_MAX, KEPT_BYTES_MAX, bytes_of),
            merging: Arc::default(),
        }
    }

    /// Drops what counts no more.
    pub(super) fn forget_old(&self) {
        self.kept.forget_old();
    }

    /// How many are in memory.
    #[cfg(test)]
    pub(super) fn in_memory(&self) -> usize {
        self.kept.len()
    }

    /// The secrets of these names, merged. One that does not exist is passed over. One that may not be read is not:
    /// kubelet may read it, and without it the image would be asked for as another caller.
    pub(super) async fn merged(
        &self,
        namespace: &str,
        names: &[String],
    ) -> Result<PullSecrets, PodSecretsError> {
        let (mut merged, mut bytes) = (PullSecrets::default(), 0);
        for name in names {
            let Some(secret) = self.secret(namespace, name).await? else { continue };
            let shown = format!("{namespace}/{name}");
            bytes += secret.manifest.len();
            if bytes > POD_BYTES_MAX {
                return Err(PodSecretsError::Malformed(left_to_kubelet(&shown, "2 MiB")));
            }
            let one = Arc::clone(&self.merging).lock_owned().await;
            let reading = tokio::task::spawn_blocking(move || {
                // A caller that is gone leaves this work behind.
                let _one = one;
                added(merged, &shown, &secret)
            });
            merged = reading
                .await
                .unwrap_or_else(|_| Err(PodSecretsError::Unavailable("the merging failed".to_owned())))?;
        }
        Ok(merged)
    }

    async fn secret(&self, namespace: &str, name: &str) -> Read {
        let key = (namespace.to_owned(), name.to_owned());
        let (source, (namespace, name)) = (Arc::clone(&self.source), key.clone());
        let counts_for = |read: &Read| if read.is_ok() { KEPT_FOR } else { Duration::ZERO };
        let read = || async move { read(&*source, &namespace, &name).await };
        let read = self.kept.get(key, counts_for, read).await;
        read.unwrap_or_else(|| Err(PodSecretsError::Unavailable("the reading failed".to_owned())))
    }
}

/// These secrets, and one more. Takes as long as there are entries in it.
fn added(mut merged: PullSecrets, shown: &str, secret: &Secret) -> Result<PullSecrets, PodSecretsError> {
    let added = merged.add(Path::new(shown), &secret.manifest);
    added.map_err(|error| PodSecretsError::Malformed(error.to_string()))?;
    if merged.entry_count() > ENTRIES_MAX {
        let more_than = format!("{ENTRIES_MAX} entries");
        return Err(PodSecretsError::Malformed(left_to_kubelet(shown, &more_than)));
    }
    Ok(merged)
}

fn left_to_kubelet(shown: &str, more_than: &str) -> String {
    format!("with {shown} there are more than {more_than}: the pod is left to kubelet")
}

/// Reads a secret, again for a moment while it may not be read.
async fn read(source: &dyn SecretSource, namespace: &str, name: &str) -> Read {
    let mut waits = FORBIDDEN_WAITS.iter();
    loop {
        let asked = timeout(READ_WAIT, source.secret(namespace, name)).await;
        match asked.unwrap_or_else(|_| Err(SecretError::Unavailable("no answer in time".to_owned()))) {
            Ok(secret) if secret.manifest.len() > SECRET_BYTES_MAX => {
                return Err(PodSecretsError::Malformed(format!("{namespace}/{name} is too large")));
            }
            Ok(secret) => return Ok(Some(secret)),
            Err(SecretError::Missing) => return Ok(None),
            Err(SecretError::Forbidden) => match waits.next() {
                Some(wait) => sleep(*wait).await,
                None => {
                    let why = format!("the identity may not read {namespace}/{name}");
                    return Err(PodSecretsError::Unavailable(why));
                }
            },
            Err(SecretError::Unavailable(why)) => return Err(PodSecretsError::Unavailable(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use parking_lot::Mutex;

    use super::*;

    /// Secrets by name; each answer is taken once, the last stays.
    #[derive(Default)]
    struct Scripted {
        answers: Mutex<HashMap<String, Vec<Result<Secret, SecretError>>>>,
        asked: Mutex<Vec<String>>,
    }

    impl SecretSource for Scripted {
        fn secret<'a>(
            &'a self,
            namespace: &'a str,
            name: &'a str,
        ) -> BoxFuture<'a, Result<Secret, SecretError>> {
            self.asked.lock().push(format!("{namespace}/{name}"));
            let mut all = self.answers.lock();
            let answers = all.get_mut(name).filter(|answers| !answers.is_empty());
            let answer = answers.map_or(Err(SecretError::Missing), |answers| {
                if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
            });
            async move {
                tokio::task::yield_now().await;
                answer
            }
            .boxed()
        }
    }

    fn good(host: &str) -> Result<Secret, SecretError> {
        let config = format!(r#"{{"auths":{{"{host}":{{"username":"ann","password":"marker"}}}}}}"#);
        let manifest = serde_json::json!({"kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config}});
        Ok(Secret { manifest: serde_json::to_vec(&manifest).unwrap().into() })
    }

    fn scene(answers: &[(&str, Vec<Result<Secret, SecretError>>)]) -> (PodSecrets, Arc<Scripted>) {
        let source = Arc::new(Scripted::default());
        for (name, answers) in answers {
            source.answers.lock().insert((*name).to_owned(), answers.clone());
        }
        (PodSecrets::new(Arc::clone(&source) as _), source)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// A secret of so many entries, each of another host, after so many bytes of nothing.
    fn many(entries: usize, padding: usize) -> Result<Secret, SecretError> {
        let auths: Vec<String> = (0..entries).map(|n| format!(r#""h{n:05}.test":{{}}"#)).collect();
        let config = format!(r#"{{"auths":{{{}}}{}}}"#, auths.join(","), " ".repeat(padding));
        let manifest = serde_json::json!({"kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config}});
        Ok(Secret { manifest: serde_json::to_vec(&manifest).unwrap().into() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_with_ever_so_many_credentials_is_left_to_kubelet() {
        let half = ENTRIES_MAX / 2;
        let (secrets, source) =
            scene(&[("a", vec![many(half, 0)]), ("b", vec![many(half, 0)]), ("c", vec![many(1, 0)])]);
        let merged = secrets.merged("shop", &names(&["a", "b"])).await.unwrap();
        assert_eq!(merged.entry_count(), ENTRIES_MAX);
        let error = secrets.merged("shop", &names(&["a", "b", "c"])).await.unwrap_err();
        assert!(matches!(&error, PodSecretsError::Malformed(why) if why.contains("kubelet")), "{error}");
        assert_eq!(source.asked.lock().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_secrets_of_many_pods_are_kept_by_their_bytes() {
        let megabytes = 1_400_000;
        let all: Vec<String> = (0..13).map(|n| format!("s{n}")).collect();
        let answers: Vec<_> = all.iter().map(|name| (name.as_str(), vec![many(1, megabytes)])).collect();
        let (secrets, _) = scene(&answers);
        for of_pod in all.chunks(1) {
            secrets.merged("shop", of_pod).await.unwrap();
        }
        assert_eq!(secrets.in_memory(), KEPT_BYTES_MAX / megabytes);
        let error = secrets.merged("shop", &all[..2]).await.unwrap_err();
        assert!(matches!(&error, PodSecretsError::Malformed(why) if why.contains("2 MiB")), "{error}");
        let (secrets, _) = scene(&[("huge", vec![many(1, SECRET_BYTES_MAX)])]);
        assert!(secrets.merged("shop", &names(&["huge"])).await.is_err());
        assert_eq!(secrets.in_memory(), 0, "not even for a moment");
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_secret_is_passed_over_and_all_others_are_merged() {
        let (secrets, source) = scene(&[("a", vec![good("a.test")]), ("b", vec![good("b.test")])]);
        let merged = secrets.merged("shop", &names(&["a", "none", "b"])).await.unwrap();
        assert_eq!(format!("{merged:?}"), "PullSecrets(2 entries)");
        secrets.merged("shop", &names(&["a", "none", "b"])).await.unwrap();
        assert_eq!(source.asked.lock().len(), 3, "the images of one pod ask once");
        let (own, others) = (names(&["c", "b"]), names(&["c"]));
        let (one, two, three) = tokio::join!(
            secrets.merged("shop", &own),
            secrets.merged("shop", &own),
            secrets.merged("shop", &others)
        );
        assert!(one.is_ok() && two.is_ok() && three.is_ok());
        assert_eq!(source.asked.lock().len(), 4, "also where they ask at once");
        secrets.merged("bank", &names(&["a"])).await.unwrap();
        tokio::time::advance(KEPT_FOR).await;
        secrets.merged("shop", &names(&["a"])).await.unwrap();
        assert_eq!(*source.asked.lock(), ["shop/a", "shop/none", "shop/b", "shop/c", "bank/a", "shop/a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_a_node_may_read_a_moment_later_is_not_left_out() {
        let forbidden = || Err(SecretError::Forbidden);
        let (secrets, _) = scene(&[("late", vec![forbidden(), forbidden(), good("a.test")])]);
        let merged = secrets.merged("shop", &names(&["late"])).await.unwrap();
        assert_eq!(format!("{merged:?}"), "PullSecrets(1 entries)");
        let (secrets, source) = scene(&[("never", vec![forbidden()])]);
        let error = secrets.merged("shop", &names(&["never"])).await.unwrap_err();
        assert!(matches!(&error, PodSecretsError::Unavailable(why) if why.contains("shop/never")), "{error}");
        assert_eq!(source.asked.lock().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_is_not_known_is_no_reason_to_ask_without_it() {
        let away = Err(SecretError::Unavailable("away".to_owned()));
        let malformed = Ok(Secret {
            manifest:
                br#"{"kind":"Secret","type":"kubernetes.io/dockercfg","stringData":{".dockercfg":"{marker"}}"#
                    .to_vec()
                    .into(),
        });
        let (secrets, _) = scene(&[("away", vec![away]), ("bad", vec![malformed])]);
        let error = secrets.merged("shop", &names(&["away"])).await.unwrap_err();
        assert!(matches!(error, PodSecretsError::Unavailable(_)), "{error}");
        let error = secrets.merged("shop", &names(&["bad"])).await.unwrap_err();
        assert!(matches!(error, PodSecretsError::Malformed(_)), "{error}");
        let shown = error.to_string();
        assert!(shown.contains("shop/bad") && !shown.contains("marker"), "{shown}");
    }
}
