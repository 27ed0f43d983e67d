//! The connection to the API server: its identity, read again when the files change that it is made of.
//!
//! Kubelet rotates its client certificate in place: the kubeconfig names a link whose file is another one afterwards. A
//! kubeconfig may name a token file or a program instead, which the client reads and runs again by itself.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config as ClientConfig};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::config::Identity;
use crate::reference::Image;

/// How long one question is waited for; a watch is no question.
pub(super) const ASK_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked whether the files of the identity have changed.
pub(super) const FILES_LOOK: Duration = Duration::from_secs(5);

/// The API server, asked as one identity about one node.
pub struct ApiServer {
    identity: Identity,
    pub(super) node: String,
    connection: Mutex<Option<Connection>>,
    /// The images in the node's status, and when they were read.
    pub(super) node_images: Mutex<Option<(Instant, HashSet<Image>)>>,
}

/// A client, and the files that it was made of.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    files: Vec<File>,
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
    /// The identity is not known, or may not ask that.
    #[error("the API server refuses: {0}")]
    Forbidden(String),
    /// The API server does not answer, or not in a way that is understood.
    #[error("{0}")]
    Unavailable(String),
}

impl ApiServer {
    /// Asks as `identity` about `node`. Nothing is read or connected to yet.
    pub fn new(identity: Identity, node: String) -> Self {
        Self { identity, node, connection: Mutex::default(), node_images: Mutex::default() }
    }

    /// The connection, made anew where the files of the identity have changed.
    pub(super) async fn connection(&self) -> Result<Connection, AskError> {
        let known = self.connection.lock().clone();
        if let Some(known) = known
            && !known.has_changed().await
        {
            return Ok(known);
        }
        let made = connect(&self.identity).await?;
        *self.connection.lock() = Some(made.clone());
        Ok(made)
    }

    /// The answer to a request, as text.
    pub(super) async fn ask(&self, request: Request<Vec<u8>>) -> Result<String, AskError> {
        let client = self.connection().await?.client;
        let answer = timeout(ASK_WAIT, client.request_text(request)).await;
        answer.map_err(|_| AskError::Unavailable("no answer in time".to_owned()))?.map_err(|e| ask_error(&e))
    }

    /// The object at a path, as text.
    pub(super) async fn get(&self, path: String) -> Result<String, AskError> {
        let request = Request::get(path).body(Vec::new());
        self.ask(request.map_err(|error| AskError::Unavailable(error.to_string()))?).await
    }
}

impl Connection {
    /// Whether a file that it was made of is another one now.
    pub(super) async fn has_changed(&self) -> bool {
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

/// What an error of the client says; never content.
pub(super) fn ask_error(error: &kube::Error) -> AskError {
    match error {
        kube::Error::Api(status) if status.code == 404 => AskError::Missing,
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            AskError::Forbidden(status.message.clone())
        }
        other => AskError::Unavailable(crate::support::causes::with_causes(other)),
    }
}

async fn connect(identity: &Identity) -> Result<Connection, AskError> {
    let failed =
        |error: &dyn std::error::Error| AskError::Identity(crate::support::causes::with_causes(error));
    // The same library that all of Larder's connections use; a process has one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (config, files) = match identity {
        // Its token is read again by the client, before it expires.
        Identity::InCluster => (ClientConfig::incluster().map_err(|error| failed(&error))?, Vec::new()),
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
            let current = KubeConfigOptions::default();
            let config = ClientConfig::from_custom_kubeconfig(kubeconfig, &current).await;
            (config.map_err(|error| failed(&error))?, files)
        }
    };
    let client = Client::try_from(config).map_err(|error| failed(&error))?;
    Ok(Connection { client, files })
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
