//! The connection to the API server: its identity, read again when the files change that it is made of.
//!
//! Kubelet rotates its client certificate in place: the kubeconfig names a link whose file is another one afterwards. A
//! kubeconfig may name a token file instead, which the client reads again by itself, or a program, which is run again
//! before its credential ends ([`super::credential_program`]). Promises: every question has an end; one connection is
//! made at a time; no secret is in an error.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::Request;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config as ClientConfig};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::answer_bounds::{Bound, BoundAnswers, Busy, OBJECT_BYTES_MAX, TooLarge, cause};
use super::credential_program;
use super::error::text_of;
use crate::kubernetes::config::Identity;

/// How long one question is waited for; a watch is no question.
pub(super) const ASK_WAIT: Duration = Duration::from_secs(10);
/// How long a connection may take to be made, with the program that is run for it.
const CONNECT_WAIT: Duration = Duration::from_secs(25);
/// How long the API server keeps a watch open: after that it is asked again from where it was, so that a connection
/// that died unseen is noticed.
const WATCH_FOR: Duration = Duration::from_secs(120);
/// How often all pods are listed although the watch goes on: a list comes from the API server's memory.
const LIST_EVERY: Duration = Duration::from_secs(3_600);
/// How often it is looked whether the files of the identity have changed.
pub(super) const FILES_LOOK: Duration = Duration::from_secs(5);

/// Characters of the API server's own words that are told on: it says in one or two sentences what it refuses.
const MESSAGE_CHARS_MAX: usize = 512;

/// The API server, asked as one identity about one node.
pub struct ApiServer {
    identity: Identity,
    pub(super) node: String,
    connection: Mutex<Option<Connection>>,
    /// Held while a connection is made: a program that hangs is not run a second time beside itself.
    connecting: tokio::sync::Mutex<()>,
    pub(super) waits: Waits,
}

/// How long the API server is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// For the answer to a question, a page of a list, or the beginning of a watch.
    pub answer: Duration,
    /// How long a watch lasts, after which it is asked for again.
    pub watch: Duration,
    /// How long after a list all pods are listed again at the earliest, although the watch goes on.
    pub list_every: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { answer: ASK_WAIT, watch: WATCH_FOR, list_every: LIST_EVERY }
    }
}

/// A client, and the files that it was made of.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    files: Vec<File>,
    /// When its credential is to be renewed.
    renew_at: Option<Instant>,
}

/// A file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    path: PathBuf,
    /// `None`: it could not be looked at.
    seen: Option<(SystemTime, u64, u64)>,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The files of the identity cannot be used.
    #[error("{0}")]
    Identity(String),
    /// There is no such object.
    #[error("there is no such object")]
    Missing,
    /// The API server does not know the identity: a certificate or a token that ended, or was withdrawn.
    #[error("the API server does not know the identity: {0}")]
    Unauthorized(String),
    /// The identity may not ask that.
    #[error("the API server refuses: {0}")]
    Forbidden(String),
    /// The API server has forgotten the version that was asked for (410).
    #[error("the API server has forgotten the version that it was asked for: {0}")]
    Gone(String),
    /// The API server has too much to do (429), and is not to be asked again for so long.
    #[error("the API server has too much to do (429)")]
    Busy(Duration),
    /// The answer is larger than is taken.
    #[error("{0}")]
    TooLarge(String),
    /// The API server does not answer, or not in a way that is understood.
    #[error("{0}")]
    Unavailable(String),
}

impl ApiServer {
    /// Asks as `identity` about `node`. Nothing is read or connected to yet.
    pub fn new(identity: Identity, node: String) -> Self {
        Self {
            identity,
            node,
            connection: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            waits: Waits::default(),
        }
    }

    /// The same with other limits of time.
    #[must_use]
    pub fn with_waits(self, waits: Waits) -> Self {
        Self { waits, ..self }
    }

    /// The connection, made anew where the files of the identity have changed or its credential ends.
    pub(super) async fn connection(&self) -> Result<Connection, AskError> {
        if let Some(known) = self.known().await {
            return Ok(known);
        }
        let _one = self.connecting.lock().await;
        if let Some(known) = self.known().await {
            return Ok(known);
        }
        let made = timeout(CONNECT_WAIT, connect(&self.identity, self.waits)).await;
        let made = made.map_err(|_| AskError::Identity("no connection was made in time".to_owned()))??;
        *self.connection.lock() = Some(made.clone());
        Ok(made)
    }

    /// The connection that there is, if nothing has changed that it was made of.
    async fn known(&self) -> Option<Connection> {
        let known = self.connection.lock().clone()?;
        (!known.has_changed().await).then_some(known)
    }

