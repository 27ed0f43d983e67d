//! Service accounts from the API server, and their tokens by TokenRequest, as kubelet requests them.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Request;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::client::{ApiServer, AskError};
use crate::credentials::{AccountError, AccountSource, PodAccount, Secret, ServiceAccount};

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    status: TokenStatus,
}

#[derive(Deserialize)]
struct TokenStatus {
    token: String,
}

impl From<AskError> for AccountError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Missing => Self::Missing,
            AskError::Forbidden(why) => Self::Forbidden(why),
            AskError::Identity(why) | AskError::Unauthorized(why) | AskError::Unavailable(why) => {
                Self::Unavailable(why)
            }
            other => Self::Unavailable(other.to_string()),
        }
    }
}

fn not_understood<E>(_: E) -> AccountError {
    // What a parser says may quote the answer.
    AccountError::Unavailable("its answer is not understood".to_owned())
}

fn path(pod: &PodAccount) -> String {
    format!("/api/v1/namespaces/{}/serviceaccounts/{}", pod.namespace, pod.service_account)
}

/// Kubelet's TokenRequest. `expirationSeconds` is left out, as kubelet does: the API server's default counts, an hour.
fn token_request(pod: &PodAccount, audience: &str) -> String {
    serde_json::json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {
        "audiences": [audience],
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod.pod, "uid": pod.uid}}})
    .to_string()
}

impl AccountSource for ApiServer {
    fn account<'a>(&'a self, pod: &'a PodAccount) -> BoxFuture<'a, Result<ServiceAccount, AccountError>> {
        async move {
            let text = self.get(path(pod)).await?;
            let Object { metadata } = serde_json::from_str(&text).map_err(not_understood)?;
            let annotations = metadata.annotations.unwrap_or_default();
            Ok(ServiceAccount { uid: metadata.uid, annotations })
        }
        .boxed()
    }

    fn token<'a>(
        &'a self,
        pod: &'a PodAccount,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<Secret, AccountError>> {
        async move {
            let request = Request::post(format!("{}/token", path(pod)))
                .header("content-type", "application/json")
                .body(token_request(pod, audience).into_bytes())
                .map_err(not_understood)?;
            let answer = Zeroizing::new(self.ask(request).await?);
            let answer: TokenAnswer = serde_json::from_str(&answer).map_err(not_understood)?;
            Ok(answer.status.token.into())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_request_is_kubelets() {
        let text = str::to_owned;
        let pod = PodAccount {
            namespace: text("shop"),
            service_account: text("builder"),
            pod: text("web"),
            uid: text("4a5b"),
        };
        assert_eq!(path(&pod), "/api/v1/namespaces/shop/serviceaccounts/builder");
        let request: serde_json::Value = serde_json::from_str(&token_request(&pod, "reg")).unwrap();
        let expected = serde_json::json!({"audiences": ["reg"],
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": "4a5b"}});
        assert_eq!(request["spec"], expected);
    }
}
