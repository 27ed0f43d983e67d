//! The answers: routes, rights, lists and watches.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};

use super::super::fault::Body;
use super::identity::Peer;
use super::{ApiFault, Asked, Cluster, Interjection, Shared, objects};

type Answer = Response<Body>;

pub(super) async fn answer(shared: &Arc<Shared>, peer: Option<Peer>, request: Request<Incoming>) -> Answer {
    let token = request.headers().get("authorization").and_then(|header| header.to_str().ok());
    let token = token.and_then(|header| header.strip_prefix("Bearer ")).map(str::to_owned);
    let (user, certificate) = peer.map(|peer| (peer.user, peer.certificate)).unzip();
    let user = user.or_else(|| shared.cluster.lock().unwrap().tokens.get(token.as_deref()?).cloned());
    let query = request.uri().query().unwrap_or_default().as_bytes();
    let asked = Asked {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: url::form_urlencoded::parse(query).into_owned().collect(),
        user: user.unwrap_or_default(),
        certificate,
    };
    shared.asked.lock().unwrap().push(asked.clone());
    let fault = shared.wrong.lock().unwrap().iter().rev().find_map(|wrong| wrong(&asked));
    match fault {
        Some(ApiFault::Hang) => std::future::pending().await,
        Some(ApiFault::Status(code, reason)) => return refusal(code, reason, "on purpose"),
        Some(ApiFault::Body(text)) => return whole(StatusCode::OK, text),
        Some(ApiFault::Endless(code)) => return endless(code),
        Some(ApiFault::Late(delay)) => tokio::time::sleep(delay).await,
        None => {}
    }
    let unknown = asked.user.is_empty() || shared.cluster.lock().unwrap().revoked.contains(&asked.user);
    if unknown {
        return refusal(401, "Unauthorized", "Unauthorized");
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    route(shared, &asked, &body)
}

fn route(shared: &Arc<Shared>, asked: &Asked, body: &Value) -> Answer {
    let parts: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
    let selector = asked.query.get("fieldSelector").map_or("", String::as_str);
    let cluster = shared.cluster.lock().unwrap();
    let may = |verb: &str, resource: &str, namespace: &str, name: &str| match allows(
        &cluster,
        &asked.user,
        verb,
        resource,
        (namespace, name),
        selector,
    ) {
        true => None,
        false => {
            let user = &asked.user;
            let text = format!(
                "{resource} {name:?} is forbidden: User {user:?} cannot {verb} resource {resource:?} in API group \"\""
            );
            Some(refusal(403, "Forbidden", &text))
        }
    };
    let found = |object: Option<&Value>| match object {
        Some(object) => whole(StatusCode::OK, object.to_string()),
        None => refusal(404, "NotFound", "not found"),
    };
    let named = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
    match (&asked.method, &parts[..]) {
        (&Method::GET, ["version"]) => {
            whole(StatusCode::OK, json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2"}).to_string())
        }
        (&Method::GET, ["api", "v1", "pods"]) if asked.is_watch() => may("watch", "pods", "", "")
            .unwrap_or_else(|| {
                drop(cluster);
                watch(shared, asked)
            }),
        (&Method::GET, ["api", "v1", "pods"]) => {
            may("list", "pods", "", "").unwrap_or_else(|| list(&cluster, asked))
        }
        (&Method::GET, ["api", "v1", "namespaces", namespace, "secrets", name]) => {
            may("get", "secrets", namespace, name)
                .unwrap_or_else(|| found(cluster.secrets.get(&named(namespace, name))))
        }
        (&Method::GET, ["api", "v1", "namespaces", namespace, "serviceaccounts", name]) => {
            may("get", "serviceaccounts", namespace, name)
                .unwrap_or_else(|| found(cluster.service_accounts.get(&named(namespace, name))))
        }
        (&Method::GET, ["api", "v1", "nodes", name]) => {
            may("get", "nodes", "", name).unwrap_or_else(|| found(cluster.nodes.get(*name)))
        }
        (&Method::POST, ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"]) => {
            whole(StatusCode::CREATED, review(&cluster, &asked.user, body).to_string())
        }
        (&Method::POST, ["api", "v1", "namespaces", namespace, "serviceaccounts", name, "token"]) => {
            token(&cluster, asked, (namespace, name), body)
        }
        _ => refusal(404, "NotFound", "the server could not find the requested resource"),
    }
}

/// The Node authorizer for nodes, the table for everyone else.
fn allows(
    cluster: &Cluster,
    user: &str,
    verb: &str,
    resource: &str,
    (namespace, name): (&str, &str),
    selector: &str,
) -> bool {
    let Some(node) = user.strip_prefix("system:node:") else {
        return cluster.rights.contains(&(user.to_owned(), verb.to_owned(), resource.to_owned()));
    };
    let on_node = |names: fn(&Value) -> Vec<&str>| {
        cluster.pods.values().any(|pod| {
            pod["spec"]["nodeName"] == node
                && pod["metadata"]["namespace"] == namespace
                && names(pod).contains(&name)
        })
    };
    match (verb, resource) {
        ("list" | "watch", "pods") => selector.split(',').any(|term| term == format!("spec.nodeName={node}")),
        ("get", "nodes") => name == node,
        ("get", "secrets") => on_node(|pod| {
            let secrets = pod["spec"]["imagePullSecrets"].as_array();
            secrets.into_iter().flatten().filter_map(|secret| secret["name"].as_str()).collect()
        }),
        ("get" | "create", "serviceaccounts" | "serviceaccounts/token") => {
            on_node(|pod| pod["spec"]["serviceAccountName"].as_str().into_iter().collect())
        }
        ("request-serviceaccounts-token-audience", audience) => cluster.audiences.contains(audience),
        _ => false,
    }
}

fn review(cluster: &Cluster, user: &str, body: &Value) -> Value {
    let attributes = &body["spec"]["resourceAttributes"];
    let text = |key: &str| attributes[key].as_str().unwrap_or_default();
    let requirement = &attributes["fieldSelector"]["requirements"][0];
    let selector = match attributes["fieldSelector"]["rawSelector"].as_str() {
        Some(raw) => raw.to_owned(),
        None => format!(
            "{}={}",
            requirement["key"].as_str().unwrap_or_default(),
            requirement["values"][0].as_str().unwrap_or_default()
        ),
    };
    let resource = match text("subresource") {
        "" => text("resource").to_owned(),
        sub => format!("{}/{sub}", text("resource")),
    };
    let allowed =
        allows(cluster, user, text("verb"), &resource, (text("namespace"), text("name")), &selector);
    json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
        "spec": body["spec"], "status": {"allowed": allowed}})
}

