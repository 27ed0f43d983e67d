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

/// Lines that are folded twice: equal ones, and what is written of these with all others of its client.
pub(super) struct ClientFolds<T> {
    equal: Folds<T>,
    of_client: Folds<T>,
    client_of: fn(&T) -> u64,
}

/// A line to be written, and for how many it stands where those were folded.
pub(super) type Told<T> = (T, Option<u64>);

impl<T> ClientFolds<T> {
    /// So many equal lines are written in a while, and so many of one client, told by `client_of`.
    pub(super) fn new(equal_max: u32, of_client_max: u32, client_of: fn(&T) -> u64) -> Self {
        Self { equal: Folds::new(equal_max), of_client: Folds::new(of_client_max), client_of }
    }

    /// What is to be written now that this line has come; equal ones have the same `key`.
    pub(super) fn judge(&mut self, key: u64, line: T, now: Instant) -> Vec<Told<T>> {
        let mut told = Vec::new();
        if let Verdict::Write(line, before) = self.equal.judge(key, line, now) {
            if let Some((before, count)) = before {
                self.judge_of_client(before, Some(count), now, &mut told);
            }
            self.judge_of_client(line, None, now, &mut told);
        }
        told
    }

    /// What was folded and whose while is over by `now`.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Told<T>> {
        let mut told = Vec::new();
        for (line, count) in self.equal.due(now) {
            self.judge_of_client(line, Some(count), now, &mut told);
        }
        told.extend(self.of_client.due(now).into_iter().map(|(line, count)| (line, Some(count))));
        told
    }

    /// All that was folded.
    pub(super) fn end(&mut self) -> Vec<Told<T>> {
        let all = [self.equal.end(), self.of_client.end()];
        all.into_iter().flatten().map(|(line, count)| (line, Some(count))).collect()
    }

    /// What was folded of equal lines counts as a line of its client too, else ever new lines would each push one out.
    fn judge_of_client(&mut self, line: T, folded: Option<u64>, now: Instant, told: &mut Vec<Told<T>>) {
        let client = (self.client_of)(&line);
        let verdict = self.of_client.judge_as(client, line, folded.unwrap_or(1), now);
        if let Verdict::Write(line, before) = verdict {
            told.extend(before.map(|(line, count)| (line, Some(count))));
            told.push((line, folded));
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
        let mut tell = |told: Vec<Told<u64>>| {
            lines += told.len();
            counted += told.iter().map(|(_, folded)| folded.unwrap_or(1)).sum::<u64>();
        };
        for name in 0..5_000 {
            (0..4).for_each(|_| tell(folds.judge(name, name, begun)));
        }
        for seconds in (0..120).step_by(10) {
            tell(folds.due(begun + Duration::from_secs(seconds)));
        }
        tell(folds.end());
        assert_eq!(counted, 20_000, "a refusal was not counted");
        // Two whiles, and what they folded.
        assert!(lines <= 2 * OF_CLIENT as usize + 4, "{lines} lines");
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
