//! Whether two builds differ beyond noise, judged by their rounds, which took turns. Pure; tested by
//! `tests/it/bench_compare.rs`.

/// Of all pairs of a round of one build and a round of the other, the share that has to say the same. Of five rounds each that
/// do not differ, 16 in a thousand do by chance; of nine, fewer than one.
const PAIRS_MIN: f64 = 0.95;
/// Medians that are closer are the same to a reader, however surely they differ.
const CHANGE_MIN: f64 = 0.02;
/// Rounds of each build with which nothing can be said.
const ROUNDS_MIN: usize = 4;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Change {
    /// By this share of what it was.
    Better(f64),
    /// By this share of what it was.
    Worse(f64),
    /// No more than its rounds differ among themselves, or by too little.
    Noise,
    /// It was not measured often enough.
    Unknown,
}

/// Judges the rounds of a row.
pub(crate) fn judge(before: &[f64], after: &[f64], more_is_better: bool) -> Change {
    if before.len() < ROUNDS_MIN || after.len() < ROUNDS_MIN {
        return Change::Unknown;
    }
    let pairs = (before.len() * after.len()) as f64;
    let greater =
        before.iter().flat_map(|old| after.iter().map(move |new| points(*old, *new))).sum::<f64>() / pairs;
    let change = median(after) / median(before) - 1.0;
    let is_sure = greater.max(1.0 - greater) >= PAIRS_MIN;
    if !is_sure || change.abs() < CHANGE_MIN {
        return Change::Noise;
    }
    if (change > 0.0) == more_is_better { Change::Better(change.abs()) } else { Change::Worse(change.abs()) }
}

/// Whether the new one is greater; half where both are the same.
fn points(old: f64, new: f64) -> f64 {
    if new > old {
        1.0
    } else if new < old {
        0.0
    } else {
        0.5
    }
}

/// The value in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
