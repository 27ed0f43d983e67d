//! A Kubernetes API server in this process, over TLS with client certificates: what a watch of a node's pods needs of it.
//!
//! It answers list and watch of pods (field selectors, `limit` and `continue`, bookmarks, `410 Gone`), `GET` of a
//! secret, of a node and of a service account, SelfSubjectAccessReview and TokenRequest, in the JSON of a real server.
//! The rights are those of the Node authorizer for a node's certificate, and a table for everything else. It records
//! every request and makes faults on demand. It stores nothing, knows no other resources and admits no writes.

mod answers;
mod identity;
pub mod objects;

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

#[allow(unused_imports, reason = "the type of a result; not each user names it")]
pub use identity::{Authorities, Identity};

type Wrong = Box<dyn Fn(&Asked) -> Option<ApiFault> + Send + Sync>;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: http::Method,
    pub path: String,
    pub query: BTreeMap<String, String>,
    /// The name in the certificate or of the token; empty without either.
    pub user: String,
    /// The digest of the client's certificate, if it has one.
    pub certificate: Option<String>,
}

impl Asked {
    pub fn is_watch(&self) -> bool {
        self.query.get("watch").is_some_and(|value| matches!(value.as_str(), "true" | "1"))
    }

    pub fn is_list_of_pods(&self) -> bool {
        self.path.ends_with("/pods") && !self.is_watch()
    }
}

/// What the server does instead of its normal answer.
#[derive(Clone)]
pub enum ApiFault {
    /// A `Status` object with this code and reason; with 429, `Retry-After: 2` in the head.
    Status(u16, &'static str),
    /// No answer, ever.
    Hang,
    /// The normal answer, after a while.
    Late(Duration),
    /// This body with status 200.
    Body(String),
    /// This status, and a body without an end.
    Endless(u16),
}

/// What happens to all watches that are open.
#[derive(Debug, Clone)]
pub enum Interjection {
    /// The answer ends, as at its `timeoutSeconds`.
    End,
    /// The connection is closed within an event.
    CutInEvent,
    /// These bytes instead of an event.
    Raw(String),
    /// An event of the type `ERROR` with the code 410, after which the answer ends.
    Gone,
    /// Nothing more is sent, and the connection stays.
    Stall,
    /// A bookmark.
    Bookmark,
}

pub(super) struct Change {
    pub(super) version: u64,
    pub(super) kind: &'static str,
    pub(super) object: Arc<Value>,
}

#[derive(Default)]
pub(super) struct Cluster {
    /// By namespace and name.
    pub(super) pods: BTreeMap<(String, String), Arc<Value>>,
    pub(super) secrets: BTreeMap<(String, String), Value>,
    pub(super) service_accounts: BTreeMap<(String, String), Value>,
    pub(super) nodes: BTreeMap<String, Value>,
    pub(super) version: u64,
    /// Changes before this one are forgotten: who asks for them gets 410.
    pub(super) compacted: u64,
    pub(super) changes: Vec<Change>,
    /// Users whose certificate or token is refused with 401.
    pub(super) revoked: HashSet<String>,
    /// Tokens by their text: the user.
    pub(super) tokens: BTreeMap<String, String>,
    /// What users that are no node may do: (user, verb, resource).
    pub(super) rights: HashSet<(String, String, String)>,
    /// Audiences that a node may ask a token for.
    pub(super) audiences: HashSet<String>,
}

pub(super) struct Shared {
    pub(super) cluster: Mutex<Cluster>,
    pub(super) asked: Mutex<Vec<Asked>>,
    pub(super) wrong: Mutex<Vec<Wrong>>,
    /// The version of the newest change, for watches.
    pub(super) newest: watch::Sender<u64>,
    pub(super) interjections: broadcast::Sender<Interjection>,
    refuse_tls: Mutex<bool>,
}

/// The server. A drop stops it.
pub struct ApiServer {
    pub address: SocketAddr,
    pub authorities: Authorities,
    shared: Arc<Shared>,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().unwrap().take() {
            server.abort();
        }
    }
}

