//! Rounds in which the servers take turns.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::client::Failure;
use crate::kind::Kind;

/// What a row or a column of it has: the figures of each server, one a round.
pub(crate) type Measured = BTreeMap<Kind, Vec<f64>>;

/// Seconds that a peer may use in the rounds of a row. One that has used them up is not asked again in that row, and the
/// rounds that it has had count: the slowest peer must not take most of the time of a run.
const PEER_SECONDS_MAX: f64 = 30.0;

/// How often a row is measured: `BENCH_ROUNDS`, else `usual`.
pub(crate) fn rounds(usual: usize) -> usize {
    std::env::var("BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Measures each of these servers once a round, `N` figures each, which are the columns of the answer. Every second round
/// goes the other way round, so that none always comes after the same other one. A peer that fails is said and has no
/// figure.
///
/// # Panics
///
/// If Larder or the upstream itself fails.
pub(crate) fn in_turns<const N: usize>(
    what: &str,
    rounds: usize,
    kinds: &[Kind],
    mut measure: impl FnMut(usize, Kind) -> Result<[f64; N], Failure>,
) -> [Measured; N] {
    let mut columns: [Measured; N] = std::array::from_fn(|_| Measured::new());
    let (mut asked, mut used) = (kinds.to_vec(), BTreeMap::<Kind, f64>::new());
    for round in 0..rounds {
        let mut turns = asked.clone();
        if round % 2 == 1 {
            turns.reverse();
        }
        for kind in turns {
            let begun = Instant::now();
            match measure(round, kind) {
                Ok(figures) => {
                    for (column, figure) in columns.iter_mut().zip(figures) {
                        column.entry(kind).or_default().push(figure);
                    }
                }
                Err(failure) => {
                    leave_out(what, kind, &failure);
                    columns.iter_mut().for_each(|column| drop(column.remove(&kind)));
                    asked.retain(|one| *one != kind);
                }
            }
            let used = used.entry(kind).or_default();
            *used += begun.elapsed().as_secs_f64();
            if kind.is_peer() && *used > PEER_SECONDS_MAX {
                asked.retain(|one| *one != kind);
            }
        }
    }
    columns
}

/// Those for which `prepare` succeeds, for instance to fill a cache.
pub(crate) fn prepared(
    what: &str,
    kinds: Vec<Kind>,
    prepare: impl Fn(Kind) -> Result<(), Failure>,
) -> Vec<Kind> {
    let succeeds =
        |kind: &Kind| prepare(*kind).inspect_err(|failure| leave_out(what, *kind, failure)).is_ok();
    kinds.into_iter().filter(succeeds).collect()
}

fn leave_out(what: &str, kind: Kind, failure: &Failure) {
    assert!(kind.is_peer(), "{what}: {}: {failure}", kind.name());
    println!("left out of {what}: {}: {failure}", kind.name());
}
