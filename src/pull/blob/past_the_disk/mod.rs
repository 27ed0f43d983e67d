//! What the disk does not take of a download, from its first byte or from some byte on: its followers get it through a
//! window, and so share the body that is open.
//!
//! Promises: what passes is verified as a whole before its tail is released; wrong content ends as in the store, with
//! another endpoint where one is left; it goes on while a client reads. Deliberately not here: readers that fall out of
//! the window, which go on by themselves (`passthrough`).

pub(super) mod memory;
pub(super) mod passthrough;
pub(super) mod rest;
pub(super) mod window;
mod window_state;

use crate::pull::blob::flight::content::FlightContent;
use crate::pull::blob::flight::progress::Progress;
use crate::pull::blob::flight::{Flight, Leader};
use crate::pull::blob::hashed_start::HashedStart;
use crate::pull::blob::past_the_disk::memory::WindowMemory;
use crate::pull::blob::past_the_disk::rest::{NextOfRest, Rest};
use crate::pull::blob::past_the_disk::window::Window;
use crate::pull::blob::source::BlobSource;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::blob::source::delivery::{Trail, fault_of};
use crate::pull::blob::withheld_tail::Withheld;
use crate::pull::error::Error;
use crate::reference::{Digest, Hasher};
use crate::store::{self, Store};

/// Runs fills that go past the disk. Cheap to clone.
#[derive(Clone)]
pub(super) struct DetachedFills {
    store: Store,
    source: BlobSource,
    memory: WindowMemory,
}

/// A fill that goes on past the disk.
pub(super) struct Detached {
    /// `None` if there is no place for a download into the store.
    pub(super) error: Option<store::Error>,
    pub(super) growing: Option<FlightContent>,
    /// The bytes written.
    pub(super) written: HashedStart,
    pub(super) withheld: Withheld,
    /// Which endpoints deliver it.
    pub(super) trail: Trail,
    pub(super) rest: Rest,
}

impl Detached {
    /// One whose body goes past the disk from its first byte on, and why.
    pub(super) fn from_first_byte(body: SourceBody, hasher: Hasher, error: Option<store::Error>) -> Self {
        let (withheld, trail) = (Withheld::of(body.size(), body.trail()), body.trail().clone());
        let (written, rest) = (HashedStart::new(0, hasher), Rest::Body(Box::new(body)));
        Self { error, growing: None, written, withheld, trail, rest }
    }
}

/// How much of the rest the window got.
enum Appended {
    All,
    NotAll,
}

impl DetachedFills {
    /// Windows of `memory`; what is not stored is logged as trouble of `store`.
    pub(super) fn new(store: Store, source: BlobSource, memory: WindowMemory) -> Self {
        Self { store, source, memory }
    }

    /// Gives the followers what the disk does not take, until they have it or have all left.
    ///
    /// # Errors
    /// Upstream, or content that is not what the digest says.
    pub(super) async fn run(&self, leader: &Leader, detached: Detached) -> Result<(), Error> {
        let flight = leader.flight();
        let Detached { error, growing, written, withheld, trail, mut rest } = detached;
        error.iter().for_each(|error| self.log(flight, leader.digest(), error));
        let (size, share) = (withheld.size(), self.memory.share());
        let window = Window::new(leader.digest(), written.clone(), withheld.past_the_disk(), share);
        let handle = Some(window.handle());
        leader.publish(Progress::Detached { growing, written, size, window: handle });
        let append = async {
            loop {
                match rest.next().await? {
                    NextOfRest::Bytes(bytes) => window.append(bytes, || flight.followers()).await,
                    NextOfRest::End => return Ok(Appended::All),
                    NextOfRest::Interrupted => return Ok(Appended::NotAll),
                }
            }
        };
        let appended = tokio::select! {
            appended = append => appended,
            () = no_client(flight, &window) => Ok(Appended::NotAll),
        };
        let checked = match appended {
            Ok(Appended::NotAll) => return Ok(()),
            Ok(Appended::All) => window.verify(),
            Err(error) => Err(error),
        };
        let Err(error) = checked else {
            window.finish();
            return Ok(());
        };
        if let Some(fault) = fault_of(&error, &trail) {
            let context = flight.context();
            let another = self.source.record_wrong_content(context, leader.digest(), &trail, fault);
            if another || trail.is_in_ranges() {
                // Its readers fall out of the window: each goes on by itself, at another endpoint or in another way.
                // One that was sent nothing looks for the blob anew, and must not find this flight.
                leader.end();
                return Err(error);
            }
        }
        window.fail(Error::clone(&error));
        Err(error)
    }

    /// Logs why a blob is not stored, unless the same was logged a moment ago.
    pub(super) fn log(&self, flight: &Flight, digest: Digest, error: &store::Error) {
        let repository = flight.context().repository();
        let cause = error.cause();
        if self.store.should_log(error) {
            tracing::error!(%repository, %digest, %error, cause, "a blob cannot be stored; it is passed through to its readers");
        } else {
            tracing::debug!(%repository, %digest, %error, cause, "a blob is passed through");
        }
    }
}

/// Waits until no client reads, or is about to.
async fn no_client(flight: &Flight, window: &Window) {
    loop {
        flight.no_follower().await;
        window.no_reader().await;
        if flight.followers() == 0 {
            return;
        }
    }
}
