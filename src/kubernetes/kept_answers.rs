//! Answers that are kept for a while, and asked for once however many ask at a time.
//!
//! Promises: equal questions at one time are one; the question goes on when who asked it goes away, so that its answer
//! counts for the next one; an answer is dropped at the first look, at the next insert or at the next
//! [`KeptAnswers::forget_old`] after its time, and with it what wipes itself; where strangers choose how large answers
//! are, all of them have a bound of bytes. Not here: how long an answer may take.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::support::singleflight::Singleflight;
use crate::support::sized_map::SizedMap;
use crate::support::tasks::Tasks;

/// Answers, with the moment until which each counts.
type Kept<K, V> = Mutex<SizedMap<K, (Instant, V)>>;

/// Answers by what was asked.
pub(super) struct KeptAnswers<K: Hash + Eq, V> {
    kept: Arc<Kept<K, V>>,
    running: Singleflight<K, V>,
    bytes_of: fn(&V) -> usize,
}

impl<K, V> KeptAnswers<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Keeps so many at most.
    pub(super) fn new(entries_max: usize) -> Self {
        Self::of_bytes(entries_max, usize::MAX, |_| 0)
    }

    /// Keeps so many at most, and no more than so many bytes; how many an answer has `bytes_of` says.
    pub(super) fn of_bytes(entries_max: usize, bytes_max: usize, bytes_of: fn(&V) -> usize) -> Self {
        let kept = Arc::new(Mutex::new(SizedMap::new(entries_max, bytes_max)));
        Self { kept, running: Singleflight::new(Tasks::default()), bytes_of }
    }

    /// The answer that is kept for `key`, else that of the question under way, else that of `ask`, which counts for as
    /// long as `counts_for` says. `None` only where asking ended in a panic.
    pub(super) async fn get<F>(
        &self,
        key: K,
        counts_for: impl FnOnce(&V) -> Duration + Send + 'static,
        ask: impl FnOnce() -> F,
    ) -> Option<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        if let Some(answer) = look(&self.kept, &key) {
            return Some(answer);
        }
        let (kept, own, bytes_of) = (Arc::clone(&self.kept), key.clone(), self.bytes_of);
        let run = || {
            let asking = ask();
            async move {
                // Another run may have ended since the look.
                if let Some(answer) = look(&kept, &own) {
                    return answer;
                }
                let answer = asking.await;
                let until = Instant::now() + counts_for(&answer);
                let mut kept = kept.lock();
                forget_old(&mut kept);
                if until > Instant::now() {
                    let bytes = bytes_of(&answer);
                    kept.insert(own, (until, answer.clone()), bytes);
                }
                answer
            }
        };
        self.running.run(key, run).await
    }

    /// Drops what counts no more.
    pub(super) fn forget_old(&self) {
        forget_old(&mut self.kept.lock());
    }

    /// How many are in memory.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.lock().len()
    }
}

fn look<K: Hash + Eq + Clone, V: Clone>(kept: &Kept<K, V>, key: &K) -> Option<V> {
    let mut kept = kept.lock();
    let (until, answer) = kept.get(key)?;
    if *until > Instant::now() {
        return Some(answer.clone());
    }
    kept.remove(key);
    None
}

fn forget_old<K: Hash + Eq + Clone, V>(kept: &mut SizedMap<K, (Instant, V)>) {
    let now = Instant::now();
    kept.retain(|_, (until, _)| *until > now);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::time::{advance, sleep, timeout};

    use super::*;

    const LIFE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn the_images_of_a_pod_ask_once_although_they_ask_at_once_and_one_goes_away() {
        let (answers, asked) = (KeptAnswers::<&str, usize>::new(8), Arc::<AtomicUsize>::default());
        let ask = |key: &'static str| {
            let asked = Arc::clone(&asked);
            answers.get(
                key,
                |_| LIFE,
                || async move {
                    sleep(Duration::from_secs(3)).await;
                    asked.fetch_add(1, Ordering::SeqCst) + 1
                },
            )
        };
        assert!(timeout(Duration::from_secs(1), ask("a")).await.is_err());
        assert_eq!(
            join_all([ask("a"), ask("a"), ask("b"), ask("a")]).await,
            [Some(1), Some(1), Some(2), Some(1)]
        );
        assert_eq!((ask("a").await, asked.load(Ordering::SeqCst)), (Some(1), 2));
        advance(LIFE).await;
        assert_eq!(ask("a").await, Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_in_memory_no_longer_than_it_counts() {
        let answers = KeptAnswers::<u8, u8>::new(8);
        let ask = |key: u8, life: Duration| answers.get(key, move |_| life, || async { 7 });
        ask(0, Duration::ZERO).await;
        assert_eq!(answers.len(), 0, "it counts for the one that asked");
        ask(1, LIFE).await;
        ask(2, 2 * LIFE).await;
        advance(LIFE).await;
        ask(3, LIFE).await;
        assert_eq!(answers.len(), 2, "an insert drops what is old");
        advance(LIFE).await;
        answers.forget_old();
        assert_eq!(answers.len(), 0);
    }
}
