//! Transfer: a whole body from upstream to the writer of a fill, over one connection or, where that is slow, several.
//!
//! Registries and the networks before them often limit the rate of a connection. When the first connection of a large
//! blob is slow, a second one asks for a later segment while the first goes on; if both together bring clearly more,
//! the download goes on segmented. A registry that does not answer ranges costs one request.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::concurrency::{SEGMENT, is_slow};
use super::piece_queue::{PieceSender, Received};
use super::segments::{SegmentedDownload, Segments, TwoConnections, Yielding, worth_skipping};
use crate::pull::blob::flight::Leader;
use crate::pull::blob::places::Place;
use crate::pull::blob::priority::Foreground;
use crate::pull::blob::source::BlobSource;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::blob::source::delivery::{Trail, Way};
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::reference::Digest;
use crate::store::GrowingBlob;
use crate::support::tasks::AbortOnDropHandle;
use crate::upstream;

/// Moves bodies. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Transfers {
    source: BlobSource,
    segments: Segments,
    foreground: Foreground,
}

/// One body that is moved, over one connection.
struct Transfer<'a> {
    of: &'a Transfers,
    leader: &'a Leader,
    growing: &'a GrowingBlob,
    queue: &'a mut PieceSender,
    body: SourceBody,
    /// Records who delivers the bytes.
    trail: Trail,
    measured: Measured,
    way: Way,
    second: Second,
    /// Whether what readers have fetched is left out.
    may_skip: bool,
}

/// Whether a second connection is asked for.
enum Second {
    /// Not yet: the first is not slow so far, or there was no place.
    Untried,
    Asked(SecondConnection),
    /// Not any more, or not at all: one was asked for already, or may not be.
    Over,
}

/// A second connection that has been asked for.
struct SecondConnection {
    body: AbortOnDropHandle<Option<SourceBody>>,
    place: Place,
}

/// What has arrived over the first connection.
struct Measured {
    begun_at: u64,
    skipped: u64,
    waited: Duration,
    /// Whether it is of the registry, and not of the shared tier.
    is_of_registry: bool,
}

impl Measured {
    fn of(body: &SourceBody) -> Self {
        let is_of_registry = !body.is_from_tier();
        Self { begun_at: body.at(), skipped: 0, waited: Duration::ZERO, is_of_registry }
    }

    /// The next bytes of the body. What storing others takes meanwhile does not count as waiting for it.
    async fn next_of(&mut self, body: &mut SourceBody) -> Option<Result<Bytes, upstream::Error>> {
        let before = Instant::now();
        let next = body.next().await;
        self.waited += before.elapsed();
        next
    }

    fn received(&self, at: u64) -> u64 {
        at - self.begun_at - self.skipped
    }

    /// Bytes a second of the time for which upstream was waited for.
    fn rate(&self, at: u64) -> f64 {
        self.received(at) as f64 / self.waited.as_secs_f64()
    }
}

impl Transfers {
    pub(crate) fn new(source: BlobSource, segments: Segments, foreground: Foreground) -> Self {
        Self { source, segments, foreground }
    }

    /// Moves the whole body of a flight into `queue`, the end included; returns early if the queue is closed. How many
    /// connections it may use, and whether it takes over what readers have fetched, is for `way` to say.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn run(
        &self,
        leader: &Leader,
        body: SourceBody,
        growing: &GrowingBlob,
        queue: &mut PieceSender,
        way: Way,
    ) -> Result<(), Error> {
        let measured = Measured::of(&body);
        let (second, may_skip) = (Second::at_first(way, &measured), way == Way::Fastest);
        let trail = body.trail().clone();
        leader.flight().set_from_tier(body.is_from_tier());
        let transfer =
            Transfer { of: self, leader, growing, queue, body, trail, measured, way, second, may_skip };
        transfer.run().await
    }

    /// Records how fast a registry delivered a body: the shared tier is left where it is slower.
    fn record_pace(&self, context: &PullContext, received: u64, took: Duration) {
        self.source.tier().record_pace(context.repository().registry(), received, took);
    }

    /// The rest of a body that the leader of a flight cannot have: asked for as one of its followers whose own question
    /// upstream has answered yes. Only for a leader for whom the registry vouches: its client gets that rest too.
    ///
    /// # Errors
    /// `error`, if there is no follower that has it, or the leader may not have it.
    async fn go_on_as_follower(
        &self,
        leader: &Leader,
        body: &SourceBody,
        error: Error,
    ) -> Result<SourceBody, Error> {
        let (flight, digest) = (leader.flight(), leader.digest());
        if !flight.has_alternate()
            || self.source.vouched_if_asked(flight.context(), digest, body).await.is_none()
        {
            return Err(error);
        }
        while let Some(context) = flight.take_alternate() {
            let repository = context.repository();
            tracing::info!(%repository, %digest, %error, "a download goes on in the repository of a follower");
            match self.source.open(&context, digest, body.at(), None).await {
                Ok(rest) if rest.size() == body.size() => return Ok(rest),
                Ok(_) => tracing::info!(%repository, %digest, "a repository has another size for a digest"),
                Err(error) => tracing::info!(%repository, %digest, %error, "nor can a follower have it"),
            }
        }
        Err(error)
    }

    fn ask_second(&self, context: &PullContext, digest: Digest, from: u64) -> Option<SecondConnection> {
        let place = self.segments.extra_place(context.repository().registry())?;
        let (segments, context) = (self.segments.clone(), context.clone());
        let body = AbortOnDropHandle::new(self.segments.tasks().spawn(async move {
            let asked = segments.open(&context, digest, from, from + SEGMENT).await;
            asked.inspect_err(|error| tracing::debug!(%digest, %error, "no second connection")).ok()
        }));
        Some(SecondConnection { body, place })
    }
}

