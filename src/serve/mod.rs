//! The data plane: the distribution API as runtimes use it.
//!
//! Promises: every request gets an answer within [`Config::answer_wait`]; every error is in the form of the
//! distribution specification and names what was wrong; no redirect, no 429, nothing stored for a request that was
//! refused.
//!
//! Deliberately not here: what an answer is made of (`pull`), connections (`listener`).

mod answer;
mod byteranges;
mod client_auth;
mod config;
mod gate;
mod handler;
mod metrics;
mod observe;
pub mod range;
pub mod refusal;
mod request_log;
pub mod respond;
pub mod route;
mod token;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::util::{BoxCloneSyncService, service_fn};
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tracing::Instrument;

pub use config::Config;
pub use gate::{Gate, GateConfig, GateError};
pub use metrics::Metrics;
pub use observe::{Observer, Outcome, Totals};
pub use request_log::{Recent, RecentRequest, RequestLog};

use crate::credentials::Keychain;
use crate::listener::{Body, Hosts};
use crate::pull::{FailureKind, Puller, RequestId};
use crate::reference::{Reference, Registry, Repository};
use crate::support::clock::Clock;
use crate::support::live::Live;
use handler::Handler;
use metrics::RouteLabel;
use request_log::{Arrival, Described};
use respond::ErrorResponse;

/// The data plane as a service for a [`crate::listener`].
pub type Service = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// Called for each manifest that a client asked for and was given. Must not wait.
pub type ManifestListener = Arc<dyn Fn(&Repository, &Reference) + Send + Sync>;

/// The parts of the daemon that the data plane answers with.
pub struct Components {
    /// Pulls.
    pub puller: Puller,
    /// The node's keys, which seal tokens and fingerprint credentials.
    pub keychain: Keychain,
    /// The header that every request must carry, if any.
    pub gate: Live<Option<Gate>>,
    /// The registries to which a credential that arrives by path is sent.
    pub path_logins: Live<HashSet<Registry>>,
    /// The time of day.
    pub clock: Clock,
    /// Counts requests and bytes.
    pub observer: Arc<Observer>,
    /// Logs each request.
    pub log: Arc<RequestLog>,
    /// Called for each manifest that was given.
    pub manifests: ManifestListener,
}

/// Builds the data plane. `ports` are those that it is listening on.
pub fn service(config: &Config, ports: &[u16], components: Components) -> Service {
    let Components { puller, keychain, gate, path_logins, clock, observer, log, manifests } = components;
    let handler = Arc::new(Handler {
        puller,
        keychain,
        hosts: Hosts::new(ports, &config.hosts),
        default_registry: config.default_registry.clone(),
        gate,
        path_logins,
        answer_wait: config.answer_wait,
        clock,
        observer: Arc::clone(&observer),
        manifests,
    });
    let answer = service_fn(move |(request, arrival): (Request<Incoming>, Arrival)| {
        let handler = Arc::clone(&handler);
        let span = arrival.span.clone();
        // On the heap from here on: the layers above would move all of the future about.
        Box::pin(async move { Ok::<_, Infallible>(handler.answer(request, &arrival).await) }.instrument(span))
    });
    let bounded = ServiceBuilder::new()
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::new(config.requests_max))
        .timeout(config.answer_wait)
        .service(answer);
    BoxCloneSyncService::new(service_fn(move |request| {
        let (bounded, observer, log) = (bounded.clone(), Arc::clone(&observer), Arc::clone(&log));
        async move {
            let id = RequestId::next();
            let logged = log.begin(&request, id);
            let described = logged.described().clone();
            let (since, span) = (logged.since(), logged.span().clone());
            let arrival = Arrival { id, since, described: described.clone(), span };
            let answered = bounded.oneshot((request, arrival)).await;
            let response = answered.unwrap_or_else(|error| not_answered(&observer, &described, &error));
            Ok(logged.until_the_end_of(response))
        }
    }))
}

/// The answer to a request that was not begun, or whose answer took too long.
fn not_answered(observer: &Observer, described: &Described, error: &BoxError) -> Response<Body> {
    let (outcome, kind, message) = if error.is::<tower::timeout::error::Elapsed>() {
        (
            Outcome::TimedOut,
            FailureKind::Unreachable,
            "upstream did not answer in time; what upstream sends later is cached for the next request",
        )
    } else {
        (Outcome::Overloaded, FailureKind::Node, "too many requests at once")
    };
    let details = described.details();
    let registry = details.repository.as_ref().map(Repository::registry);
    observer.count_request(details.route.unwrap_or(RouteLabel::Other), registry, outcome);
    described.answered(outcome, Some(message));
    ErrorResponse::unavailable(kind, message).response(None)
}
