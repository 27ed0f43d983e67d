//! The data plane: the distribution API as runtimes speak it.
//!
//! Promises: every request gets an answer within [`Config::answer_wait`]; every error is in the form of the
//! distribution specification and names what was wrong; no redirect, no 429, nothing stored for a request that was
//! refused. Deliberately not here: what an answer is made of (`pull`), connections (`listener`).

mod client_auth;
mod gate;
mod handler;
pub mod metrics;
mod observe;
pub mod range;
pub mod respond;
pub mod route;
mod token;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::util::{BoxCloneSyncService, service_fn};
use tower::{BoxError, ServiceBuilder, ServiceExt};

use crate::credentials::Keychain;
use crate::listener::{Body, Hosts};
use crate::pull::Puller;
use crate::reference::Registry;
use crate::support::clock::Clock;
use crate::support::live::Live;
use crate::support::metrics::RegistryLabels;
pub use gate::{Gate, GateConfig, GateError};
use handler::Handler;
use metrics::Metrics;
use respond::Refusal;

/// What the data plane is built from.
#[derive(Debug, Clone)]
pub struct Config {
    /// What a name without a registry means.
    pub default_registry: Registry,
    /// Host names besides the loopback ones under which clients may address us, with their port.
    pub hosts: Vec<String>,
    /// Requests whose head is being answered at the same time; bodies do not count.
    pub requests_max: usize,
    /// A field that every request must carry, except those for `/token`: older containerd versions leave it out there.
    pub gate: Option<GateConfig>,
    /// Until the head of an answer, whatever upstream does; below the 30 s of containerd.
    pub answer_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default_registry: Registry::docker_hub(),
            hosts: Vec::new(),
            requests_max: 1_024,
            gate: None,
            answer_wait: Duration::from_secs(25),
        }
    }
}

/// The data plane as a service for a [`crate::listener`].
pub type Service = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// The parts of the daemon that the data plane answers with.
pub struct Parts {
    /// Pulls.
    pub puller: Puller,
    /// The node's credentials and keys.
    pub keychain: Keychain,
    /// What every request must carry, if anything.
    pub gate: Live<Option<Gate>>,
    /// The time of day.
    pub clock: Clock,
    /// The label of each registry.
    pub labels: Arc<RegistryLabels>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Builds the data plane. `ports` are those that it is listening on.
pub fn service(config: &Config, ports: &[u16], parts: Parts) -> Service {
    let Parts { puller, keychain, gate, clock, labels, metrics } = parts;
    let handler = Arc::new(Handler {
        puller,
        keychain,
        hosts: Hosts::new(ports, &config.hosts),
        default_registry: config.default_registry.clone(),
        gate,
        answer_wait: config.answer_wait,
        clock,
        labels,
        metrics,
    });
    let last_word = Arc::clone(&handler);
    let answer = service_fn(move |request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        // In one place from here on: the layers above would move all of it about.
        Box::pin(async move { Ok::<_, Infallible>(handler.answer(request).await) })
    });
    let bounded = ServiceBuilder::new()
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::new(config.requests_max))
        .timeout(config.answer_wait)
        .service(answer);
    BoxCloneSyncService::new(service_fn(move |request| {
        let (bounded, handler) = (bounded.clone(), Arc::clone(&last_word));
        async move { Ok(bounded.oneshot(request).await.unwrap_or_else(|error: BoxError| shed(&handler, &error))) }
    }))
}

/// What the layers above the handler say when it could not.
fn shed(handler: &Handler, error: &BoxError) -> Response<Body> {
    let (outcome, message) = if error.is::<tower::timeout::error::Elapsed>() {
        ("timeout", "upstream did not answer in time; what it sends later is kept for the next request")
    } else {
        ("overloaded", "too many requests at once")
    };
    handler.count("other", None, outcome);
    Refusal::unavailable(message).response(None)
}
