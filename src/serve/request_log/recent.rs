//! The last pulls of each repository and how they ended, for `larder explain`: in memory, and bounded.
//!
//! What clients ask for in vain has places of its own, so that it does not push out the repositories that are served.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::line::{Details, Line};
use crate::pull::{AnswerSource, RequestId};
use crate::reference::Repository;
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::Timestamp;
use crate::support::metric_labels::Label;

/// Requests that are remembered of one repository: an image of ten layers and what was tried before it.
const REQUESTS_MAX: usize = 24;
/// Repositories from which something was served, and others.
const SERVED_MAX: usize = 512;
const OTHERS_MAX: usize = 128;

type Requests = VecDeque<Remembered>;

/// A request that has ended, and when.
struct Remembered {
    at: Timestamp,
    line: Line,
}

/// The last requests. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Recent(Arc<Mutex<Repositories>>);

struct Repositories {
    served: BoundedMap<Repository, Requests>,
    others: BoundedMap<Repository, Requests>,
}

/// A request for content of a repository, as the request log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentRequest {
    /// When it ended.
    pub at: Timestamp,
    /// Its number in the log.
    pub request: u64,
    /// The address of its client.
    pub client: String,
    /// The user of its client, where the kernel knew it.
    pub user: Option<u32>,
    /// `GET` or `HEAD`.
    pub method: String,
    /// The tag or digest; absent for a list.
    pub reference: Option<String>,
    /// The status of the answer; absent if the client left before it.
    pub status: Option<u16>,
    /// How it ended: the text of its line in the log.
    pub ended: String,
    /// Where its content came from.
    pub source: Option<String>,
    /// The endpoints that were asked for it.
    pub upstream: Vec<String>,
    /// The request that led the download it was answered from.
    pub download: Option<u64>,
    /// Body bytes.
    pub bytes: u64,
    /// Milliseconds from the request to the end of its answer.
    pub duration_ms: u64,
    /// Why it was refused, or is out of date.
    pub reason: Option<String>,
}

impl Default for Recent {
    fn default() -> Self {
        let (served, others) = (BoundedMap::new(SERVED_MAX), BoundedMap::new(OTHERS_MAX));
        Self(Arc::new(Mutex::new(Repositories { served, others })))
    }
}

impl Recent {
    /// Remembers a request for content; others are no pulls. What is shown of it is made when it is asked for: this is
    /// on the way of every request.
    pub(super) fn add(&self, line: Line, at: Timestamp) {
        if let Some(repository) = line.details.repository.clone() {
            self.0.lock().add(&repository, Remembered { at, line });
        }
    }

    /// The last requests for content of `repository`, the last first.
    pub fn requests_for(&self, repository: &Repository) -> Vec<RecentRequest> {
        let repositories = self.0.lock();
        let found = repositories.served.peek(repository).or_else(|| repositories.others.peek(repository));
        found.map(|requests| requests.iter().rev().map(Remembered::shown).collect()).unwrap_or_default()
    }
}

impl Remembered {
    fn shown(&self) -> RecentRequest {
        let Self { at, line } = self;
        let Details { reference, reason, .. } = &line.details;
        RecentRequest {
            at: *at,
            request: line.id.number(),
            client: line.client.to_string(),
            user: line.client.uid,
            method: line.method.to_string(),
            reference: reference.clone(),
            status: line.status,
            ended: line.said().to_owned(),
            source: line.source().map(|source| AnswerSource::label(source).to_owned()),
            upstream: line.upstream.clone(),
            download: line.download.map(RequestId::number),
            bytes: line.bytes,
            duration_ms: u64::try_from(line.duration.as_millis()).unwrap_or(u64::MAX),
            reason: reason.clone(),
        }
    }
}

impl Repositories {
    fn add(&mut self, repository: &Repository, request: Remembered) {
        let is_served = request.line.source().is_some();
        if let Some(requests) = self.served.get(repository) {
            return push(requests, request);
        }
        if is_served {
            let mut requests = self.others.remove(repository).unwrap_or_default();
            push(&mut requests, request);
            self.served.insert(repository.clone(), requests);
        } else {
            push(self.others.get_or_insert_with(repository.clone(), Requests::new), request);
        }
    }
}

fn push(requests: &mut Requests, request: Remembered) {
    if requests.len() == REQUESTS_MAX {
        requests.pop_front();
    }
    requests.push_back(request);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::listener::Peer;
    use crate::serve::observe::Outcome;
    use crate::serve::request_log::line::End;

    fn request(n: u64, source: Option<AnswerSource>) -> Remembered {
        let outcome = source.map_or(Outcome::Declined, Outcome::Served);
        let details = Details { outcome: Some(outcome), ..Details::default() };
        let line = Line {
            id: RequestId::next(),
            client: Peer::default(),
            method: http::Method::GET,
            host: None,
            range: None,
            details,
            upstream: Vec::new(),
            download: None,
            status: Some(200),
            end: End::Whole,
            bytes: n,
            first_byte: None,
            duration: Duration::ZERO,
        };
        Remembered { at: Timestamp(n), line }
    }

    #[test]
    fn what_clients_ask_for_in_vain_pushes_out_no_repository_that_is_served() {
        let recent = Recent::default();
        let app: Repository = "reg.test/app".parse().unwrap();
        recent.0.lock().add(&app, request(1, None));
        recent.0.lock().add(&app, request(2, Some(AnswerSource::Fill)));
        for n in 0..2_000 {
            let made_up = format!("reg.test/made-up{n}").parse().unwrap();
            recent.0.lock().add(&made_up, request(n, None));
        }
        assert_eq!(recent.requests_for(&app).iter().map(|one| one.bytes).collect::<Vec<_>>(), [2, 1]);
        for n in 3..200 {
            recent.0.lock().add(&app, request(n, None));
        }
        let last = recent.requests_for(&app);
        assert_eq!((last.len(), last[0].bytes), (REQUESTS_MAX, 199));
        assert_eq!(recent.0.lock().others.len(), OTHERS_MAX);
    }
}
