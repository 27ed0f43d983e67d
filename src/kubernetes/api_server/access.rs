//! What the identity may see, for `larder doctor`: asked of the API server, which changes nothing.

use http::Request;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::client::{ApiServer, AskError};
use super::seen_pod::SeenPod;

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
    /// What of the service account of one of them; `None` where no plugin needs its token, or no pod is seen.
    pub account: Option<AccountAccess>,
}

/// What the identity may do with a pod's service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountAccess {
    /// Its namespace and name.
    pub account: String,
    /// Whether its annotations may be read.
    pub may_read: bool,
    /// Whether tokens of it may be requested.
    pub may_request: bool,
    /// Audiences of plugins that no rule grants to the identity. An API server since 1.33 gives a node tokens for these
    /// only where a volume of the pod names them.
    pub not_granted: Vec<String>,
}

impl ApiServer {
    /// The name of the node that it is asked about.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Asks what the identity may see, and where there are `audiences`, whether it may request tokens of pods' service
    /// accounts for them.
    ///
    /// # Errors
    /// The identity cannot be used, or the API server does not answer.
    pub async fn access(&self, audiences: &[String]) -> Result<Access, AskError> {
        let knows_node = match self.get(format!("/api/v1/nodes/{}", self.node)).await {
            Ok(_) => Some(true),
            Err(AskError::Missing) => Some(false),
            Err(AskError::Forbidden(_)) => None,
            Err(error) => return Err(error),
        };
        let listed = match self.page(Some(PODS_LOOKED_AT), None).await {
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
        let account = listed.as_ref().ok().and_then(|page| first_account(&page.items));
        let account = match account.filter(|_| !audiences.is_empty()) {
            Some((namespace, name)) => Some(self.account_access(&namespace, &name, audiences).await?),
            None => None,
        };
        Ok(Access { knows_node, pods: listed.map(|page| page.items.len()), no_watch, secret, account })
    }

    async fn account_access(
        &self,
        namespace: &str,
        name: &str,
        audiences: &[String],
    ) -> Result<AccountAccess, AskError> {
        let of = |verb: &str, resource: &str, subresource: &str| {
            json!({"verb": verb, "resource": resource, "subresource": subresource,
                "namespace": namespace, "name": name})
        };
        let may_read = self.may(of("get", "serviceaccounts", "")).await?;
        let may_request = self.may(of("create", "serviceaccounts", "token")).await?;
        let mut not_granted = Vec::new();
        for audience in audiences {
            // As admission asks it (plugin/pkg/admission/noderestriction): the audience is the resource.
            if !self.may(of("request-serviceaccounts-token-audience", audience, "")).await? {
                not_granted.push(audience.clone());
            }
        }
        Ok(AccountAccess { account: format!("{namespace}/{name}"), may_read, may_request, not_granted })
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

/// The service account of the first pod that has one.
fn first_account(pods: &[SeenPod]) -> Option<(String, String)> {
    let accounts =
        pods.iter().map(|pod| (pod.namespace().unwrap_or_default(), pod.spec.service_account_name.clone()));
    accounts.into_iter().find(|(_, name)| !name.is_empty())
}

/// The first pull secret that one of the pods names.
fn first_secret(pods: &[SeenPod]) -> Option<(String, String)> {
    let mut secrets = pods.iter().flat_map(|pod| {
        let namespace = pod.namespace().unwrap_or_default();
        pod.spec.image_pull_secrets.iter().map(move |named| (namespace.clone(), named.name.clone()))
    });
    secrets.find(|(_, name)| !name.is_empty())
}