/// A token for a service account of a pod of this node, with an audience that nodes may ask for.
fn token(cluster: &Cluster, asked: &Asked, (namespace, name): (&str, &str), body: &Value) -> Answer {
    let bound = &body["spec"]["boundObjectRef"];
    let is_pods = cluster.pods.values().any(|pod| {
        pod["metadata"]["uid"] == bound["uid"]
            && pod["spec"]["serviceAccountName"] == name
            && pod["metadata"]["namespace"] == namespace
            && asked.user.strip_prefix("system:node:").is_some_and(|node| pod["spec"]["nodeName"] == node)
    });
    let audiences: Vec<&str> =
        body["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !is_pods || !audiences.iter().all(|audience| cluster.audiences.contains(*audience)) {
        return refusal(403, "Forbidden", "audience or bound object not allowed");
    }
    let answer = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {"name": name},
        "spec": body["spec"], "status": {"token": format!("sa.{namespace}.{name}.{}", audiences.join("+")),
            "expirationTimestamp": "2096-11-27T08:00:00Z"}});
    whole(StatusCode::CREATED, answer.to_string())
}

fn list(cluster: &Cluster, asked: &Asked) -> Answer {
    let selected: Vec<&Arc<Value>> = cluster.pods.values().filter(|pod| matches(asked, pod)).collect();
    // As the server's cache does, which answers resourceVersion=0 whole whatever the limit.
    let is_any = asked.query.get("resourceVersion").is_some_and(|version| version == "0");
    let number = |key: &str| asked.query.get(key).and_then(|text| text.parse::<usize>().ok());
    let from = number("continue").unwrap_or(0).min(selected.len());
    let limit = number("limit").filter(|limit| *limit > 0 && !is_any).unwrap_or(selected.len());
    let page = &selected[from..(from + limit).min(selected.len())];
    let left = selected.len() - from - page.len();
    let mut metadata = json!({"resourceVersion": cluster.version.to_string()});
    if left > 0 {
        metadata["continue"] = json!((from + page.len()).to_string());
        metadata["remainingItemCount"] = json!(left);
    }
    // Items of a list carry no kind of their own.
    let items: Vec<Value> = page
        .iter()
        .map(|pod| {
            let mut item = Value::clone(pod);
            let fields = item.as_object_mut().unwrap();
            fields.remove("kind");
            fields.remove("apiVersion");
            item
        })
        .collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items});
    whole(StatusCode::OK, list.to_string())
}

