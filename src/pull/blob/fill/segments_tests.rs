//! Segments whose tasks end badly, or whose bytes are not taken.

use std::time::Duration;

use super::*;
use crate::pull::blob::fill::memory::FillMemory;
use crate::pull::blob::fill::piece_queue::piece_queue;
use crate::pull::blob::fill::segment::SegmentSource;
use crate::pull::blob::flight::{Flights, Role, Sharing};
use crate::pull::blob::places::Holder;
use crate::pull::for_tests::{self, Parts};
use crate::reference::Repository;
use crate::store::Owner;
use crate::support::metrics::IntGauge;

const SIZE: u64 = 6_000_000;
const MIDDLE: u64 = 1_000_000;

struct Scene {
    parts: Parts,
    app: Repository,
    digest: Digest,
    content: &'static [u8],
    segments: Segments,
}

impl Scene {
    fn new() -> Self {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        let content: &[u8] = (0..SIZE).map(|n| (n % 251) as u8).collect::<Vec<_>>().leak();
        let digest = parts.registry.push(&app, None, content);
        let source = parts.blobs.0.source.clone();
        let segments = Segments::new(source, Live::default(), Tasks::default(), for_tests::metrics());
        Self { parts, app, digest, content, segments }
    }

    async fn body(&self, from: u64, until: Option<u64>) -> SourceBody {
        let context = for_tests::pull(&self.app);
        self.parts.blobs.0.source.open(&context, self.digest, from, until).await.unwrap()
    }
}

#[tokio::test]
async fn a_segment_whose_task_ends_is_fetched_again_from_where_it_ended() {
    let scene = Scene::new();
    let context = for_tests::pull(&scene.app);
    let owner = Owner::unlimited(scene.app.registry());
    let growing = scene.parts.store.begin(scene.digest, Some(SIZE), owner).await.unwrap().growing();
    let (first, second) = (scene.body(0, None).await, scene.body(MIDDLE, Some(MIDDLE + SEGMENT)).await);
    let place = scene.segments.extra_place(scene.app.registry()).unwrap();
    let begun = TwoConnections { first, rate: 1e6, second, place };
    let download = SegmentedDownload::new(&scene.segments, &context, scene.digest, &growing, begun);
    let SegmentSource::Ahead(second) = &download.running[1].source else {
        panic!("the second is read ahead")
    };
    second.task.abort();
    let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
    let Role::Lead(leader) = flights.join_or_lead(&context, scene.digest, Sharing::All, Default::default())
    else {
        panic!()
    };
    let foreground = Foreground::new(flights);
    let holder = Holder::Named(scene.app.registry().clone());
    let (mut queue, mut pieces) = piece_queue(FillMemory::default().of_fill(&holder));
    let run = async {
        let yielding = Yielding { foreground: &foreground, flight: leader.flight() };
        download.run(&mut queue, yielding).await.unwrap();
        queue.close().await;
    };
    let taken = async {
        let mut got = Vec::new();
        while let Some(piece) = pieces.recv().await {
            got.extend_from_slice(&piece.into_held_bytes());
        }
        got
    };
    assert!(tokio::join!(run, taken).1 == scene.content);
}

#[tokio::test(start_paused = true)]
async fn downloads_whose_writers_stand_still_keep_no_segment_in_memory_without_a_place() {
    let scene = Scene::new();
    let received = async |connection| {
        let (count, body) = (Arc::new(AtomicU64::new(0)), scene.body(0, None).await);
        let _segment =
            Segment::download(async { Ok(body) }, SIZE, &count, connection, scene.segments.tasks());
        // Time goes on once nothing else does.
        tokio::time::sleep(Duration::from_secs(60)).await;
        count.load(Ordering::Relaxed)
    };
    assert_eq!(received(Connection::First).await, 0, "it is read by the task that hands it on");
    let place = scene.segments.extra_place(scene.app.registry()).unwrap();
    assert_eq!(received(Connection::Extra(place)).await, SIZE);
}
