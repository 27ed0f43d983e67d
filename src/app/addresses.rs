//! The sockets of the daemon: those that systemd holds for it, and those that it binds itself.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use super::error::Error;
use crate::config::Settings;
use crate::listener::{Inherited, Listen, ListenError, Listener};

/// The bound sockets of the daemon, but for a control socket that is bound once the store is known to be ours.
pub(super) struct Addresses {
    pub(super) data: Vec<Listener>,
    pub(super) admin: Listener,
    /// `None`: nothing held one for us.
    pub(super) control: Option<Listener>,
    pub(super) metrics: Option<Listener>,
}

/// Sorts the sockets that are held for us, and binds what is missing.
///
/// # Errors
/// An address that cannot be listened on.
pub(super) fn bind(settings: &Settings, inherited: Vec<Inherited>) -> Result<Addresses, Error> {
    let mut data = Vec::new();
    let mut admin = None;
    let mut control = None;
    let mut metrics = None;
    for socket in inherited {
        let at = socket.address();
        let listener = Listener::adopt(socket)?;
        if at == Listen::Tcp(settings.admin.listen) {
            admin = Some(listener);
        } else if at == Listen::Unix(settings.admin.socket.clone()) {
            control = Some(listener);
        } else if settings.admin.metrics_listen.map(Listen::Tcp) == Some(at.clone()) {
            metrics = Some(listener);
        } else {
            if !settings.listen.contains(&at) {
                tracing::warn!(%at, "this socket was handed to us, and is not what [server] listen says; it is used");
            }
            data.push(listener);
        }
    }
    // Addresses first: a second daemon should fail on what the operator sees first.
    if data.is_empty() {
        data = settings.listen.iter().map(Listener::bind).collect::<Result<_, _>>()?;
    }
    if let Some(uids) = &settings.uids {
        data.iter_mut().for_each(|listener| listener.admit_only(uids));
    }
    let admin = match admin {
        Some(held) => held,
        None => Listener::bind(&Listen::Tcp(settings.admin.listen))?,
    };
    if metrics.is_none() {
        metrics = settings.admin.metrics_listen.map(|at| Listener::bind(&Listen::Tcp(at))).transpose()?;
    }
    Ok(Addresses { data, admin, control, metrics })
}

/// A socket that only our own user can open, in a directory that is made if it is missing.
///
/// # Errors
/// The directory or the socket cannot be made.
pub(super) fn control_socket(path: &Path) -> Result<Listener, Error> {
    let at = Listen::Unix(path.to_owned());
    let failed = |source| ListenError { at: at.clone(), source };
    if let Some(directory) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed)?;
    }
    let listener = Listener::bind(&at)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// The TCP ports among the addresses.
pub(super) fn ports(addresses: &[Listen]) -> Vec<u16> {
    let port = |at: &Listen| match at {
        Listen::Tcp(at) => Some(at.port()),
        Listen::Unix(_) => None,
    };
    addresses.iter().filter_map(port).collect()
}