fn matches(asked: &Asked, pod: &Value) -> bool {
    asked.query.get("fieldSelector").is_none_or(|selector| {
        selector.split(',').all(|term| match term.split_once('=') {
            Some(("status.phase!", phase)) => pod["status"]["phase"] != phase,
            Some(("spec.nodeName", node)) => pod["spec"]["nodeName"] == node.trim_start_matches('='),
            Some(("metadata.name", name)) => pod["metadata"]["name"] == name.trim_start_matches('='),
            _ => false,
        })
    })
}

fn watch(shared: &Arc<Shared>, asked: &Asked) -> Answer {
    let interjections = shared.interjections.subscribe();
    let (sender, receiver) = mpsc::channel(16);
    let since = {
        let cluster = shared.cluster.lock().unwrap();
        let since = asked.query.get("resourceVersion").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        if since != 0 && since < cluster.compacted {
            return refusal(410, "Expired", "too old resource version");
        }
        since
    };
    let watch = Watch {
        shared: Arc::clone(shared),
        asked: asked.clone(),
        sent: since,
        sender,
        bookmarks: asked.query.get("allowWatchBookmarks").is_some_and(|value| value == "true"),
    };
    tokio::spawn(watch.run(interjections));
    let frames = stream::unfold(receiver, |mut receiver: mpsc::Receiver<_>| async {
        receiver.recv().await.map(|frame: std::io::Result<Bytes>| (frame, receiver))
    });
    let body = StreamBody::new(frames.map(|frame| frame.map(Frame::data))).boxed_unsync();
    Response::builder().header("content-type", "application/json").body(body).unwrap()
}

struct Watch {
    shared: Arc<Shared>,
    asked: Asked,
    /// The version of the last change that was sent.
    sent: u64,
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    bookmarks: bool,
}

impl Watch {
    async fn run(mut self, mut interjections: broadcast::Receiver<Interjection>) {
        let mut newest = self.shared.newest.subscribe();
        let seconds = self.asked.query.get("timeoutSeconds").and_then(|text| text.parse().ok());
        let end = tokio::time::sleep(Duration::from_secs(seconds.unwrap_or(1_800)));
        tokio::pin!(end);
        if self.sent == 0 && !self.begin().await {
            return;
        }
        loop {
            for event in self.news() {
                if !self.send(event).await {
                    return;
                }
            }
            tokio::select! {
                biased;
                what = interjections.recv() => match what {
                    Ok(what) => if !self.interject(what).await { return },
                    Err(_) => return,
                },
                changed = newest.changed() => if changed.is_err() { return },
                () = &mut end => return,
                () = self.sender.closed() => return,
            }
        }
    }

