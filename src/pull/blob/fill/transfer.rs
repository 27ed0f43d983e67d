//! Transfer: a whole body from upstream to the writer of a fill, over one connection or, where that is slow, several.
//!
//! Registries and the networks before them often limit the rate of a connection. When the first connection of a large
//! blob is slow, a second one asks for a later segment while the first goes on; if both together bring clearly more,
//! the download goes on segmented. A registry that does not answer ranges costs one request.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::concurrency::{SEGMENT, is_slow};
use super::piece_queue::{PieceSender, Received};
use super::segments::{Begun, SegmentedDownload, Segments, Yielding, worth_skipping};
use crate::pull::blob::flight::Flight;
use crate::pull::blob::places::Place;
use crate::pull::blob::priority::Foreground;
use crate::pull::blob::source::UpstreamBlobs;
use crate::pull::blob::source::delivery::Way;
use crate::pull::blob::source::upstream_body::UpstreamBody;
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::reference::Digest;
use crate::store::GrowingBlob;
use crate::support::tasks::AbortOnDropHandle;
use crate::upstream;

/// Moves bodies. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Transfers {
    blobs: UpstreamBlobs,
    segments: Segments,
    foreground: Foreground,
}

/// A second connection that has been asked for.
struct SecondConnection {
    body: AbortOnDropHandle<Option<UpstreamBody>>,
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
    fn of(body: &UpstreamBody) -> Self {
        let is_of_registry = !body.is_from_tier();
        Self { begun_at: body.at(), skipped: 0, waited: Duration::ZERO, is_of_registry }
    }

    /// The next bytes of the body. What storing others takes meanwhile does not count as waiting for it.
    async fn next_of(&mut self, body: &mut UpstreamBody) -> Option<Result<Bytes, upstream::Error>> {
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
    pub(crate) fn new(blobs: UpstreamBlobs, segments: Segments, foreground: Foreground) -> Self {
        Self { blobs, segments, foreground }
    }

    /// When runtimes pull.
    pub(crate) fn foreground(&self) -> &Foreground {
        &self.foreground
    }

    /// Moves the whole body of a flight into `queue`, the end included; returns early if the queue is closed. How many
    /// connections it may use, and whether it takes over what readers have fetched, is for `way` to say.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn run(
        &self,
        mut body: UpstreamBody,
        flight: &Flight,
        digest: Digest,
        growing: &GrowingBlob,
        queue: &mut PieceSender,
        way: Way,
    ) -> Result<(), Error> {
        let context = flight.context();
        let trail = body.trail().clone();
        let mut measured = Measured::of(&body);
        flight.set_from_tier(body.is_from_tier());
        let mut second: Option<SecondConnection> = None;
        // What another connection would ask is the registry; a tier that is slow fails by itself.
        let mut second_tried = way == Way::Plain || !measured.is_of_registry;
        let mut may_skip = way == Way::Fastest;
        loop {
            queue.while_waiting_for(self.foreground.yield_before_chunk(flight)).await;
            let next = queue.while_waiting_for(measured.next_of(&mut body)).await;
            let Some(bytes) = next else {
                self.record_pace(context, &measured, body.at());
                let _ = queue.send(Received::End).await;
                return Ok(());
            };
            if !measured.is_of_registry && !body.is_from_tier() {
                // The registry delivers the rest, as fast as it can.
                measured = Measured::of(&body);
                flight.set_from_tier(false);
                second_tried = way == Way::Plain;
            }
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) => {
                    let follows = self.go_on_as_follower(flight, digest, &body, error.into());
                    body = queue.while_waiting_for(follows).await?;
                    trail.record_ranges();
                    body = body.recorded_in(&trail);
                    continue;
                }
            };
            if queue.send(Received::Bytes(bytes)).await.is_err() {
                // The writer is gone only after an error of its own, which is the one that counts.
                return Ok(());
            }
            // For what the tier delivers nothing is asked of the registry.
            if may_skip
                && !body.is_from_tier()
                && let Some(until) = worth_skipping(growing, body.at(), body.size())
            {
                if body.size() == Some(until) {
                    trail.record_ranges();
                    let _ = queue.send(Received::InFile(until)).await;
                    let _ = queue.send(Received::End).await;
                    return Ok(());
                }
                match queue.while_waiting_for(self.blobs.open(context, digest, until, None)).await {
                    Ok(rest) if rest.is_ranged() && rest.size() == body.size() => {
                        let _ = queue.send(Received::InFile(until)).await;
                        measured.skipped += until - body.at();
                        trail.record_ranges();
                        body = rest.recorded_in(&trail);
                        second = None;
                    }
                    // The connection that is open brings those bytes too.
                    _ => may_skip = false,
                }
            }
            if let Some(asked) = second.take_if(|second| second.body.is_finished()) {
                let answered = asked.body.await.ok().flatten();
                // One that answers later than the first gets there is of no use.
                if let Some(next) = answered.filter(|next| next.at() >= body.at()) {
                    let rate = measured.rate(body.at());
                    let begun = Begun { first: body, rate, second: next, place: asked.place };
                    let download = SegmentedDownload::new(&self.segments, context, digest, growing, begun);
                    return self.run_segmented(download, flight, queue).await;
                }
            } else if second.is_none() && !second_tried && self.is_slow(flight, &body, &measured) {
                // Without a place it is tried again: other downloads end.
                second = self.ask_second(context, digest, body.at() + SEGMENT);
                second_tried = second.is_some();
            }
        }
    }

    /// Whether a body comes so slowly that another connection is worth it, and the flight may have one.
    fn is_slow(&self, flight: &Flight, body: &UpstreamBody, measured: &Measured) -> bool {
        let rest = body.size().map(|size| size - body.at());
        let is_worth = |rest| is_slow(measured.received(body.at()), measured.waited, rest);
        self.foreground.may_widen(flight) && rest.is_some_and(is_worth)
    }

    async fn run_segmented(
        &self,
        download: SegmentedDownload<'_>,
        flight: &Flight,
        queue: &mut PieceSender,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        let received = download.run(queue, Yielding { foreground: &self.foreground, flight }).await?;
        // Also for what else it waited: the registry is not made faster than it is.
        let registry = flight.context().repository().registry();
        self.blobs.tier().record_pace(registry, received, begun.elapsed());
        Ok(())
    }

    /// Records how fast the registry delivered a body: the shared tier is left where it is slower.
    fn record_pace(&self, context: &PullContext, measured: &Measured, at: u64) {
        if measured.is_of_registry {
            let registry = context.repository().registry();
            self.blobs.tier().record_pace(registry, measured.received(at), measured.waited);
        }
    }

    /// The rest of a body that the leader of a flight cannot have: asked for as one of its followers whose own question
    /// upstream has answered yes. Only for a leader for whom the registry vouches: its client gets that rest too.
    ///
    /// # Errors
    /// `error`, if there is no follower that has it, or the leader may not have it.
    async fn go_on_as_follower(
        &self,
        flight: &Flight,
        digest: Digest,
        body: &UpstreamBody,
        error: Error,
    ) -> Result<UpstreamBody, Error> {
        if !flight.has_alternate()
            || self.blobs.vouched_if_asked(flight.context(), digest, body).await.is_none()
        {
            return Err(error);
        }
        while let Some(context) = flight.take_alternate() {
            let repository = context.repository();
            tracing::info!(%repository, %digest, %error, "a download goes on in the repository of a follower");
            match self.blobs.open(&context, digest, body.at(), None).await {
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

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
