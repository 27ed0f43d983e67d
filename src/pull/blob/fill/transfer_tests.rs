//! How many connections a download has, beside what a runtime waits for. Time stands still but for what the registry
//! takes.

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::pull::blob::fill::memory::FillMemory;
use crate::pull::blob::fill::piece_queue::{Piece, piece_queue};
use crate::pull::blob::flight::{Flights, Role, Sharing};
use crate::pull::blob::places::Holder;
use crate::pull::context::{Caller, Priority};
use crate::pull::for_tests::{self, MirrorBody, Parts};
use crate::pull::metrics::Metrics;
use crate::store::Owner;
use crate::support::live::Live;
use crate::support::metrics::IntGauge;
use crate::support::tasks::Tasks;
use crate::tier;

const SIZE: usize = 60_000_000;
const MILLISECOND: Duration = Duration::from_millis(1);

fn queue() -> (PieceSender, mpsc::Receiver<Piece>) {
    piece_queue(FillMemory::default().of_fill(&Holder::Named("reg.test".parse().unwrap())))
}

struct Scene {
    parts: Parts,
    digest: Digest,
    flights: Flights,
    segments: Segments,
    transfers: Transfers,
    metrics: std::sync::Arc<Metrics>,
}

impl Scene {
    /// A registry that sends 10 MB/s over each connection.
    fn new() -> Self {
        static CONTENT: [u8; SIZE] = [7; SIZE];
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        let digest = parts.registry.push(&app, None, &CONTENT);
        let body = MirrorBody::whole(bytes::Bytes::from_static(&CONTENT));
        parts.registry.mirror(&app, digest, MirrorBody { chunk_takes: MILLISECOND, ..body });
        let (flights, metrics) = (Flights::new(IntGauge::new("flights", "x").unwrap()), for_tests::metrics());
        let source = parts.blobs.0.source.clone();
        let (config, tasks) = (Live::default(), Tasks::default());
        let segments = Segments::new(source.clone(), config, tasks, std::sync::Arc::clone(&metrics));
        let transfers = Transfers::new(source, segments.clone(), Foreground::new(flights.clone()));
        Self { parts, digest, flights, segments, transfers, metrics }
    }

    fn lead(&self, digest: Digest, priority: Priority) -> Leader {
        let context = PullContext::new("reg.test/app".parse().unwrap(), None, Caller::Anonymous);
        let context = context.with_priority(priority);
        match self.flights.join_or_lead(&context, digest, Sharing::All, Default::default()) {
            Role::Lead(leader) => leader,
            Role::Follow(_) => panic!("it is led"),
        }
    }

    /// Downloads the blob for `leader`; returns how long that takes.
    async fn download(&self, leader: &Leader) -> Duration {
        let context = leader.flight().context();
        let body = self.parts.blobs.0.source.open(context, self.digest, 0, None).await.unwrap();
        self.download_body(leader, body).await
    }

    async fn download_body(&self, leader: &Leader, body: SourceBody) -> Duration {
        let owner = Owner::unlimited(&"reg.test".parse().unwrap());
        let ingest = self.parts.store.begin(self.digest, Some(SIZE as u64), owner).await.unwrap();
        let growing = ingest.growing();
        let (mut queue, mut received) = queue();
        let begun = Instant::now();
        let takes = async {
            let mut bytes = 0;
            while let Some(Received::Bytes(more)) = received.recv().await.map(|piece| piece.received) {
                bytes += more.len();
            }
            assert_eq!(bytes, SIZE);
        };
        let run = self.transfers.run(leader, body, &growing, &mut queue, Way::Fastest);
        let (done, ()) = tokio::join!(timeout(Duration::from_secs(3_600), run), takes);
        done.unwrap().unwrap();
        begun.elapsed()
    }

    /// A place for a connection to a registry that the operator did not name.
    fn place(&self, registry: &str) -> Option<Place> {
        self.segments.extra_place(&registry.parse().unwrap())
    }

