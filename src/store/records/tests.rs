//! What one repository may serve no other may, and what cannot be read is absent.

use futures_util::FutureExt;

use super::*;
use crate::reference::{MediaType, Principal, PrincipalKind};

fn records(directory: &tempfile::TempDir) -> Records {
    let layout = Layout::new(directory.path());
    layout.make_directory(&layout.ingest()).unwrap();
    Records::new(layout, Clock::manual(Timestamp(1_000)))
}

fn repository() -> Repository {
    Repository::new("reg.test".parse().unwrap(), "team/app".parse().unwrap()).unwrap()
}

#[tokio::test]
async fn what_one_repository_may_serve_no_other_may() {
    let directory = tempfile::tempdir().unwrap();
    let records = records(&directory);
    let app = repository();
    let other = Repository::new(app.registry().clone(), "team/other".parse().unwrap()).unwrap();
    let digest = Digest::of(b"x");
    let manifest = Member::Manifest(MediaType::OCI_INDEX.parse().unwrap());
    records.add_member(&app, digest, manifest.clone()).await.unwrap();
    assert_eq!(records.member(&app, digest).await, Some(manifest));
    assert_eq!(records.member(&other, digest).await, None);
    records.remove_member(&app, digest).await.unwrap();
    assert_eq!(records.member(&app, digest).await, None, "its membership has ended");
    records.remove_member(&app, digest).await.unwrap();
    records.add_member(&app, digest, Member::Blob).await.unwrap();
    assert!(!records.received_from(app.registry(), digest).await, "a confirmed digest brought no bytes");
    records.stage_received(&records.layout, &other, &digest, Some(&Member::Blob)).unwrap();
    assert_eq!(records.member(&other, digest).await, Some(Member::Blob));
    assert!(records.received_from(app.registry(), digest).await);
}

#[tokio::test]
async fn a_tag_that_keeps_its_digest_is_written_again_after_an_hour_only() {
    let directory = tempfile::tempdir().unwrap();
    let records = records(&directory);
    let app = repository();
    let tag: Tag = "v1".parse().unwrap();
    let confirmed_at = async |digest| {
        records.confirm_tag(&app, &tag, digest).await.unwrap();
        records.tag(&app, &tag).await.unwrap().confirmed_at
    };
    let first = Digest::of(b"first");
    assert_eq!(confirmed_at(first).await, Timestamp(1_000));
    records.clock.advance(tags::RENEWAL - Duration::from_secs(1));
    assert_eq!(confirmed_at(first).await, Timestamp(1_000));
    records.clock.advance(Duration::from_secs(1));
    assert_eq!(confirmed_at(first).await, Timestamp(4_600));
    records.clock.advance(Duration::from_secs(1));
    assert_eq!(
        confirmed_at(Digest::of(b"second")).await,
        Timestamp(4_601),
        "a new digest is written at once"
    );
}

#[tokio::test]
async fn an_unreadable_record_counts_as_absent() {
    let directory = tempfile::tempdir().unwrap();
    let records = records(&directory);
    let app = repository();
    let tag: Tag = "v1".parse().unwrap();
    let digest = Digest::of(b"x");
    records.confirm_tag(&app, &tag, digest).await.unwrap();
    records.add_member(&app, digest, Member::Blob).await.unwrap();
    for path in [records.layout.tag(&app, &tag), records.layout.member(&app, &digest)] {
        std::fs::write(path, "{").unwrap();
    }
    assert_eq!(records.tag(&app, &tag).await, None);
    assert_eq!(records.member(&app, digest).await, None);
}

#[tokio::test]
async fn an_outage_of_a_registry_that_never_delivered_anything_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let records = records(&directory);
    let app = repository();
    records.set_outage(app.registry(), Some(Timestamp(5))).await.unwrap();
    assert_eq!(records.outage(app.registry()).await, None);
    records.add_member(&app, Digest::of(b"x"), Member::Blob).await.unwrap();
    records.set_outage(app.registry(), Some(Timestamp(5))).await.unwrap();
    assert_eq!(records.outage(app.registry()).await, Some(Timestamp(5)));
    records.set_outage(app.registry(), None).await.unwrap();
    assert_eq!(records.outage(app.registry()).await, None);
}

/// Writes that are asked for before the sender is dropped are done in one batch.
async fn hold_writes(records: &Records) -> std::sync::mpsc::Sender<()> {
    let (held, release) = std::sync::mpsc::channel();
    let wait = move || {
        let _ = release.recv();
    };
    records.writes().later(wait).await;
    held
}