impl ApiServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            cluster: Mutex::new(Cluster { version: 1_000, ..Cluster::default() }),
            asked: Mutex::default(),
            wrong: Mutex::default(),
            newest: watch::Sender::new(1_000),
            interjections: broadcast::Sender::new(16),
            refuse_tls: Mutex::new(false),
        };
        let authorities = Authorities::new();
        let server = Self { address, authorities, shared: Arc::new(shared), server: Mutex::new(None) };
        server.serve(listener);
        server
    }

    fn serve(&self, listener: TcpListener) {
        let acceptor = TlsAcceptor::from(Arc::new(self.authorities.server()));
        let shared = Arc::clone(&self.shared);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                if *shared.refuse_tls.lock().unwrap() {
                    continue;
                }
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let peer = identity::of_connection(stream.get_ref().1);
                    let service = service_fn(move |request| {
                        let (shared, peer) = (Arc::clone(&shared), peer.clone());
                        async move { Ok::<_, Infallible>(answers::answer(&shared, peer, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        *self.server.lock().unwrap() = Some(server);
    }

    /// Stops the server: connections are refused from now on, and watches are cut.
    pub async fn stop(&self) {
        let server = self.server.lock().unwrap().take();
        if let Some(server) = server {
            server.abort();
            let _ = server.await;
        }
    }

    /// Starts the server again, at the same address and with what it had.
    pub async fn restart(&self) {
        self.serve(TcpListener::bind(self.address).await.unwrap());
    }

    /// Closes new connections before the handshake, or no more.
    pub fn refuse_tls(&self, refuse: bool) {
        *self.shared.refuse_tls.lock().unwrap() = refuse;
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    fn change(&self, kind: &'static str, change: impl FnOnce(&mut Cluster, u64) -> Option<Value>) {
        let version = {
            let mut cluster = self.shared.cluster.lock().unwrap();
            let version = cluster.version + 1;
            let Some(mut object) = change(&mut cluster, version) else { return };
            cluster.version = version;
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            let object = Arc::new(object);
            let key = objects::key(&object);
            if kind == "DELETED" {
                cluster.pods.remove(&key);
            } else {
                cluster.pods.insert(key, Arc::clone(&object));
            }
            cluster.changes.push(Change { version, kind, object });
            version
        };
        self.shared.newest.send_replace(version);
    }

    /// Adds a pod, or changes the one of that name.
    pub fn put_pod(&self, pod: impl Into<Value>) {
        let pod = pod.into();
        let known = self.shared.cluster.lock().unwrap().pods.contains_key(&objects::key(&pod));
        self.change(if known { "MODIFIED" } else { "ADDED" }, |_, _| Some(pod));
    }

    /// Adds a pod of which no watch is ever told, as where an event is lost on its way.
    pub fn put_pod_untold(&self, pod: impl Into<Value>) {
        let (mut pod, mut cluster) = (pod.into(), self.shared.cluster.lock().unwrap());
        cluster.version += 1;
        pod["metadata"]["resourceVersion"] = json!(cluster.version.to_string());
        cluster.pods.insert(objects::key(&pod), Arc::new(pod));
    }

    /// Changes a pod in place.
    pub fn edit_pod(&self, namespace: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        self.change("MODIFIED", |cluster, _| {
            let mut pod = Value::clone(cluster.pods.get(&(namespace.to_owned(), name.to_owned()))?);
            edit(&mut pod);
            Some(pod)
        });
    }

    /// Removes a pod at once, as after its grace period.
    pub fn remove_pod(&self, namespace: &str, name: &str) {
        self.change("DELETED", |cluster, _| {
            cluster.pods.get(&(namespace.to_owned(), name.to_owned())).map(|pod| Value::clone(pod))
        });
    }

    /// Adds a secret, or replaces it.
    pub fn put_secret(&self, secret: Value) {
        self.shared.cluster.lock().unwrap().secrets.insert(objects::key(&secret), secret);
    }

    pub fn remove_secret(&self, namespace: &str, name: &str) {
        self.shared.cluster.lock().unwrap().secrets.remove(&(namespace.to_owned(), name.to_owned()));
    }

    pub fn put_node(&self, node: Value) {
        let name = node["metadata"]["name"].as_str().unwrap().to_owned();
        self.shared.cluster.lock().unwrap().nodes.insert(name, node);
    }

    pub fn put_service_account(&self, account: Value) {
        self.shared.cluster.lock().unwrap().service_accounts.insert(objects::key(&account), account);
    }

    /// Forgets all changes: a watch from an older version is answered with 410.
    pub fn compact(&self) {
        let mut cluster = self.shared.cluster.lock().unwrap();
        cluster.version += 1;
        cluster.compacted = cluster.version;
        cluster.changes.clear();
    }

    /// Lets a user that is no node do this with a resource.
    pub fn allow(&self, user: &str, verb: &str, resource: &str) {
        let right = (user.to_owned(), verb.to_owned(), resource.to_owned());
        self.shared.cluster.lock().unwrap().rights.insert(right);
    }

    /// Makes this token the user's.
    pub fn know_token(&self, token: &str, user: &str) {
        self.shared.cluster.lock().unwrap().tokens.insert(token.to_owned(), user.to_owned());
    }

    /// Lets nodes ask for service accounts' tokens with this audience.
    pub fn allow_audience(&self, audience: &str) {
        self.shared.cluster.lock().unwrap().audiences.insert(audience.to_owned());
    }

    /// Refuses a user with 401 from now on, or no more.
    pub fn revoke(&self, user: &str, revoked: bool) {
        let revocations = &mut self.shared.cluster.lock().unwrap().revoked;
        if revoked {
            revocations.insert(user.to_owned());
        } else {
            revocations.remove(user);
        }
    }

    /// Does this to all watches that are open; whether there were any.
    pub fn interject(&self, what: Interjection) -> bool {
        self.shared.interjections.send(what).is_ok()
    }

    /// Waits until so many watches are open.
    pub async fn watched(&self, count: usize) {
        for _ in 0..1_000 {
            if self.shared.interjections.receiver_count() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} watches are open: {:#?}", self.shared.interjections.receiver_count(), self.asked());
    }

    /// Makes the fault that `wrong` returns for a request; the newest rule is asked first.
    pub fn wrong(&self, wrong: impl Fn(&Asked) -> Option<ApiFault> + Send + Sync + 'static) {
        self.shared.wrong.lock().unwrap().push(Box::new(wrong));
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.shared.wrong.lock().unwrap().clear();
        self.refuse_tls(false);
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many requests satisfy this.
    pub fn count(&self, is: impl Fn(&Asked) -> bool) -> usize {
        self.shared.asked.lock().unwrap().iter().filter(|asked| is(asked)).count()
    }
}
