//! Nothing in the tier ends up in a complete body that is wrong.

use std::path::Path;

use super::{LAYER, Site};

fn change(object: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(object).unwrap();
    change(&mut bytes);
    std::fs::write(object, bytes).unwrap();
}

#[tokio::test]
async fn a_wrong_object_costs_a_download_and_no_pull() {
    // Of an object of another size the registry's answer to `HEAD` tells, where it states the digest.
    for (harm, is_noticed) in [
        ((|bytes| bytes[12] ^= 1) as fn(&mut Vec<u8>), true),
        (|bytes| bytes[LAYER - 1] ^= 1, true),
        (|bytes| bytes.truncate(LAYER / 2), false),
        (|bytes| bytes.push(0), false),
        (Vec::clear, false),
    ] {
        let mut site = Site::new().await;
        let (one, other) = (site.node(), site.node());
        let (bytes, path) = site.blob(LAYER, 1);
        assert_eq!(one.get(&path).await.body, bytes);
        site.has_objects("blobs", 1).await;
        let object = site.objects("blobs").remove(0);
        change(&object, harm);
        let reply = other.get(&path).await;
        assert!(reply.is_well() && reply.body == bytes, "{}", reply.body.len());
        other.settled().await;
        assert_eq!(other.metric("larder_tier_bad_objects_total").await, f64::from(u8::from(is_noticed)));
        // It is deleted, and what the registry delivered is written in its place.
        for _ in 0..500 {
            if std::fs::read(&object).is_ok_and(|now| now == bytes) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(std::fs::read(&object).is_ok_and(|now| now == bytes), "the wrong object is still there");
    }
}
