//! Singleflight under many orders of its callers (`make model`).

use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::future;

use super::*;
use crate::support::sync::explore;

#[test]
fn in_no_order_do_two_runs_overlap_or_does_a_caller_get_an_answer_that_was_given_before_it_asked() {
    explore(2_000, || {
        let tasks = Tasks::default();
        let singleflight: Singleflight<u8, usize> = Singleflight::new(tasks.clone());
        let (running, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let ask = || {
            let (singleflight, running, ended) =
                (singleflight.clone(), Arc::clone(&running), Arc::clone(&ended));
            async move {
                let make = || async move {
                    assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two runs at once");
                    future::yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    ended.fetch_add(1, Ordering::SeqCst) + 1
                };
                singleflight.run(1, make).await
            }
        };
        let caller = |first, second| async move {
            let given: Option<usize> = first.await;
            let anew: Option<usize> = second.await;
            assert!(anew > given && given.is_some(), "{anew:?} after {given:?}: an answer was remembered");
        };
        let callers: Vec<_> = (0..3).map(|_| future::spawn(caller(ask(), ask()))).collect();
        let leaver = future::spawn(ask());
        let left = future::spawn(async move {
            leaver.abort();
            let _ = leaver.await;
        });
        future::block_on(async {
            for caller in callers.into_iter().chain([left]) {
                caller.await.unwrap();
            }
        });
        // The run of the caller that left goes on by itself.
        while tasks.running() > 0 {
            shuttle::thread::yield_now();
        }
        assert!(singleflight.lock().is_empty(), "a key is left");
    });
}

#[test]
fn in_no_order_does_the_first_caller_wait_for_ever_for_work_that_goes_on_as_a_task() {
    explore(2_000, || {
        let tasks = Tasks::default();
        let singleflight: Singleflight<u8, u8> = Singleflight::new(tasks.clone());
        let gate = tokio::sync::watch::Sender::new(false);
        let caller = || {
            let (singleflight, mut gate) = (singleflight.clone(), gate.subscribe());
            async move {
                // Wakes who polled the work last, and nobody else: not the first caller once a task runs it.
                let make = || async move { u8::from(gate.wait_for(|open| *open).await.is_ok()) };
                assert_eq!(singleflight.run(1, make).await, Some(1));
            }
        };
        let callers: Vec<_> = (0..2).map(|_| future::spawn(caller())).collect();
        let opener = future::spawn(async move {
            for _ in 0..3 {
                future::yield_now().await;
            }
            gate.send_replace(true);
            gate
        });
        future::block_on(async {
            for caller in callers {
                caller.await.unwrap();
            }
            drop(opener.await.unwrap());
        });
        while tasks.running() > 0 {
            shuttle::thread::yield_now();
        }
    });
}
