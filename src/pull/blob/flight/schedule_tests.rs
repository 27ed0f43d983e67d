//! Flights under many orders of their requests (`make model`).

use std::sync::atomic::AtomicUsize;

use shuttle::future::block_on;

use super::*;
use crate::pull::blob::hashed_start::HashedStart;
use crate::reference::{Algorithm, Hasher};
use crate::support::sync::{explore, thread};

/// A blob that is in the store or not, and how often it was downloaded.
#[derive(Default)]
struct World {
    stored: AtomicBool,
    under_way: AtomicUsize,
    downloads: AtomicUsize,
}

/// What becomes of a download.
#[derive(Clone, Copy)]
enum Outcome {
    Complete,
    Failed,
    /// The leader is dropped without a word.
    Gone,
}

impl World {
    /// One request, in the steps of `blob::Blobs` and `Downloads`; whether it has to ask again.
    fn request(&self, flights: &Flights, outcome: Outcome) -> bool {
        let context = PullContext::new("a.test/r".parse().unwrap(), None, Caller::Anonymous);
        let looked_up_at = flights.ended();
        if self.stored.load(Ordering::SeqCst) {
            return false;
        }
        match flights.join_or_lead(&context, Digest::of(b"x"), Sharing::All, Default::default()) {
            Role::Follow(flight) => {
                let mut progress = flight.follow();
                let over = block_on(progress.wait_for(Progress::is_over)).unwrap();
                matches!(&*over, Progress::Failed(_))
            }
            Role::Lead(_) if looked_up_at != flights.ended() && self.stored.load(Ordering::SeqCst) => false,
            Role::Lead(leader) => self.download(&leader, outcome),
        }
    }

    fn download(&self, leader: &Leader, outcome: Outcome) -> bool {
        assert_eq!(
            self.under_way.fetch_add(1, std::sync::atomic::Ordering::SeqCst),
            0,
            "two downloads at once"
        );
        thread::yield_now();
        self.downloads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let ended = || self.under_way.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        match outcome {
            Outcome::Complete => {
                self.stored.store(true, Ordering::SeqCst);
                ended();
                // In place of `Complete`, which has a file.
                let written = HashedStart::new(0, Hasher::new(Algorithm::Sha256));
                leader.publish(Progress::Detached { growing: None, written, size: None, window: None });
            }
            Outcome::Failed => {
                ended();
                leader.fail(Error::NotStored(None));
            }
            Outcome::Gone => {
                ended();
            }
        }
        !matches!(outcome, Outcome::Complete)
    }
}

/// Requests side by side, each with what becomes of the download that it leads; each asks until it is served, and its
/// later downloads complete. Returns how many downloads there were.
fn run(outcomes: &[Outcome]) -> usize {
    let gauge = IntGauge::new("flights", "x").unwrap();
    let (flights, world) = (Flights::new(gauge.clone()), Arc::new(World::default()));
    let requests: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            let (flights, world, mut outcome) = (flights.clone(), Arc::clone(&world), *outcome);
            thread::spawn(move || {
                while world.request(&flights, outcome) {
                    outcome = Outcome::Complete;
                }
            })
        })
        .collect();
    for request in requests {
        request.join().unwrap();
    }
    assert_eq!((flights.count(), gauge.get()), (0, 0));
    world.downloads.load(std::sync::atomic::Ordering::SeqCst)
}

#[test]
fn in_no_order_is_a_blob_downloaded_twice() {
    explore(2_000, || assert_eq!(run(&[Outcome::Complete; 4]), 1));
}

#[test]
fn in_no_order_does_a_failed_download_leave_a_request_waiting_or_end_the_next_one() {
    explore(2_000, || {
        let downloads = run(&[Outcome::Failed, Outcome::Gone, Outcome::Complete, Outcome::Failed]);
        assert!((1..=4).contains(&downloads), "{downloads}");
    });
}
