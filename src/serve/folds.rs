//! Equal lines of the log, folded: the first few of a while are written, the rest are counted and written as one line.
//!
//! Pure: who calls says what time it is. Bounded: of the lines that are being folded a fixed number is remembered; what
//! makes way for a new one is written at once.

use std::time::{Duration, Instant};

use crate::support::bounded_map::BoundedMap;

/// For how long equal lines are folded, from the first of them on.
pub(super) const WHILE: Duration = Duration::from_secs(60);
/// Different lines that are being folded at most: further ones push out what was seen longest ago.
const LINES_MAX: usize = 1_024;

/// Lines that are being folded, each with the last of those that were not written.
pub(super) struct Folds<T> {
    lines: BoundedMap<u64, Fold<T>>,
    /// Equal lines that are written in a while.
    written_max: u32,
}

struct Fold<T> {
    since: Instant,
    written: u32,
    folded: u64,
    last: Option<T>,
}

/// Lines that were not written: the last of them, and how many.
pub(super) type Folded<T> = (T, u64);

/// What is to be done with a line.
pub(super) enum Verdict<T> {
    /// It is written, after those that were folded before, if any.
    Write(T, Option<Folded<T>>),
    /// It is counted.
    Fold,
}

impl<T> Folds<T> {
    /// So many equal lines are written in a while.
    pub(super) fn new(written_max: u32) -> Self {
        Self { lines: BoundedMap::new(LINES_MAX), written_max }
    }

    /// Judges a line; equal ones have the same `key`.
    pub(super) fn judge(&mut self, key: u64, line: T, now: Instant) -> Verdict<T> {
        if let Some(fold) = self.lines.get(&key)
            && now.saturating_duration_since(fold.since) < WHILE
        {
            if fold.written < self.written_max {
                fold.written += 1;
                return Verdict::Write(line, None);
            }
            fold.folded += 1;
            fold.last = Some(line);
            return Verdict::Fold;
        }
        let fold = Fold { since: now, written: 1, folded: 0, last: None };
        let replaced = self.lines.insert(key, fold).and_then(|(_, before)| before.told());
        Verdict::Write(line, replaced)
    }

    /// Those whose while is over by `now`.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Folded<T>> {
        let is_over = |fold: &Fold<T>| now.saturating_duration_since(fold.since) >= WHILE;
        let over: Vec<u64> = self.lines.iter().filter(|(_, f)| is_over(f)).map(|(key, _)| *key).collect();
        over.iter().filter_map(|key| self.lines.remove(key)?.told()).collect()
    }

    /// All of them: nothing is folded any more.
    pub(super) fn end(&mut self) -> Vec<Folded<T>> {
        let mut all = Vec::new();
        while let Some((_, fold)) = self.lines.remove_oldest() {
            all.extend(fold.told());
        }
        all
    }
}

impl<T> Fold<T> {
    fn told(self) -> Option<Folded<T>> {
        Some((self.last?, self.folded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_written(verdict: &Verdict<u32>) -> bool {
        matches!(verdict, Verdict::Write(..))
    }

    #[test]
    fn five_hundred_equal_lines_are_a_handful_and_none_is_lost_count_of() {
        let (mut folds, begun) = (Folds::new(3), Instant::now());
        let written = (0..500).filter(|n| is_written(&folds.judge(7, *n, begun))).count();
        assert_eq!(written, 3);
        assert!(is_written(&folds.judge(8, 0, begun)), "another line is folded with them");
        assert_eq!(folds.due(begun + WHILE / 2), []);
        assert_eq!(folds.due(begun + WHILE), [(499, 497)]);
        assert!(is_written(&folds.judge(7, 0, begun + WHILE)), "a later one is not written");
        assert_eq!(folds.end(), [], "they are told twice");
    }

    #[test]
    fn what_was_folded_is_told_before_the_next_line_of_its_kind_and_at_the_end() {
        let (mut folds, begun) = (Folds::new(1), Instant::now());
        for n in 0..3 {
            folds.judge(7, n, begun);
        }
        assert!(matches!(folds.judge(7, 9, begun + WHILE), Verdict::Write(9, Some((2, 2)))));
        folds.judge(7, 10, begun + WHILE);
        assert_eq!(folds.end(), [(10, 1)]);
    }

    #[test]
    fn ever_new_lines_cost_no_memory_and_no_count() {
        let (mut folds, begun) = (Folds::new(1), Instant::now());
        folds.judge(0, 0, begun);
        folds.judge(0, 1, begun);
        let told = (1..=LINES_MAX as u64).filter_map(|key| match folds.judge(key, 0, begun) {
            Verdict::Write(_, folded) => folded,
            Verdict::Fold => None,
        });
        assert_eq!(told.collect::<Vec<_>>(), [(1, 1)]);
        assert_eq!(folds.lines.len(), LINES_MAX);
    }
}
