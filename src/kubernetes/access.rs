//! What the identity may see, for `larder doctor`: asked of the API server, which changes nothing.

use http::Request;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api_server::{ApiServer, AskError};

/// Pods that are looked at.
const PODS_MAX: u32 = 500;

/// What the identity may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Whether the API server knows a node of that name; `None`: the identity may not ask.
    pub knows_node: Option<bool>,
    /// Pods of the node, or why they cannot be listed.
    pub pods: Result<usize, String>,
    /// Whether pods of this node may be watched.
    pub may_watch: bool,
    /// A pull secret of one of them, and whether it may be read; `None` where no pod has one.
    pub secret: Option<(String, bool)>,
}

#[derive(Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

#[derive(Deserialize)]
struct Pod {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    image_pull_secrets: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

impl ApiServer {
    /// The name of the node that it is asked about.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Asks what the identity may see.
    ///
    /// # Errors
    /// The identity cannot be used, or the API server does not answer.
    pub async fn access(&self) -> Result<Access, AskError> {
        let knows_node = match self.get(format!("/api/v1/nodes/{}", self.node)).await {
            Ok(_) => Some(true),
            Err(AskError::Missing) => Some(false),
            Err(AskError::Forbidden(_)) => None,
            Err(error) => return Err(error),
        };
        let selector = format!("fieldSelector=spec.nodeName%3D{}", self.node);
        let listed = match self.get(format!("/api/v1/pods?{selector}&limit={PODS_MAX}")).await {
            Ok(text) => serde_json::from_str::<Pods>(&text).map_err(|_| "its answer is no list".to_owned()),
            Err(error @ AskError::Forbidden(_)) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        let pods_of_node = json!({"verb": "watch", "resource": "pods", "fieldSelector":
            {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": [self.node]}]}});
        let may_watch = self.may(pods_of_node).await?;
        let mut secret = None;
        if let Some((namespace, name)) = listed.as_ref().ok().and_then(|pods| pods.first_secret()) {
            let attributes =
                json!({"verb": "get", "resource": "secrets", "namespace": namespace, "name": name});
            secret = Some((format!("{namespace}/{name}"), self.may(attributes).await?));
        }
        Ok(Access { knows_node, pods: listed.map(|pods| pods.items.len()), may_watch, secret })
    }

    /// A SelfSubjectAccessReview.
    async fn may(&self, attributes: Value) -> Result<bool, AskError> {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes}});
        let request = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
            .header("content-type", "application/json")
            .body(review.to_string().into_bytes());
        let answer = self.ask(request.map_err(|error| AskError::Unavailable(error.to_string()))?).await?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        Ok(answer["status"]["allowed"].as_bool().unwrap_or(false))
    }
}

impl Pods {
    /// The first pull secret that one of the pods names.
    fn first_secret(&self) -> Option<(&str, &str)> {
        let mut secrets = self.items.iter().flat_map(|pod| {
            let namespace = pod.metadata.namespace.as_str();
            pod.spec.image_pull_secrets.iter().map(move |named| (namespace, named.name.as_str()))
        });
        secrets.find(|(_, name)| !name.is_empty())
    }
}
