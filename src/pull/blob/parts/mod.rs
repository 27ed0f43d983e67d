//! Parts of a blob that is not being downloaded: what is kept of it, and what is missing, fetched once for all who ask.
//!
//! Promises: a part that is kept, or on its way for another reader, is not fetched again; one that cannot be kept comes
//! all the same; what is kept is kept for, and opened to, callers for whom there is the registry's own word
//! (`vouched`). Deliberately not here: whether a part may be fetched alone (`byte_range`, `single_ranges`), how it
//! is kept (`partial`, `fetch`).

pub(super) mod byte_range;
mod fetch;
pub(super) mod partial;
pub(super) mod read;
pub(super) mod single_ranges;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::pull::access::rights::Use;
use crate::pull::blob::parts::byte_range::{BlobRange, is_much};
use crate::pull::blob::parts::fetch::Reserved;
use crate::pull::blob::parts::partial::{Partial, Partials};
use crate::pull::blob::parts::single_ranges::{Alone, SingleRanges, Wanted};
use crate::pull::blob::room::Room;
use crate::pull::blob::source::BlobSource;
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::reference::{Digest, Principal, Repository};

/// How long a reader waits for the answer to the first part of a blob that another one asked for: then it asks by
/// itself, which still comes in the time for which its client waits.
const FIRST_PART_WAIT: Duration = Duration::from_secs(5);

/// What a part is read from.
pub(crate) enum FoundPart {
    /// What is kept, and whether all of it is.
    Kept { partial: Arc<Partial>, is_all: bool },
    /// Upstream's answer for this part alone.
    Alone(Alone),
}

/// Who asks for the first part of a blob.
#[derive(Clone, PartialEq, Eq, Hash)]
struct FirstAsker {
    repository: Repository,
    digest: Digest,
    principal: Option<Principal>,
    /// Whether the client was asked for a credential already, or showed one.
    is_identified: bool,
}

/// Parts of blobs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Parts {
    source: BlobSource,
    ranges: SingleRanges,
    partials: Partials,
    room: Room,
    /// The first parts that are being asked for; each for as long as one request.
    first: Arc<Mutex<FirstParts>>,
}

/// The first parts that are being asked for, and how to wait for the end of each.
type FirstParts = HashMap<FirstAsker, watch::Receiver<()>>;

/// The turn of a request to ask for the first part of a blob, until it is dropped.
struct Turn {
    all: Arc<Mutex<FirstParts>>,
    asker: FirstAsker,
    _over: watch::Sender<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.all.lock().remove(&self.asker);
    }
}

impl Parts {
    pub(crate) fn new(source: BlobSource, ranges: SingleRanges, partials: Partials, room: Room) -> Self {
        Self { source, ranges, partials, room, first: Arc::default() }
    }

    /// What a part is read from; `None` if it is not to be had alone. `size` is that of the blob, where it is
    /// known.
    ///
    /// # Errors
    /// Upstream cannot be asked.
    pub(crate) async fn find(
        &self,
        context: &PullContext,
        digest: Digest,
        range: BlobRange,
        size: Option<u64>,
    ) -> Result<Option<FoundPart>, Error> {
        if range.is_whole(size) {
            return Ok(None);
        }
        let (mut kept, mut turn) = (self.kept(context, digest).await, None);
        if kept.is_none() {
            turn = self.first_turn(context, digest).await;
            if turn.is_none() {
                kept = self.kept(context, digest).await;
            }
        }
        let found = match (kept.as_ref().map(|partial| range.of(partial.size)), kept) {
            (Some(BlobRange::Bytes { start, end }), Some(partial)) => {
                self.missing(context, digest, start..end, partial).await
            }
            _ => self.ask(context, digest, range, size).await,
        };
        drop(turn);
        found
    }

    /// The turn to ask for the first part of a blob; `None` after another request had it.
    async fn first_turn(&self, context: &PullContext, digest: Digest) -> Option<Turn> {
        let caller = context.caller();
        let asker = FirstAsker {
            repository: context.repository().clone(),
            digest,
            principal: caller.principal(),
            is_identified: caller.is_identified(),
        };
        let mut over = {
            let mut all = self.first.lock();
            if let Some(over) = all.get(&asker) {
                over.clone()
            } else {
                let (sender, receiver) = watch::channel(());
                all.insert(asker.clone(), receiver);
                return Some(Turn { all: Arc::clone(&self.first), asker, _over: sender });
            }
        };
        let _ = tokio::time::timeout(FIRST_PART_WAIT, over.changed()).await;
        None
    }

