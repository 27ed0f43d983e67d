//! What the daemon and systemd tell each other: the sockets that systemd holds, readiness, reloads, the watchdog.
//!
//! Outside of systemd nothing of this happens.

use std::io;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::listener::Inherited;

/// What a stop takes besides the wait for bodies: downloads without clients, the tier, the admin plane, the index.
const AFTER_DRAIN: Duration = Duration::from_secs(15);

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

/// Tells that the daemon stops, in which bodies may take as long as `drain_wait`.
pub(super) fn stopping(drain_wait: Duration) {
    for state in of_stop(drain_wait) {
        tell(state);
    }
}

/// The unit's own `TimeoutStopSec` is for the default; systemd waits for whichever is longer.
fn of_stop(drain_wait: Duration) -> [NotifyState<'static>; 2] {
    let all = (drain_wait + AFTER_DRAIN).as_micros();
    [NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(u32::try_from(all).unwrap_or(u32::MAX))]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_kills_no_daemon_whose_bodies_may_still_finish() {
        let told = |drain_wait: Duration| of_stop(drain_wait).map(|state| state.to_string());
        assert_eq!(told(Duration::from_secs(300)), ["STOPPING=1", "EXTEND_TIMEOUT_USEC=315000000"]);
        // The longest that the key takes.
        assert_eq!(told(Duration::from_secs(3_600))[1], "EXTEND_TIMEOUT_USEC=3615000000");
        // With the default it is what the unit has.
        let default = crate::listener::ConnectionLimits::default().drain_wait;
        let unit = include_str!("../../../systemd/larder.service");
        assert!(unit.contains(&format!("\nTimeoutStopSec={}\n", (default + AFTER_DRAIN).as_secs())));
    }
}
