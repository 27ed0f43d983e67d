//! Bodies that break off, stall, or are other bytes: a client gets the right ones or a body that ends short, and nothing
//! wrong is stored.

use bytes::Bytes;
use http::StatusCode;

use crate::support::image::noise;
use crate::support::registry::Fault;
use crate::support::scene::Scene;

const QUICK: &str = "[upstream]\nheader_timeout = \"400ms\"\nidle_timeout = \"300ms\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_resumed_and_the_client_notices_nothing() {
    let scene = Scene::with(QUICK).await;
    for (seed, fault) in [(50, Fault::CloseAfter(300_000)), (51, Fault::StallAfter(300_000))] {
        let bytes = Bytes::from(noise(1_000_000, seed));
        let digest = scene.registry.put_blob("team/app", bytes.clone());
        scene.registry.wrong_once("/blobs/", fault);
        scene.registry.forget_seen();
        let reply = scene.larder.get(&format!("/v2/team/app/blobs/{digest}?ns=reg.test")).await;
        assert!(reply.complete && reply.body == bytes);
        let ranges: Vec<_> = scene.registry.seen().iter().map(|s| s.headers.get("range").cloned()).collect();
        assert_eq!(ranges.len(), 2);
        assert!(ranges[1].as_ref().unwrap().to_str().unwrap().starts_with("bytes=300000-"), "{ranges:?}");
    }
    // An upstream that ignores the range sends the whole blob again; bytes that are stored are skipped.
    let (bytes, path) = scene.blob_of(1_000_001);
    scene.registry.wrong(|seen| seen.headers.contains_key("range").then_some(Fault::IgnoreRange));
    scene.registry.wrong_once("/blobs/", Fault::CloseAfter(300_000));
    let reply = scene.larder.get(&format!("{path}?ns=reg.test")).await;
    assert!(reply.complete && reply.body == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_is_answered_with_another_range_or_size_is_not_used() {
    let scene = Scene::with(QUICK).await;
    for (content_range, body) in
        [("bytes 0-9/1000000", 10), ("bytes 300000-300009/2000000", 10), ("nonsense", 10)]
    {
        scene.registry.behave();
        let (bytes, path) = scene.blob_of(1_000_000);
        let headers = vec![("content-range", content_range.to_owned())];
        let wrong = Fault::Answer(206, headers, Bytes::from(noise(body, 3)));
        scene.registry.wrong(move |seen| seen.headers.contains_key("range").then(|| wrong.clone()));
        scene.registry.wrong_once("/blobs/", Fault::CloseAfter(300_000));
        scene.registry.forget_seen();
        let reply = scene.larder.get(&format!("{path}?ns=reg.test")).await;
        assert!(!reply.is_well(), "{content_range}");
        let handed_on = if reply.status.is_success() { reply.body } else { Bytes::new() };
        assert!(bytes.starts_with(&handed_on), "{content_range}: no byte of it is sent to the client");
        assert_eq!(scene.registry.seen().len(), 2, "{content_range}: a wrong answer is not resumed");
        assert_eq!(scene.blobs_stored(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_never_end_complete_and_are_never_stored() {
    let scene = Scene::with(QUICK).await;
    for len in [10, 60_000, 70_000, 1_000_000] {
        for fault in [
            Fault::Corrupt,
            Fault::Answer(200, vec![], Bytes::from(noise(len + 1, 4))),
            Fault::Answer(200, vec![], Bytes::new()),
        ] {
            let (bytes, path) = scene.blob_of(len);
            scene.registry.behave();
            scene.registry.wrong_at("/blobs/", fault);
            let reply = scene.larder.get(&format!("{path}?ns=reg.test")).await;
            assert!(!reply.is_well(), "{len}: a complete body of {} bytes", reply.body.len());
            assert!(reply.status != StatusCode::OK || reply.body.len() < bytes.len());
            assert_eq!(scene.blobs_stored(), 0);
            scene.nothing_is_being_written().await;
            scene.registry.behave();
            let (bytes, path) = scene.blob_of(len);
            assert_eq!(
                scene.larder.get(&format!("{path}?ns=reg.test")).await.body,
                bytes,
                "and the next one is right"
            );
            scene.larder.settled().await;
            std::fs::remove_dir_all(scene.directory.path().join("larder/store/blobs/sha256")).unwrap();
        }
    }
}
