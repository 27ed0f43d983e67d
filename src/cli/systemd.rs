//! What the daemon and systemd tell each other: the sockets that systemd holds, readiness, reloads, signs of life.
//!
//! Outside of systemd nothing of this happens.

use std::io;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::listener::Inherited;

/// The sockets that were handed to us (`LISTEN_FDS`).
///
/// # Errors
/// A socket that cannot be listened on.
pub(super) fn sockets() -> io::Result<Vec<Inherited>> {
    let mut held = ListenFd::from_env();
    let mut found = Vec::new();
    for at in 0..held.len() {
        if let Ok(Some(socket)) = held.take_tcp_listener(at) {
            let address = socket.local_addr()?;
            found.push(Inherited::Tcp(socket, address));
            continue;
        }
        let Some(socket) = held.take_unix_listener(at)? else { continue };
        let address = socket.local_addr()?;
        let path = address.as_pathname().ok_or_else(|| io::Error::other("a unix socket without a name"))?;
        let path = path.to_owned();
        found.push(Inherited::Unix(socket, path));
    }
    Ok(found)
}

/// Tells that every address is bound, or that a reload is done.
pub(super) fn ready() {
    tell(NotifyState::Ready);
}

/// Tells that the configuration is being read again, until [`ready`].
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => {
            if let Err(error) = sd_notify::notify(&[NotifyState::Reloading, now]) {
                tracing::debug!(%error, "systemd cannot be told");
            }
        }
        Err(error) => tracing::debug!(%error, "systemd cannot be told"),
    }
}

/// Tells that the daemon drains.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Feeds the watchdog, from the runtime that serves: if that is stuck, systemd starts us anew. Never returns.
pub(super) async fn stay_alive() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut pulse = tokio::time::interval((limit / 3).max(Duration::from_millis(100)));
    pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        pulse.tick().await;
        tell(NotifyState::Watchdog);
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
