//! What `make bench-compare` says of two builds.

/// A benchmark has no tests of its own.
#[path = "../../benches/side_by_side/compare.rs"]
mod compare;

use compare::{Change, judge};

#[test]
fn a_row_that_moved_is_told_and_one_whose_rounds_overlap_is_not() {
    let (old, faster) = ([1.0, 1.1, 1.05, 0.95, 1.02], [1.3, 1.25, 1.4, 1.2, 1.35]);
    let Change::Better(by) = judge(&old, &faster, true) else { panic!("a gain is not seen") };
    assert!((by - 0.274).abs() < 0.001, "{by}");
    assert!(matches!(judge(&old, &faster, false), Change::Worse(_)), "a cost is taken for a gain");
    assert!(matches!(judge(&faster, &old, true), Change::Worse(_)));
    assert_eq!(judge(&old, &[1.2, 0.9, 1.3, 1.0, 1.25], true), Change::Noise);
    assert_eq!(judge(&old, &old, true), Change::Noise);
    let hair = old.map(|value| value + 0.2);
    assert_eq!(
        judge(&[100.0; 5], &hair.map(|value| 100.0 + value), true),
        Change::Noise,
        "too little to tell"
    );
    assert_eq!(judge(&old[..3], &faster, true), Change::Unknown);
}
