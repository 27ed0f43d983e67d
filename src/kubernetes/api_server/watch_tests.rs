//! From where a watch of pods goes on.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_version_of_before_a_restore_is_not_gone_on_from_for_ever() {
    let mut progress = Progress::new();
    assert_eq!(progress.goes_on_from(), None, "the first list");
    let every = Duration::from_secs(3_600);
    progress.has_listed("1200".to_owned(), every);
    for _ in 0..30 {
        // A watch that ends as it was asked for, and works.
        progress.works();
        assert_eq!(progress.goes_on_from().as_deref(), Some("1200"));
        tokio::time::advance(Duration::from_secs(119)).await;
    }
    tokio::time::advance(every).await;
    assert_eq!(progress.goes_on_from(), None);
    progress.has_listed("1000".to_owned(), every);
    assert_eq!(progress.goes_on_from().as_deref(), Some("1000"), "an earlier one is taken as it is");
}
