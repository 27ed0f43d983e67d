//! The watch of this node's pods, from its settings.

use std::sync::Arc;

use crate::credentials::Keychain;
use crate::kubernetes::{Config, Metrics, Parts, Pods};
use crate::prepull::Fetcher;
use crate::store::Store;

/// The watch that `config` describes; one that does nothing where it names no source. Blocks for a moment.
pub(super) fn build(
    config: &Config,
    fetcher: Fetcher,
    keychain: &Keychain,
    store: Store,
    metrics: Metrics,
) -> Pods {
    let mut parts = Parts {
        sources: Vec::new(),
        secrets: None,
        accounts: None,
        presence: Vec::new(),
        images: Arc::new(fetcher),
        store,
        ahead: config.ahead,
    };
    add_sources(config, keychain, &mut parts);
    Pods::new(parts, metrics)
}

#[cfg(feature = "kubernetes")]
fn add_sources(config: &Config, keychain: &Keychain, parts: &mut Parts) {
    use crate::kubernetes::{ApiServer, ImageService, NodeImages, PodsApi, ServiceAccounts};

    if let Some(socket) = config.pods_api_socket() {
        parts.sources.push(Arc::new(PodsApi::new(socket)));
    }
    // Asked before the API server: it answers at once, and for every image.
    if let Some(socket) = &config.runtime_socket {
        parts.presence.push(Arc::new(ImageService::new(socket.clone())));
    }
    let Some(identity) = &config.identity else { return };
    match config.node_name() {
        Ok(node) => {
            let server = Arc::new(ApiServer::new(identity.clone(), node));
            parts.sources.push(Arc::clone(&server) as _);
            parts.presence.push(Arc::new(NodeImages::new(&server)));
            if config.requests_tokens(identity) {
                parts.accounts = Some(ServiceAccounts::new(keychain.clone(), Arc::clone(&server) as _));
            }
            parts.secrets = config.secrets.then_some(server as _);
        }
        Err(why) => tracing::error!(why, "the name of this node is not known: set [kubernetes] node"),
    }
}

/// The configuration is refused that names one.
#[cfg(not(feature = "kubernetes"))]
fn add_sources(_: &Config, _: &Keychain, _: &mut Parts) {}