#[tokio::test]
async fn the_last_confirmation_of_a_tag_counts_also_where_the_disk_says_the_same_before_the_batch() {
    let directory = tempfile::tempdir().unwrap();
    let records = records(&directory);
    let (app, tag): (_, Tag) = (repository(), "v1".parse().unwrap());
    let [old, other] = [b"old", b"new"].map(|content| Digest::of(content));
    for digest in [old, other] {
        records.layout.write_small(&records.layout.blob(&digest), b"content").unwrap();
    }
    records.confirm_tag(&app, &tag, old).await.unwrap();
    let held = hold_writes(&records).await;
    records.confirm_tag_later(&app, &tag, other).await;
    records.confirm_tag_later(&app, &tag, old).await;
    drop(held);
    records.writes().flush().await;
    assert_eq!(tags::find(&records.layout, &app, &tag).map(|record| record.digest), Some(old));
}

#[tokio::test]
async fn a_tag_whose_manifest_the_store_does_not_take_costs_the_disk_no_file_each_time_it_is_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let records = records(&directory);
    let (app, tag): (_, Tag) = (repository(), "v1".parse().unwrap());
    let digest = Digest::of(b"in memory alone");
    // Files that are made are made here, and change its time.
    let temporary = std::fs::File::open(records.layout.ingest()).unwrap();
    temporary.set_modified(std::time::UNIX_EPOCH).unwrap();
    for _ in 0..50 {
        records.confirm_tag_later(&app, &tag, digest).await;
        records.writes().flush().await;
    }
    assert_eq!(temporary.metadata().unwrap().modified().unwrap(), std::time::UNIX_EPOCH);
    assert_eq!(records.tag(&app, &tag).await.map(|record| record.digest), Some(digest));
    assert!(!records.layout.tag(&app, &tag).exists());
    records.layout.write_small(&records.layout.blob(&digest), b"content").unwrap();
    records.confirm_tag_later(&app, &tag, digest).await;
    records.writes().flush().await;
    assert_eq!(tags::find(&records.layout, &app, &tag).map(|record| record.digest), Some(digest));
}

#[tokio::test]
async fn a_manifest_that_is_confirmed_as_a_blob_in_the_batch_that_writes_it_keeps_its_type() {
    let directory = tempfile::tempdir().unwrap();
    let records = records(&directory);
    let (app, digest) = (repository(), Digest::of(b"x"));
    let manifest = Member::Manifest(MediaType::OCI_INDEX.parse().unwrap());
    let held = hold_writes(&records).await;
    let (name, member) = (app.clone(), manifest.clone());
    let write = move |staging: &Layout| -> (Result<(), Error>, crate::store::layout::batch::End) {
        (members::add(staging, &name, &digest, &member), Box::new(|_| ()))
    };
    records.writes().stage(Box::new(write)).await;
    records.add_member_later(records.place().await, &app, digest, Member::Blob);
    drop(held);
    records.writes().flush().await;
    assert_eq!(records.member(&app, digest).await, Some(manifest));
}

#[tokio::test]
async fn a_request_that_gives_up_while_too_much_waits_to_be_written_changes_no_tag_and_no_membership() {
    let directory = tempfile::tempdir().unwrap();
    let records = records(&directory);
    let (app, tag): (_, Tag) = (repository(), "v1".parse().unwrap());
    let [old, new] = [b"old", b"new"].map(|content| Digest::of(content));
    records.confirm_tag(&app, &tag, old).await.unwrap();
    records.add_member(&app, old, Member::Blob).await.unwrap();
    let full = records.writes().fill_places();
    assert!(records.confirm_tag_later(&app, &tag, new).now_or_never().is_none());
    let added = async { records.add_member_later(records.place().await, &app, new, Member::Blob) };
    assert!(added.now_or_never().is_none());
    assert!(records.remove_member(&app, old).now_or_never().is_none());
    drop(full);
    records.writes().flush().await;
    assert_eq!(records.tag(&app, &tag).await.map(|record| record.digest), Some(old));
    assert_eq!(records.member(&app, new).await, None);
    assert_eq!(records.member(&app, old).await, None, "what has ended has ended");
}

