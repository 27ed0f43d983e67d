//! The standard library's bounded channel for the model checks, of shuttle's locks.
//!
//! shuttle's own keeps what lies in it when the receiver goes; the standard library's discards that, and a caller whose
//! answer was to be sent by it learns so. [`Receiver::recv_timeout`] never times out: what would wait for ever is
//! found.

use std::collections::VecDeque;
use std::sync::Arc;
pub(crate) use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
use std::time::Duration;

use shuttle::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
struct State<T> {
    messages: VecDeque<T>,
    bound: usize,
    senders: usize,
    is_received: bool,
}

#[derive(Debug)]
struct Channel<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Channel<T> {
    fn change<R>(&self, change: impl FnOnce(&mut State<T>) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct SyncSender<T>(Arc<Channel<T>>);

#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Channel<T>>);

/// A channel of so many messages; one where the standard library's has none and hands over.
pub(crate) fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
    let state = State { messages: VecDeque::new(), bound: bound.max(1), senders: 1, is_received: true };
    let channel = Arc::new(Channel { state: Mutex::new(state), changed: Condvar::new() });
    (SyncSender(Arc::clone(&channel)), Receiver(channel))
}

impl<T> SyncSender<T> {
    pub(crate) fn send(&self, message: T) -> Result<(), SendError<T>> {
        let mut state = self.0.lock();
        while state.is_received && state.messages.len() >= state.bound {
            state = self.0.wait(state);
        }
        if !state.is_received {
            return Err(SendError(message));
        }
        state.messages.push_back(message);
        drop(state);
        self.0.changed.notify_all();
        Ok(())
    }

    pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.0.change(|state| {
            if !state.is_received {
                return Err(TrySendError::Disconnected(message));
            }
            if state.messages.len() >= state.bound {
                return Err(TrySendError::Full(message));
            }
            state.messages.push_back(message);
            Ok(())
        })
    }
}

impl<T> Drop for SyncSender<T> {
    fn drop(&mut self) {
        self.0.change(|state| state.senders -= 1);
    }
}

impl<T> Receiver<T> {
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        let mut state = self.0.lock();
        loop {
            if let Some(message) = state.messages.pop_front() {
                drop(state);
                self.0.changed.notify_all();
                return Ok(message);
            }
            if state.senders == 0 {
                return Err(RecvError);
            }
            state = self.0.wait(state);
        }
    }

    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.change(|state| match (state.messages.pop_front(), state.senders) {
            (Some(message), _) => Ok(message),
            (None, 0) => Err(TryRecvError::Disconnected),
            (None, _) => Err(TryRecvError::Empty),
        })
    }

    pub(crate) fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
        self.recv().map_err(|RecvError| RecvTimeoutError::Disconnected)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let discarded = self.0.change(|state| {
            state.is_received = false;
            std::mem::take(&mut state.messages)
        });
        // Not under the lock: a message may own a sender of its own.
        drop(discarded);
    }
}
