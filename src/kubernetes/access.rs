//! What the identity may see, for `larder doctor`: asked of the API server, which changes nothing.

use http::Request;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::api_server::{ApiServer, AskError};
use super::watch::SeenPod;

/// Pods that are looked at: a sample, in one answer.
const PODS_LOOKED_AT: u32 = 100;

/// What the identity may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Whether the API server knows a node of that name; `None`: the identity may not ask.
    pub knows_node: Option<bool>,
    /// Pods of the node, or why they cannot be listed.
    pub pods: Result<usize, String>,
    /// Why pods of this node cannot be watched, if they cannot: the rights, or what lies in between.
    pub no_watch: Option<String>,
    /// A pull secret of one of them, and whether it may be read; `None` where no pod has one.
    pub secret: Option<(String, bool)>,
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
        let listed = match self.page(PODS_LOOKED_AT, None).await {
            Ok(page) => Ok(page),
            Err(error @ AskError::Forbidden(_)) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        let pods_of_node = json!({"verb": "watch", "resource": "pods", "fieldSelector":
            {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": [self.node]}]}});
        let no_watch = match (&listed, self.may(pods_of_node).await?) {
            (_, false) => Some("the identity may not".to_owned()),
            // A proxy in between may let a list through and no watch.
            (Ok(page), true) => {
                let version = page.metadata.resource_version.as_deref().unwrap_or("0");
                self.try_watch(version).await.err().map(|error| error.to_string())
            }
            (Err(_), true) => None,
        };
        let mut secret = None;
        if let Some((namespace, name)) = listed.as_ref().ok().and_then(|page| first_secret(&page.items)) {
            let attributes =
                json!({"verb": "get", "resource": "secrets", "namespace": namespace, "name": name});
            secret = Some((format!("{namespace}/{name}"), self.may(attributes).await?));
        }
        Ok(Access { knows_node, pods: listed.map(|page| page.items.len()), no_watch, secret })
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

/// The first pull secret that one of the pods names.
fn first_secret(pods: &[SeenPod]) -> Option<(String, String)> {
    let mut secrets = pods.iter().flat_map(|pod| {
        let namespace = pod.namespace().unwrap_or_default();
        pod.spec.image_pull_secrets.iter().map(move |named| (namespace.clone(), named.name.clone()))
    });
    secrets.find(|(_, name)| !name.is_empty())
}
