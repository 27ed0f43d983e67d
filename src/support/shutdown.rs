//! The wish to stop, made once and seen by all.
//!
//! A [`Shutdown`] is a cheap, cloneable ear. Who hears it finishes what it holds and takes nothing new; deadlines
//! are the business of the caller that waits for them.

use tokio::sync::watch;

/// Tells all listeners to stop; dropping it tells them too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Hears the trigger.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// A trigger and its first listener.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Asks all to stop.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Whether stopping has been asked for.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until stopping is asked for.
    pub async fn requested(&mut self) {
        // An error means that the trigger is gone, which asks for the same.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_trigger_is_heard_by_late_listeners_and_its_loss_too() {
        let (trigger, shutdown) = channel();
        assert!(!shutdown.is_requested());
        trigger.fire();
        shutdown.clone().requested().await;
        assert!(shutdown.is_requested());

        let (trigger, mut shutdown) = channel();
        drop(trigger);
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}