    /// The parts of a blob that are kept, if the caller may read them.
    async fn kept(&self, context: &PullContext, digest: Digest) -> Option<Arc<Partial>> {
        let partial = self.partials.find(context, digest)?;
        self.source.access().known().fresh(context, Use::Read).await?;
        Some(partial)
    }

    /// A part of a blob of which others are kept: the first piece that is missing is asked for before the answer
    /// begins.
    async fn missing(
        &self,
        context: &PullContext,
        digest: Digest,
        range: Range<u64>,
        partial: Arc<Partial>,
    ) -> Result<Option<FoundPart>, Error> {
        let (size, registry) = (partial.size, context.repository().registry());
        if range.start >= size {
            return Ok(Some(FoundPart::Alone(Alone::Beyond { size })));
        }
        let (start, end) = (range.start, range.end.min(size));
        let Some(missing) = partial.parts.blob().first_missing(start, end) else {
            return Ok(Some(FoundPart::Kept { partial, is_all: true }));
        };
        let wanted = BlobRange::Bytes { start: missing, end };
        let has_room = self.has_room(context, digest, wanted, Some(size)).await;
        let of =
            |start, end| Wanted { range: BlobRange::Bytes { start, end }, declared: Some(size), has_room };
        if !self.ranges.is_alone(registry, digest, of(missing, end)) {
            return Ok(None);
        }
        let part = match partial.parts.reserve(missing, end) {
            Reserved::Coming(_) | Reserved::Kept => {
                return Ok(Some(FoundPart::Kept { partial, is_all: false }));
            }
            Reserved::New(part) if has_room => part,
            // What cannot be kept is asked for from its first byte on.
            Reserved::New(_) | Reserved::Full => {
                let alone = self.ranges.open(context, digest, of(start, end)).await?;
                return Ok(alone.map(FoundPart::Alone));
            }
        };
        match self.ranges.open(context, digest, of(part.start(), part.end())).await? {
            Some(Alone::Body { body, size: now }) if now == size => {
                part.receive(async { Ok(*body) });
                Ok(Some(FoundPart::Kept { partial, is_all: false }))
            }
            _ => Ok(None),
        }
    }

    /// A part of a blob of which nothing is kept for this caller; what comes is kept if it can be.
    async fn ask(
        &self,
        context: &PullContext,
        digest: Digest,
        range: BlobRange,
        declared: Option<u64>,
    ) -> Result<Option<FoundPart>, Error> {
        let has_room = self.has_room(context, digest, range, declared).await;
        let (body, size) =
            match self.ranges.open(context, digest, Wanted { range, declared, has_room }).await? {
                Some(Alone::Body { body, size }) => (body, size),
                other => return Ok(other.map(FoundPart::Alone)),
            };
        let not_kept = |body| Ok(Some(FoundPart::Alone(Alone::Body { body, size })));
        // One that turned out to be the whole is verified instead.
        let is_part = body.is_ranged() && !(body.begun_at() == 0 && body.is_to_end());
        if !has_room || !is_part {
            return not_kept(body);
        }
        let Some(vouched) = self.source.vouched_if_asked(context, digest, &body).await else {
            return not_kept(body);
        };
        let Some(partial) = self.partials.begin(context, digest, size, &self.room, vouched).await else {
            return not_kept(body);
        };
        let (from, until) = (body.begun_at(), body.until().map_or(size, |until| until.min(size)));
        // What others had fetched, or are fetching, is not kept again.
        if partial.parts.blob().first_missing(from, until) == Some(from) {
            match partial.parts.reserve(from, until) {
                Reserved::New(part) if part.end() == until => drop(part.receive(async { Ok(*body) })),
                Reserved::Coming(_) | Reserved::Kept => {}
                Reserved::New(_) | Reserved::Full => return not_kept(body),
            }
        }
        Ok(Some(FoundPart::Kept { partial, is_all: false }))
    }

    /// Whether a part is asked for as one of a blob that is stored if more of it is wanted: a small part as long as
    /// anything is, any other only if the whole would be. Otherwise the whole would be asked for in vain, and the part
    /// after it.
    async fn has_room(
        &self,
        context: &PullContext,
        digest: Digest,
        range: BlobRange,
        size: Option<u64>,
    ) -> bool {
        let registry = context.repository().registry();
        let whole = size.filter(|size| !self.ranges.is_small(registry, digest, range, *size));
        let kept = whole.map_or(0, |size| self.partials.bytes_of(context, digest, size));
        // What is kept has its place already.
        if self.room.check(registry, whole.map(|size| size.saturating_sub(kept))).await.is_err() {
            return false;
        }
        let Some(size) = whole else { return true };
        is_much(kept, size) || self.room.judge_request(context.priority(), digest, Some(size)).await.is_none()
    }
}