    /// What a client's error says. An identity that is not known is read again for the next question.
    pub(super) fn failed(&self, error: &kube::Error) -> AskError {
        let error = ask_error(error);
        if matches!(error, AskError::Unauthorized(_)) {
            *self.connection.lock() = None;
        }
        error
    }

    /// The answer to a request about one object, as text of [`OBJECT_BYTES_MAX`] at most.
    pub(super) async fn ask(&self, request: Request<Vec<u8>>) -> Result<String, AskError> {
        self.ask_bounded(request, OBJECT_BYTES_MAX).await
    }

    /// The answer to a request, as text of so many bytes at most.
    pub(super) async fn ask_bounded(
        &self,
        mut request: Request<Vec<u8>>,
        bytes_max: u64,
    ) -> Result<String, AskError> {
        request.extensions_mut().insert(Bound::Whole(bytes_max));
        let client = self.connection().await?.client;
        let answer = timeout(self.waits.answer, client.request_text(request)).await;
        answer.map_err(|_| no_answer())?.map_err(|error| self.failed(&error))
    }

    /// The object at a path, as text.
    pub(super) async fn get(&self, path: String) -> Result<String, AskError> {
        let request = Request::get(path).body(Vec::new());
        self.ask(request.map_err(|error| AskError::Unavailable(error.to_string()))?).await
    }
}

impl Connection {
    /// Whether a file that it was made of is another one now, or its credential ends.
    pub(super) async fn has_changed(&self) -> bool {
        if self.renew_at.is_some_and(|at| at <= Instant::now()) {
            return true;
        }
        let files = self.files.clone();
        let look = move || files.iter().any(|file| File::seen(&file.path) != *file);
        tokio::task::spawn_blocking(look).await.unwrap_or(true)
    }
}

impl File {
    fn seen(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let seen = std::fs::metadata(path).and_then(|file| Ok((file.modified()?, file.len(), file.ino())));
        Self { path: path.to_owned(), seen: seen.ok() }
    }
}

/// The API server gives no answer within its time.
pub(super) fn no_answer() -> AskError {
    AskError::Unavailable("the API server gives no answer in time".to_owned())
}

/// What an error of the client says; never content.
fn ask_error(error: &kube::Error) -> AskError {
    match error {
        kube::Error::Api(status) if status.code == 404 => AskError::Missing,
        kube::Error::Api(status) if status.code == 401 => AskError::Unauthorized(message(status)),
        kube::Error::Api(status) if status.code == 403 => AskError::Forbidden(message(status)),
        kube::Error::Api(status) if status.code == 410 => AskError::Gone(message(status)),
        // As an event of a watch.
        kube::Error::Api(status) if status.code == 429 => {
            let seconds = status.details.as_ref().map_or(1, |details| details.retry_after_seconds.max(1));
            AskError::Busy(Busy::for_seconds(seconds.into()).wait)
        }
        other => match cause::<Busy>(other) {
            Some(Busy { wait }) => AskError::Busy(*wait),
            None if cause::<TooLarge>(other).is_some() => AskError::TooLarge(text_of(other)),
            None => AskError::Unavailable(text_of(other)),
        },
    }
}

/// The beginning of what the API server says to a refusal.
fn message(status: &kube::core::Status) -> String {
    status.message.chars().take(MESSAGE_CHARS_MAX).collect()
}

async fn connect(identity: &Identity, waits: Waits) -> Result<Connection, AskError> {
    let failed = |error: &(dyn std::error::Error + 'static)| AskError::Identity(text_of(error));
    // The same library that all of Larder's connections use; a process has one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (mut config, files) = match identity {
        // Its token is read again by the client, before it expires.
        Identity::InCluster => {
            let config = ClientConfig::incluster().map_err(|error| failed(&error))?;
            let files = config.root_cert_file.iter().map(|path| File::seen(path)).collect();
            (config, files)
        }
        Identity::Kubeconfig(path) => {
            let own = path.clone();
            let read = tokio::task::spawn_blocking(move || {
                let seen = File::seen(&own);
                Kubeconfig::read_from(&own).map(|read| (seen, read))
            });
            let (seen, kubeconfig) = match read.await {
                // Where a parser stumbles it quotes, and a kubeconfig has secrets in it.
                Ok(Err(KubeconfigError::Parse(_))) => {
                    return Err(AskError::Identity(format!("{} is no kubeconfig", path.display())));
                }
                Ok(read) => read.map_err(|error| failed(&error))?,
                Err(error) => return Err(failed(&error)),
            };
            let mut files = vec![seen];
            files.extend(named_in(&kubeconfig).iter().map(|path| File::seen(path)));
            let (current, has_proxy) = (KubeConfigOptions::default(), has_proxy(&kubeconfig));
            let config = ClientConfig::from_custom_kubeconfig(kubeconfig, &current).await;
            let mut config = config.map_err(|error| failed(&error))?;
            if !has_proxy {
                // The client took HTTPS_PROXY, and it knows no NO_PROXY: those are the way to registries.
                config.proxy_url = None;
            }
            (config, files)
        }
    };
    let renew_at = credential_program::resolve(&mut config.auth_info).await.map_err(AskError::Identity)?;
    // A connection on which nothing comes for longer than a watch lasts is dead.
    config.read_timeout = Some(waits.watch + waits.answer);
    config.reset_reader_on_write = true;
    // It would ask again after 5 ms, and up to fifteen times; what failed is asked again by those who know how urgent
    // it is.
    config.default_retry = false;
    let client = ClientBuilder::try_from(config).map_err(|error| failed(&error))?;
    let client = client.with_layer(&BoundAnswers).build();
    Ok(Connection { client, files, renew_at })
}

