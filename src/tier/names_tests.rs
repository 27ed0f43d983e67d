//! Shared records over an object store in memory that fails.

use std::time::Duration;

use super::for_tests::{FakeObjects, Op};
use super::{Dated, ErrorKind, Tier};
use crate::support::clock::Timestamp;

const OPEN: &[&str] = &["public", "reg.test/app", ""];
const CLOSED: &[&str] = &["closed", "reg.test/app", ""];

async fn share(tier: &Tier, at: u64, fact: &str) {
    let parts = OPEN.iter().map(|&part| part.to_owned()).collect();
    tier.share_name(parts, Timestamp(at), fact.to_owned());
    tier.finish(Duration::from_secs(1)).await;
}

async fn shared(tier: &Tier) -> Dated<String> {
    tier.shared_name(OPEN).await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_writes_no_older_word_over_a_newer_one() {
    let objects = FakeObjects::default();
    let [one, two] = [objects.sharing_tier(), objects.sharing_tier()];
    share(&one, 100, "open").await;
    assert!(one.replace_name((OPEN, Some(CLOSED)), Timestamp(200), "closed".to_owned()).await.unwrap());
    let closed = Dated { at: Timestamp(200), fact: "closed".to_owned() };
    assert_eq!(shared(&one).await, closed);
    assert_eq!(one.shared_name(CLOSED).await.unwrap(), Some(closed.clone()), "a record of its own");
    objects.fail_at(Op::Get, "names", ErrorKind::Unavailable, 1);
    share(&two, 150, "open").await;
    assert_eq!(shared(&one).await, closed);
    share(&two, 300, "open").await;
    assert_eq!(shared(&one).await.fact, "open", "what is newer counts, also after a failure");
    assert_eq!(one.shared_name(CLOSED).await.unwrap(), Some(closed), "and the other record stays");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_could_not_be_shared_is_shared_once_the_tier_takes_it() {
    let objects = FakeObjects::default();
    let tier = objects.sharing_tier();
    objects.fail_at(Op::Put, "names", ErrorKind::Unavailable, 1);
    share(&tier, 100, "open").await;
    assert!(objects.keys("names").is_empty());
    let requests = objects.requests();
    share(&tier, 100, "open").await;
    assert_eq!(objects.requests(), requests, "left alone for a moment");
    tokio::time::advance(Duration::from_secs(2)).await;
    share(&tier, 100, "open").await;
    assert_eq!(shared(&tier).await.fact, "open");
}