impl Transfer<'_> {
    async fn run(mut self) -> Result<(), Error> {
        while let Some(bytes) = self.next_bytes().await? {
            if self.queue.send(Received::Bytes(bytes)).await.is_err() {
                // The writer is gone only after an error of its own, which is the one that counts.
                return Ok(());
            }
            if self.skip_fetched().await.is_break() {
                return Ok(());
            }
            if let Some((second, place)) = self.second_connection().await {
                return self.run_segmented(second, place).await;
            }
        }
        if self.measured.is_of_registry {
            let received = self.measured.received(self.body.at());
            self.of.record_pace(self.leader.flight().context(), received, self.measured.waited);
        }
        let _ = self.queue.send(Received::End).await;
        Ok(())
    }

    /// The next bytes of the body; `None` at its end. Where the tier or the leader cannot have them, they come from the
    /// registry, or as to a follower.
    ///
    /// # Errors
    /// Nobody has them.
    async fn next_bytes(&mut self) -> Result<Option<Bytes>, Error> {
        let (of, leader) = (self.of, self.leader);
        loop {
            self.queue.while_waiting_for(of.foreground.yield_before_chunk(leader.flight())).await;
            let next = self.queue.while_waiting_for(self.measured.next_of(&mut self.body)).await;
            let Some(bytes) = next else { return Ok(None) };
            if !self.measured.is_of_registry && !self.body.is_from_tier() {
                // The registry delivers the rest, as fast as it can.
                self.measured = Measured::of(&self.body);
                leader.flight().set_from_tier(false);
                self.second = Second::at_first(self.way, &self.measured);
            }
            match bytes {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) => {
                    let follows = of.go_on_as_follower(leader, &self.body, error.into());
                    let rest = self.queue.while_waiting_for(follows).await?;
                    self.go_on_with(rest);
                }
            }
        }
    }

    /// Leaves out what readers have fetched, where that is worth a new connection. Breaks where nothing else was left.
    async fn skip_fetched(&mut self) -> ControlFlow<()> {
        // For what the tier delivers nothing is asked of the registry.
        if !self.may_skip || self.body.is_from_tier() {
            return ControlFlow::Continue(());
        }
        let (at, size) = (self.body.at(), self.body.size());
        let Some(until) = worth_skipping(self.growing, at, size) else { return ControlFlow::Continue(()) };
        if size == Some(until) {
            self.trail.record_ranges();
            let _ = self.queue.send(Received::InFile(until)).await;
            let _ = self.queue.send(Received::End).await;
            return ControlFlow::Break(());
        }
        let (context, digest) = (self.leader.flight().context(), self.leader.digest());
        match self.queue.while_waiting_for(self.of.source.open(context, digest, until, None)).await {
            Ok(rest) if rest.is_ranged() && rest.size() == size => {
                let _ = self.queue.send(Received::InFile(until)).await;
                self.measured.skipped += until - at;
                self.go_on_with(rest);
                if matches!(self.second, Second::Asked(_)) {
                    self.second = Second::Over;
                }
            }
            // The connection that is open brings those bytes too.
            _ => self.may_skip = false,
        }
        ControlFlow::Continue(())
    }

    /// The rest comes from another body.
    fn go_on_with(&mut self, rest: SourceBody) {
        self.trail.record_ranges();
        self.body = rest.recorded_in(&self.trail);
    }

    /// The second connection, once it is there and of use. It is asked for where the first is slow.
    async fn second_connection(&mut self) -> Option<(SourceBody, Place)> {
        match &self.second {
            Second::Untried if self.is_slow() => {
                let (context, digest) = (self.leader.flight().context(), self.leader.digest());
                // Without a place it is tried again: other downloads end.
                let asked = self.of.ask_second(context, digest, self.body.at() + SEGMENT);
                self.second = asked.map_or(Second::Untried, Second::Asked);
            }
            Second::Asked(asked) if asked.body.is_finished() => {
                if let Second::Asked(asked) = std::mem::replace(&mut self.second, Second::Over) {
                    let answered = asked.body.await.ok().flatten();
                    // One that answers later than the first gets there is of no use.
                    let second = answered.filter(|second| second.at() >= self.body.at());
                    return second.map(|second| (second, asked.place));
                }
            }
            Second::Untried | Second::Asked(_) | Second::Over => {}
        }
        None
    }

    /// Whether the body comes so slowly that another connection is worth it, and the flight may have one.
    fn is_slow(&self) -> bool {
        let (at, measured) = (self.body.at(), &self.measured);
        let rest = self.body.size().map(|size| size - at);
        let is_worth = |rest| is_slow(measured.received(at), measured.waited, rest);
        self.of.foreground.may_widen(self.leader.flight()) && rest.is_some_and(is_worth)
    }

    /// Goes on over as many connections as make it fast.
    async fn run_segmented(self, second: SourceBody, place: Place) -> Result<(), Error> {
        let Self { of, leader, growing, queue, body: first, measured, .. } = self;
        let (flight, rate) = (leader.flight(), measured.rate(first.at()));
        let (context, begun) = (flight.context(), TwoConnections { first, rate, second, place });
        let download = SegmentedDownload::new(&of.segments, context, leader.digest(), growing, begun);
        let begun_at = Instant::now();
        let received = download.run(queue, Yielding { foreground: &of.foreground, flight }).await?;
        // Also for what else it waited: the registry is not made faster than it is.
        of.record_pace(context, received, begun_at.elapsed());
        Ok(())
    }
}

impl Second {
    /// What another connection would ask is the registry; a tier that is slow fails by itself.
    fn at_first(way: Way, measured: &Measured) -> Self {
        match way {
            Way::Fastest if measured.is_of_registry => Self::Untried,
            Way::Fastest | Way::Plain => Self::Over,
        }
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