#[tokio::test]
async fn the_end_of_a_right_is_known_after_a_restart_and_a_damaged_mark_counts_as_new() {
    let directory = tempfile::tempdir().unwrap();
    let (app, before) = (repository(), records(&directory));
    let other = Repository::new(app.registry().clone(), "team/other".parse().unwrap()).unwrap();
    assert_eq!(before.closed_at(&app).await, None);
    before.set_closed(Some(&app), Timestamp(7)).await.unwrap();
    let after = records(&directory);
    assert_eq!(after.closed_at(&app).await, Some(Timestamp(7)));
    assert_eq!(after.closed_at(&other).await, None);
    assert!(after.has_any(&app).await && !after.has_any(&other).await);
    after.set_closed(None, Timestamp(9)).await.unwrap();
    assert_eq!(after.closed_at(&app).await, Some(Timestamp(9)));
    assert_eq!(after.closed_at(&other).await, Some(Timestamp(9)));
    std::fs::write(after.layout.closed(&app), "{").unwrap();
    assert_eq!(after.closed_at(&app).await, Some(after.clock().now()));
}

#[tokio::test]
async fn a_grant_of_a_repository_without_content_makes_no_directory_and_is_written_with_its_first_content() {
    let directory = tempfile::tempdir().unwrap();
    let records = records(&directory);
    let deep = |n: usize| {
        Repository::new("evil.test".parse().unwrap(), format!("u{n}{}", "/a".repeat(110)).parse().unwrap())
    };
    let (app, who) = (repository(), Principal::new(PrincipalKind::Anonymous, [0; 16]));
    let prove = async |repository: &Repository| {
        let place = records.place().await.unwrap();
        records.set_grant_later(place, repository, who, Timestamp(5));
    };
    for n in 0..2_000 {
        prove(&deep(n).unwrap()).await;
    }
    prove(&app).await;
    records.writes.flush().await;
    assert!(!records.layout.refs().join("evil.test").exists(), "invented names have directories");
    assert_eq!(records.grants(&app).await.unwrap(), [(who, Timestamp(5))], "it holds meanwhile");

    let place = records.place().await;
    records.add_member_later(place, &app, Digest::of(b"x"), Member::Blob);
    records.writes.flush().await;
    assert_eq!(grants::all(&records.layout, &app), [(who, Timestamp(5))], "it would not outlive a restart");
    records.remove_grant(&app, who).await.unwrap();
    assert_eq!(records.grants(&app).await.unwrap(), []);
    // One that ended before there is content does not return with it.
    let other = Repository::new(app.registry().clone(), "team/other".parse().unwrap()).unwrap();
    prove(&other).await;
    records.remove_grant(&other, who).await.unwrap();
    records.add_member(&other, Digest::of(b"x"), Member::Blob).await.unwrap();
    records.writes.flush().await;
    assert_eq!(records.grants(&other).await.unwrap(), []);
    // Revoked with the others, and written with content that another thread records.
    prove(&deep(0).unwrap()).await;
    assert!(records.revoke(None, || ()).await.unwrap() >= 1);
    assert_eq!(records.grants(&deep(0).unwrap()).await.unwrap(), []);
    let third = Repository::new(app.registry().clone(), "team/third".parse().unwrap()).unwrap();
    prove(&third).await;
    records.writes.flush().await;
    records.stage_received(&records.layout, &third, &Digest::of(b"x"), Some(&Member::Blob)).unwrap();
    records.write_grants_later(&third);
    records.writes.flush().await;
    assert_eq!(grants::all(&records.layout, &third), [(who, Timestamp(5))]);
}

#[tokio::test]
async fn where_inodes_are_short_a_new_repository_gets_no_directory_and_an_old_one_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let records = records(&directory);
    let (app, new) = (repository(), "reg.test/new".parse::<Repository>().unwrap());
    records.add_member(&app, Digest::of(b"x"), Member::Blob).await.unwrap();
    records.ask_for_inodes(|| true);
    let (blob, tag) = (Digest::of(b"y"), "v1".parse::<Tag>().unwrap());
    records.layout.make_directory(&records.layout.blobs(crate::reference::Algorithm::Sha256)).unwrap();
    std::fs::write(records.layout.blob(&blob), "y").unwrap();
    for repository in [&app, &new] {
        records.add_member_later(records.place().await, repository, blob, Member::Blob);
        records.confirm_tag_later(repository, &tag, blob).await;
    }
    records.writes.flush().await;
    assert!(!records.layout.marked(&new, "").exists(), "a new name has directories");
    assert_eq!(records.member(&new, blob).await, Some(Member::Blob), "it is known all the same");
    assert_eq!(records.tag(&new, &tag).await.unwrap().digest, blob);
    assert!(records.layout.tag(&app, &tag).exists() && records.layout.member(&app, &blob).exists());
}
