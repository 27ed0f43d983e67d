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

/// A line to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<T> {
    pub(super) line: T,
    /// For how many lines that were not written this one stands, the last of them; absent for a line of its own.
    pub(super) repeated: Option<u64>,
}

/// What is to be done with a line.
pub(super) enum Verdict<T> {
    /// It is written, after what stands for those that were folded before, if any.
    Write(T, Option<Entry<T>>),
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
        self.judge_as(key, line, 1, now)
    }

    /// As [`Folds::judge`], a line that stands for so many.
    fn judge_as(&mut self, key: u64, line: T, count: u64, now: Instant) -> Verdict<T> {
        if let Some(fold) = self.lines.get(&key)
            && now.saturating_duration_since(fold.since) < WHILE
        {
            if fold.written < self.written_max {
                fold.written += 1;
                return Verdict::Write(line, None);
            }
            fold.folded += count;
            fold.last = Some(line);
            return Verdict::Fold;
        }
        let fold = Fold { since: now, written: 1, folded: 0, last: None };
        let replaced = self.lines.insert(key, fold).and_then(|(_, before)| before.entry());
        Verdict::Write(line, replaced)
    }

    /// Those whose while is over by `now`.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Entry<T>> {
        let is_over = |fold: &Fold<T>| now.saturating_duration_since(fold.since) >= WHILE;
        let over: Vec<u64> = self.lines.iter().filter(|(_, f)| is_over(f)).map(|(key, _)| *key).collect();
        over.iter().filter_map(|key| self.lines.remove(key)?.entry()).collect()
    }

    /// All of them: nothing is folded any more.
    pub(super) fn end(&mut self) -> Vec<Entry<T>> {
        let mut all = Vec::new();
        while let Some((_, fold)) = self.lines.remove_oldest() {
            all.extend(fold.entry());
        }
        all
    }
}

impl<T> Fold<T> {
    /// What stands for the lines that were not written, if any.
    fn entry(self) -> Option<Entry<T>> {
        Some(Entry { line: self.last?, repeated: Some(self.folded) })
    }
}

/// Lines that are folded twice: equal ones, and what is written of these with all others of its client.
pub(super) struct ClientFolds<T> {
    equal: Folds<T>,
    of_client: Folds<T>,
    client_of: fn(&T) -> u64,
}

impl<T> ClientFolds<T> {
    /// So many equal lines are written in a while, and so many of one client, told by `client_of`.
    pub(super) fn new(equal_max: u32, of_client_max: u32, client_of: fn(&T) -> u64) -> Self {
        Self { equal: Folds::new(equal_max), of_client: Folds::new(of_client_max), client_of }
    }

    /// What is to be written now that this line has come; equal ones have the same `key`.
    pub(super) fn judge(&mut self, key: u64, line: T, now: Instant) -> Vec<Entry<T>> {
        let mut entries = Vec::new();
        if let Verdict::Write(line, before) = self.equal.judge(key, line, now) {
            if let Some(before) = before {
                self.judge_of_client(before, now, &mut entries);
            }
            self.judge_of_client(Entry { line, repeated: None }, now, &mut entries);
        }
        entries
    }

    /// What was folded and whose while is over by `now`.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Entry<T>> {
        let mut entries = Vec::new();
        for entry in self.equal.due(now) {
            self.judge_of_client(entry, now, &mut entries);
        }
        entries.extend(self.of_client.due(now));
        entries
    }

    /// All that was folded.
    pub(super) fn end(&mut self) -> Vec<Entry<T>> {
        [self.equal.end(), self.of_client.end()].into_iter().flatten().collect()
    }

    /// What was folded of equal lines counts as a line of its client too, else ever new lines would each push one out.
    fn judge_of_client(&mut self, entry: Entry<T>, now: Instant, entries: &mut Vec<Entry<T>>) {
        let Entry { line, repeated } = entry;
        let client = (self.client_of)(&line);
        if let Verdict::Write(line, before) =
            self.of_client.judge_as(client, line, repeated.unwrap_or(1), now)
        {
            entries.extend(before);
            entries.push(Entry { line, repeated });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ever_new_names_of_one_client_are_no_more_lines_than_a_client_has() {
        const OF_CLIENT: u32 = 300;
        let (mut folds, begun) = (ClientFolds::new(3, OF_CLIENT, |_: &u64| 0), Instant::now());
        let (mut lines, mut counted) = (0, 0);
        let mut count = |entries: Vec<Entry<u64>>| {
            lines += entries.len();
            counted += entries.iter().map(|entry| entry.repeated.unwrap_or(1)).sum::<u64>();
        };
        for name in 0..5_000 {
            (0..4).for_each(|_| count(folds.judge(name, name, begun)));
        }
        for seconds in (0..120).step_by(10) {
            count(folds.due(begun + Duration::from_secs(seconds)));
        }
        count(folds.end());
        assert_eq!(counted, 20_000, "a refusal was not counted");
        // Two whiles, and what they folded.
        assert!(lines <= 2 * OF_CLIENT as usize + 4, "{lines} lines");
    }

    /// What stands for so many lines, the last of which is `line`.
    fn folded(line: u32, count: u64) -> Entry<u32> {
        Entry { line, repeated: Some(count) }
    }

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
        assert_eq!(folds.due(begun + WHILE), [folded(499, 497)]);
        assert!(is_written(&folds.judge(7, 0, begun + WHILE)), "a later one is not written");
        assert_eq!(folds.end(), [], "they are told twice");
    }

    #[test]
    fn what_was_folded_is_told_before_the_next_line_of_its_kind_and_at_the_end() {
        let (mut folds, begun) = (Folds::new(1), Instant::now());
        for n in 0..3 {
            folds.judge(7, n, begun);
        }
        assert!(
            matches!(folds.judge(7, 9, begun + WHILE), Verdict::Write(9, Some(before)) if before == folded(2, 2))
        );
        folds.judge(7, 10, begun + WHILE);
        assert_eq!(folds.end(), [folded(10, 1)]);
    }

    #[test]
    fn ever_new_lines_cost_no_memory_and_no_count() {
        let (mut folds, begun) = (Folds::new(1), Instant::now());
        folds.judge(0, 0, begun);
        folds.judge(0, 1, begun);
        let entries = (1..=LINES_MAX as u64).filter_map(|key| match folds.judge(key, 0, begun) {
            Verdict::Write(_, folded) => folded,
            Verdict::Fold => None,
        });
        assert_eq!(entries.collect::<Vec<_>>(), [folded(1, 1)]);
        assert_eq!(folds.lines.len(), LINES_MAX);
    }
}
