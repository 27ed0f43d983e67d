//! The request log: one line for each request, when its body ends, under the target `larder::access`.
//!
//! ```text
//! logged_request  a request until its body has ended
//! line            what the log says of a request, and how it is written
//! folds           equal lines, folded
//! recent          the last pulls of each repository, for `larder explain`
//! span            the span of a request
//! ```
//!
//! Promises: every request has its line, also one whose client left before the answer; what is no success is folded, so
//! that no client fills the log with one refusal; a line holds no credential, no query of a URL, and of what a client
//! sent no more than a bounded part. A challenge and a 404 are information, what upstream or this node failed at is a
//! warning.
//!
//! Deliberately not here: where lines are written, and what is done when that is slow (`cli/serve/log`).

mod folds;
mod line;
mod logged_request;
mod recent;
mod span;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use parking_lot::Mutex;

use crate::pull::RequestId;
use crate::support::clock::Clock;
use crate::support::shutdown::Shutdown;
use folds::ClientFolds;
pub(super) use line::{Arrival, Described};
use line::{Line, TARGET};
use logged_request::LoggedRequest;
pub use recent::{Recent, RecentRequest};

/// Equal refusals that are written in a minute.
const EQUAL_MAX: u32 = 3;
/// Refusals of one client, of whatever kind, that are written in a minute: a node that starts fifty pods with a wrong
/// credential has fewer.
const OF_CLIENT_MAX: u32 = 300;
/// How often what was folded is written.
const WRITE_FOLDED_EVERY: Duration = Duration::from_secs(10);

/// The lines of all requests. Shared by all connections.
pub struct RequestLog {
    folding: Mutex<ClientFolds<Line>>,
    recent: Recent,
    clock: Clock,
}

impl RequestLog {
    /// No line yet.
    pub fn new(clock: Clock) -> Self {
        let folding = ClientFolds::new(EQUAL_MAX, OF_CLIENT_MAX, Line::key_of_client);
        Self { folding: Mutex::new(folding), recent: Recent::default(), clock }
    }

    /// The last pulls of each repository.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Writes what was folded, now and then, until the stop; what is left then [`Self::write_folded`] writes.
    pub async fn run(self: Arc<Self>, mut shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(WRITE_FOLDED_EVERY) => {}
                () = shutdown.requested() => return,
            }
            let due = self.folding.lock().due(Instant::now());
            due.into_iter().for_each(|entry| entry.line.write(entry.repeated));
        }
    }

    /// Writes all that was folded.
    pub fn write_folded(&self) {
        let all = self.folding.lock().end();
        all.into_iter().for_each(|entry| entry.line.write(entry.repeated));
    }

    /// A request that has come.
    pub(super) fn begin<B>(self: &Arc<Self>, request: &Request<B>, id: RequestId) -> LoggedRequest {
        LoggedRequest::new(request, id, Arc::clone(self))
    }

    /// A request that has ended.
    fn end(&self, line: Line) {
        let at = self.clock.now();
        if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
            return self.recent.add(line, at);
        }
        if line.is_success() {
            line.write(None);
            return self.recent.add(line, at);
        }
        self.recent.add(line.clone(), at);
        let entries = self.folding.lock().judge(line.key_of_equal(), line, Instant::now());
        entries.iter().for_each(|entry| entry.line.write(entry.repeated));
    }
}