    fn opened(&self) -> u64 {
        self.metrics.segments.get()
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_ahead_that_yielded_takes_as_many_connections_after_it_as_before() {
    let scene = Scene::new();
    let ahead = scene.lead(scene.digest, Priority::Ahead);
    let runtime_pulls = async {
        // The second connection has just been asked for.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let before = scene.opened();
        let runtime = scene.lead(Digest::of(b"another"), Priority::Foreground);
        let client = runtime.flight().follow();
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(scene.opened() <= before + 1, "it takes connections from the runtime's download");
        assert!(scene.place("reg.test").is_some());
        drop((client, runtime));
    };
    let (_, ()) = tokio::join!(scene.download(&ahead), runtime_pulls);
    assert!(scene.opened() > 6, "{} connections for 60 MB", scene.opened());
}

#[tokio::test(start_paused = true)]
async fn what_the_tier_does_not_deliver_comes_from_the_registry_as_fast_as_without_a_tier() {
    for bytes in [0, 10_000_000] {
        let scene = Scene::new();
        let runtime = scene.lead(scene.digest, Priority::Foreground);
        let begins = bytes::Bytes::from(vec![7; bytes]);
        let chunks =
            [Ok(begins), Err(tier::Error::new(tier::ErrorKind::GaveUp, "another node was too slow"))];
        let body = Box::pin(futures_util::stream::iter(chunks.into_iter().skip(usize::from(bytes == 0))));
        let found = tier::Found { size: SIZE as u64, modified: None, body };
        let context = runtime.flight().context();
        let body = scene.parts.blobs.0.source.body_from_tier(context, scene.digest, found);
        let took = scene.download_body(&runtime, body).await;
        assert!(scene.opened() > 6 && took < Duration::from_secs(5), "{bytes}: {took:?} {}", scene.opened());
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_that_finds_no_connection_left_asks_again() {
    let scene = Scene::new();
    let runtime = scene.lead(scene.digest, Priority::Foreground);
    let all: Vec<_> = std::iter::from_fn(|| scene.place("reg.test")).collect();
    let others_end = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(scene.opened(), 0);
        drop(all);
    };
    let (took, ()) = tokio::join!(scene.download(&runtime), others_end);
    assert!(scene.opened() > 6 && took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_download_that_is_given_up_does_not_fetch_makes_its_registry_no_faster() {
    let scene = Scene::new();
    let runtime = scene.lead(scene.digest, Priority::Foreground);
    let (flight, context) = (runtime.flight(), runtime.flight().context());
    let open = |from, until| scene.parts.blobs.0.source.open(context, scene.digest, from, until);
    let first = open(0, None).await.unwrap();
    let second = open(SEGMENT, Some(2 * SEGMENT)).await.unwrap();
    let begun = TwoConnections { first, rate: 10e6, second, place: scene.place("reg.test").unwrap() };
    let owner = Owner::unlimited(&"reg.test".parse().unwrap());
    let ingest = scene.parts.store.begin(scene.digest, Some(SIZE as u64), owner).await.unwrap();
    let growing = ingest.growing();
    let download = SegmentedDownload::new(&scene.segments, context, scene.digest, &growing, begun);
    let (mut queue, mut pieces) = queue();
    let takes_some = async {
        let mut bytes = 0;
        while bytes < 10_000_000 {
            bytes += pieces.recv().await.unwrap().into_held_bytes().len();
        }
        drop(pieces);
    };
    let yielding = Yielding { foreground: &scene.transfers.foreground, flight };
    let (received, ()) = tokio::join!(download.run(&mut queue, yielding), takes_some);
    let received = received.unwrap();
    assert!((10_000_000..50_000_000).contains(&received), "{received} of {SIZE} bytes came");
}

#[tokio::test(start_paused = true)]
async fn however_many_connections_a_stranger_holds_another_registry_gets_more_than_one() {
    let scene = Scene::new();
    let runtime = scene.lead(scene.digest, Priority::Foreground);
    let names = ["evil.test", "a.evil.test", "b.evil.test:5000"];
    let held: Vec<_> =
        names.iter().flat_map(|name| std::iter::from_fn(|| scene.place(name))).take(1_000).collect();
    assert!(!held.is_empty());
    let took = scene.download(&runtime).await;
    assert!(scene.opened() > 6 && took < Duration::from_secs(5), "{took:?} {}", scene.opened());
}