/// Whether the cluster of the current context is behind a proxy that the kubeconfig names.
fn has_proxy(kubeconfig: &Kubeconfig) -> bool {
    let context =
        kubeconfig.contexts.iter().find(|one| Some(&one.name) == kubeconfig.current_context.as_ref());
    let Some(context) = context.and_then(|one| one.context.as_ref()) else { return false };
    let cluster = kubeconfig.clusters.iter().find(|one| one.name == context.cluster);
    let proxy = cluster.and_then(|one| one.cluster.as_ref()?.proxy_url.as_deref());
    proxy.is_some_and(|proxy| !proxy.is_empty())
}

/// The files that a kubeconfig names and that are read once.
fn named_in(kubeconfig: &Kubeconfig) -> Vec<PathBuf> {
    let users = kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref());
    let of_users = users.flat_map(|user| [&user.client_certificate, &user.client_key]);
    let clusters = kubeconfig.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref());
    let of_clusters = clusters.map(|cluster| &cluster.certificate_authority);
    of_users.chain(of_clusters).flatten().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = r#"{"apiVersion":"v1","kind":"Config","current-context":"c",
        "clusters":[{"name":"k","cluster":{"server":"https://127.0.0.1:1","certificate-authority":"ca.pem"}}],
        "contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],
        "users":[{"name":"u","user":{"tokenFile":"token"}}]}"#;

    #[tokio::test]
    async fn a_certificate_that_is_rotated_in_place_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("kubelet.conf"), KUBECONFIG).unwrap();
        std::fs::write(at("token"), "t").unwrap();
        let certificate = |name: &str| {
            let key = rcgen::generate_simple_self_signed(["k".to_owned()]).unwrap();
            std::fs::write(at(name), key.cert.pem()).unwrap();
        };
        certificate("ca-1.pem");
        std::os::unix::fs::symlink("ca-1.pem", at("ca.pem")).unwrap();
        let server = ApiServer::new(Identity::Kubeconfig(at("kubelet.conf")), "node-1".to_owned());
        let first = server.connection().await.unwrap();
        assert!(!first.has_changed().await);
        certificate("ca-2.pem");
        std::fs::remove_file(at("ca.pem")).unwrap();
        std::os::unix::fs::symlink("ca-2.pem", at("ca.pem")).unwrap();
        assert!(first.has_changed().await);
        assert!(!server.connection().await.unwrap().has_changed().await, "made anew");
    }

    #[tokio::test]
    async fn a_proxy_that_a_kubeconfig_names_is_not_passed_by_in_silence() {
        let directory = tempfile::tempdir().unwrap();
        let (file, ca) = (directory.path().join("kubelet.conf"), directory.path().join("ca.pem"));
        let key = rcgen::generate_simple_self_signed(["k".to_owned()]).unwrap();
        std::fs::write(&ca, key.cert.pem()).unwrap();
        let named = KUBECONFIG.replace("\"server\":", "\"proxy-url\":\"http://proxy.test:3128\",\"server\":");
        std::fs::write(&file, named).unwrap();
        let server = ApiServer::new(Identity::Kubeconfig(file), "node-1".to_owned());
        let Err(error) = server.connection().await else { panic!("the API server is asked past the proxy") };
        assert!(error.to_string().contains("proxy-url"), "{error}");
    }

    #[tokio::test]
    async fn files_that_cannot_be_used_are_named_and_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kubelet.conf");
        let server = ApiServer::new(Identity::Kubeconfig(file.clone()), "node-1".to_owned());
        assert!(matches!(server.get("/api".to_owned()).await, Err(AskError::Identity(_))));
        std::fs::write(&file, "{\"users\": marker").unwrap();
        let error = server.get("/api".to_owned()).await.unwrap_err().to_string();
        assert!(!error.contains("marker"), "{error}");
    }
}
