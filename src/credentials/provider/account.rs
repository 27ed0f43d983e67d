//! Plugins that are run for a pod's service account (`tokenAttributes`, kubernetes `pkg/credentialprovider/plugin`).
//!
//! What a plugin is given is decided here, and for which runs and responses two pods count as one. Not here: where
//! accounts and tokens come from, which is an [`AccountSource`].

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;

use super::super::credential::Credential;
use super::super::exec::RunError;
use super::super::secret::Secret;
use super::config::{CacheType, TokenAttributes};
use super::response::Response;
use crate::reference::Digest;

/// A pod, as far as a token is bound to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodAccount {
    /// The pod's namespace, which is its service account's too.
    pub namespace: String,
    /// The name of its service account.
    pub service_account: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID.
    pub uid: String,
}

/// A service account, as far as plugins get to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Distinguishes accounts of one name that follow each other.
    pub uid: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Why there is no service account or no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// There is no such account or pod. Kubelet does not run the plugin.
    #[error("there is no such service account or pod")]
    Missing,
    /// The identity may not ask for it.
    #[error("the identity may not ask for it: {0}")]
    Forbidden(String),
    /// The API server does not answer, or not in a way that is understood.
    #[error("the API server does not answer: {0}")]
    Unavailable(String),
}

/// Reads service accounts and requests their tokens.
pub trait AccountSource: Send + Sync {
    /// The service account of a pod.
    fn account<'a>(&'a self, pod: &'a PodAccount) -> BoxFuture<'a, Result<ServiceAccount, AccountError>>;

    /// A token of the pod's service account for `audience`, bound to the pod.
    fn token<'a>(
        &'a self,
        pod: &'a PodAccount,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<Secret, AccountError>>;
}

/// What a plugin is given of a service account.
#[derive(Debug, Clone)]
pub(super) struct AccountInput {
    pub(super) token: Secret,
    pub(super) annotations: BTreeMap<String, String>,
    /// For whom a response is kept.
    pub(super) kept_for: Digest,
    /// Whose run this is: two tokens are never one run, as with kubelet.
    pub(super) run_for: Digest,
}

/// The annotations that a plugin is given; `None` where a required one is missing, with which kubelet does not run it.
pub(super) fn annotations(
    attributes: &TokenAttributes,
    account: &ServiceAccount,
) -> Option<BTreeMap<String, String>> {
    let of = |key: &String| account.annotations.get(key).map(|value| (key.clone(), value.clone()));
    let required: Option<BTreeMap<String, String>> = attributes.required_annotations.iter().map(of).collect();
    let mut told = required?;
    told.extend(attributes.optional_annotations.iter().filter_map(of));
    Some(told)
}

/// For whom a response is kept that a plugin gave: for the account with the annotations that it was given, and with
/// [`CacheType::Token`] for the token. A hash, so that no token is in a key.
pub(super) fn kept_for(
    pod: &PodAccount,
    account: &ServiceAccount,
    annotations: &BTreeMap<String, String>,
    token: Option<&Secret>,
) -> Digest {
    let token = token.map(|token| Digest::of(token.reveal().as_bytes()).to_string());
    let parts = serde_json::json!([pod.namespace, pod.service_account, account.uid, annotations, token]);
    Digest::of(parts.to_string().as_bytes())
}

/// Why a run failed, for the log: of one that was given a token, nothing that it says itself, which may be its input.
pub(super) fn why(error: RunError, is_given_token: bool) -> String {
    if is_given_token {
        return "its run failed; what it says is not logged, because it was given a token".to_owned();
    }
    error.why
}

/// The response, unless it is the token itself and would be kept longer than that counts, which kubelet refuses.
pub(super) fn checked(
    response: Response,
    attributes: &TokenAttributes,
    token: &Secret,
) -> Result<Response, String> {
    let is_token = |credential: &Credential| match credential {
        Credential::Password { password, .. } => password == token,
        Credential::IdentityToken(_) => false,
    };
    let has_token = response.auth.iter().filter_map(|(_, credential)| credential.as_ref()).any(is_token);
    if has_token && attributes.cache_type != CacheType::Token {
        return Err("it returned the service account's token, which needs cacheType Token".to_owned());
    }
    Ok(response)
}

impl AccountInput {
    pub(super) fn new(
        attributes: &TokenAttributes,
        pod: &PodAccount,
        account: &ServiceAccount,
        annotations: BTreeMap<String, String>,
        token: Secret,
    ) -> Self {
        let run_for = kept_for(pod, account, &annotations, Some(&token));
        let kept_for = match attributes.cache_type {
            CacheType::Token => run_for,
            CacheType::ServiceAccount => kept_for(pod, account, &annotations, None),
        };
        Self { token, annotations, kept_for, run_for }
    }
}