    /// Everything that there is, and the bookmark that ends it where the client wants it (`sendInitialEvents`).
    async fn begin(&mut self) -> bool {
        let (events, version) = {
            let cluster = self.shared.cluster.lock().unwrap();
            let pods = cluster.pods.values().filter(|pod| matches(&self.asked, pod));
            let events: Vec<Value> = pods.map(|pod| json!({"type": "ADDED", "object": **pod})).collect();
            (events, cluster.version)
        };
        self.sent = version;
        for event in events {
            if !self.send(event).await {
                return false;
            }
        }
        if self.asked.query.get("sendInitialEvents").is_some_and(|value| value == "true") {
            return self.send(self.bookmark(json!({"k8s.io/initial-events-end": "true"}))).await;
        }
        true
    }

    fn news(&mut self) -> Vec<Value> {
        let cluster = self.shared.cluster.lock().unwrap();
        let changes = cluster.changes.iter().filter(|change| change.version > self.sent);
        let mut without_phase = self.asked.clone();
        if let Some(selector) = without_phase.query.get_mut("fieldSelector") {
            let others = selector.split(',').filter(|term| !term.starts_with("status.phase"));
            *selector = others.collect::<Vec<_>>().join(",");
        }
        let events = changes
            .filter_map(|change| {
                let kind =
                    match (matches(&self.asked, &change.object), matches(&without_phase, &change.object)) {
                        (true, _) => change.kind,
                        // One that is selected no more is told as deleted.
                        (false, true) => "DELETED",
                        (false, false) => return None,
                    };
                Some(json!({"type": kind, "object": *change.object}))
            })
            .collect();
        self.sent = self.sent.max(cluster.version);
        events
    }

    fn bookmark(&self, annotations: Value) -> Value {
        json!({"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1",
            "metadata": {"resourceVersion": self.sent.to_string(), "creationTimestamp": null, "annotations": annotations},
            "spec": {"containers": null}, "status": {}}})
    }

    /// Sends an event in two pieces: events and chunks have nothing to do with each other.
    async fn send(&self, event: Value) -> bool {
        let mut first = Bytes::from(format!("{event}\n"));
        let second = first.split_off(first.len() / 2);
        self.sender.send(Ok(first)).await.is_ok() && self.sender.send(Ok(second)).await.is_ok()
    }

    async fn interject(&self, what: Interjection) -> bool {
        match what {
            Interjection::End => false,
            Interjection::CutInEvent => {
                let part = Bytes::from_static(br#"{"type":"ADDED","object":{"kind":"Pod","apiVer"#);
                let _ = self.sender.send(Ok(part)).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = self.sender.send(Err(std::io::Error::other("cut on purpose"))).await;
                false
            }
            Interjection::Raw(text) => self.sender.send(Ok(text.into())).await.is_ok(),
            Interjection::Gone => {
                let status = objects::status(410, "Expired", "too old resource version");
                self.send(json!({"type": "ERROR", "object": status})).await;
                false
            }
            Interjection::Stall => std::future::pending().await,
            Interjection::Bookmark => !self.bookmarks || self.send(self.bookmark(json!({}))).await,
        }
    }
}

fn whole(status: StatusCode, text: String) -> Answer {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).header("content-type", "application/json").body(body).unwrap()
}

fn endless(code: u16) -> Answer {
    let pieces = stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[b' '; 16 * 1024]))));
    let body = StreamBody::new(pieces).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn refusal(code: u16, reason: &str, message: &str) -> Answer {
    let status = objects::status(code, reason, message).to_string();
    let mut answer = whole(StatusCode::from_u16(code).unwrap(), status);
    if code == 429 {
        answer.headers_mut().insert("retry-after", http::HeaderValue::from_static("2"));
    }
    answer
}
