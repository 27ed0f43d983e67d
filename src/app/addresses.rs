//! The sockets of the daemon: those that systemd holds for it, and those that it binds itself.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use super::error::Error;
use crate::config::Settings;
use crate::listener::{Inherited, Listen, ListenError, Listener};

/// The key of the data plane's addresses.
pub const LISTEN: &str = "[server] listen";

/// The bound sockets of the daemon.
pub(super) struct Addresses {
    pub(super) data: Vec<Listener>,
    pub(super) admin: Listener,
    pub(super) control: Listener,
    pub(super) metrics: Option<Listener>,
}

/// The same, but for a control socket that no other process holds for us.
pub(super) struct WithoutControl {
    data: Vec<Listener>,
    admin: Listener,
    control: Option<Listener>,
    metrics: Option<Listener>,
}

impl WithoutControl {
    /// Binds the control socket at `path`, once the store is known to be ours.
    ///
    /// # Errors
    /// The directory or the socket cannot be made.
    pub(super) fn with_control(self, path: &Path) -> Result<Addresses, Error> {
        let Self { data, admin, control, metrics } = self;
        let control = match control {
            Some(held) => held,
            None => control_socket(path)?,
        };
        Ok(Addresses { data, admin, control, metrics })
    }
}

/// Sorts the sockets that are held for us, and binds what is missing.
///
/// # Errors
/// An address that cannot be listened on.
pub(super) fn bind(settings: &Settings, inherited: Vec<Inherited>) -> Result<WithoutControl, Error> {
    let (mut data, mut held) = (Vec::new(), Vec::new());
    let mut admin = None;
    let mut control = None;
    let mut metrics = None;
    for socket in inherited {
        let at = socket.address();
        let listener = Listener::adopt(socket).map_err(Error::Adopt)?;
        if at == Listen::Tcp(settings.admin.listen) {
            admin = Some(listener);
        } else if at == Listen::Unix(settings.admin.socket.clone()) {
            control = Some(listener);
        } else if settings.admin.metrics_listen.map(Listen::Tcp) == Some(at.clone()) {
            metrics = Some(listener);
        } else {
            held.push(at);
            data.push(listener);
        }
    }
    make_before_sockets(settings)?;
    // Addresses first: a second daemon should fail on what the operator sees first.
    for at in missing(&settings.listen, &held, settings.says_where_to_listen()) {
        if let Some(held) = held.iter().find(|held| held.blocks(at)) {
            tracing::warn!(
                %at, %held,
                "this address of [server] listen is not listened on: the socket that was handed to us has its port, and \
                 receives what comes to its own address alone; set ListenStream= in larder.socket"
            );
            continue;
        }
        if !held.is_empty() {
            tracing::info!(%at, "no socket was handed to us for this address of [server] listen: it is bound too");
        }
        data.push(bound(LISTEN, at)?);
    }
    if let Some(uids) = &settings.uids {
        data.iter_mut().for_each(|listener| listener.admit_only(uids));
    }
    let admin = match admin {
        Some(held) => held,
        None => bound("[admin] listen", &Listen::Tcp(settings.admin.listen))?,
    };
    if metrics.is_none() {
        let at = settings.admin.metrics_listen.map(Listen::Tcp);
        metrics = at.map(|at| bound("[admin] metrics_listen", &at)).transpose()?;
    }
    Ok(WithoutControl { data, admin, control, metrics })
}

/// The addresses that no socket is held for. Sockets that are held stand in place of the default; what was written
/// counts beside them.
fn missing<'l>(listen: &'l [Listen], held: &[Listen], written: bool) -> Vec<&'l Listen> {
    let is_held = |at: &&Listen| held.iter().any(|held| held.covers(at));
    if held.is_empty() || written { listen.iter().filter(|at| !is_held(at)).collect() } else { Vec::new() }
}

/// A socket that only our own user can open, in a directory that is made if it is missing.
///
/// # Errors
/// The directory or the socket cannot be made.
fn control_socket(path: &Path) -> Result<Listener, Error> {
    const KEY: &str = "[admin] socket";
    let at = Listen::Unix(path.to_owned());
    if let Some(directory) = path.parent() {
        make(directory)?;
    }
    let listener = bound(KEY, &at)?;
    let closed = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
    closed.map_err(|source| Error::Listen { key: KEY, error: ListenError { at, source } })?;
    Ok(listener)
}

fn bound(key: &'static str, at: &Listen) -> Result<Listener, Error> {
    Listener::bind(at).map_err(|error| Error::Listen { key, error })
}

/// Those of the directories that the daemon makes which a socket of `[server] listen` needs: it is to be in one, or
/// in one above.
fn make_before_sockets(settings: &Settings) -> Result<(), Error> {
    let is_needed = |made: &&Path| {
        directories_of_sockets(settings)
            .any(|of_socket| of_socket.starts_with(made) || made.starts_with(of_socket))
    };
    directories_made(settings).into_iter().flatten().filter(is_needed).try_for_each(make)
}

/// The directories that each start makes: of what outlives the process, and of the control socket.
fn directories_made(settings: &Settings) -> [Option<&Path>; 2] {
    [settings.keys.parent(), settings.admin.socket.parent()]
}

/// The directories of the unix sockets of `[server] listen`.
fn directories_of_sockets(settings: &Settings) -> impl Iterator<Item = &Path> {
    settings.listen.iter().filter_map(|at| match at {
        Listen::Unix(path) => path.parent(),
        Listen::Tcp(_) => None,
    })
}

/// The directories of the sockets of `[server] listen` that are not there and that no start makes, under its key.
pub(super) fn without_directory(settings: &Settings) -> impl Iterator<Item = (String, Error)> {
    let is_made = |of_socket: &Path| {
        directories_made(settings).into_iter().flatten().any(|made| made.starts_with(of_socket))
    };
    directories_of_sockets(settings).filter(move |of_socket| !is_made(of_socket)).filter_map(|of_socket| {
        let source = fs::metadata(of_socket).err()?;
        Some((LISTEN.to_owned(), Error::File { path: of_socket.to_owned(), source }))
    })
}

fn make(directory: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| Error::Directory { path: directory.to_owned(), source })
}

/// The TCP ports among the addresses.
pub(super) fn ports(addresses: &[Listen]) -> Vec<u16> {
    let port = |at: &Listen| match at {
        Listen::Tcp(at) => Some(at.port()),
        Listen::Unix(_) => None,
    };
    addresses.iter().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Environment};

    #[test]
    fn an_address_that_was_written_is_bound_beside_the_sockets_that_are_held() {
        let at = |texts: &[&str]| -> Vec<Listen> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        for (listen, held, written, expected) in [
            (vec!["127.0.0.1:5050"], vec![], false, vec!["127.0.0.1:5050"]),
            (vec!["127.0.0.1:5050"], vec!["127.0.0.1:7070"], false, vec![]),
            (vec!["127.0.0.1:5050"], vec!["127.0.0.1:5050"], true, vec![]),
            (vec!["127.0.0.1:5050"], vec!["0.0.0.0:5050"], true, vec![]),
            (vec!["127.0.0.1:5050", "unix:/x"], vec!["127.0.0.1:5050"], true, vec!["unix:/x"]),
            (vec!["127.0.0.1:6060"], vec!["127.0.0.1:5050"], true, vec!["127.0.0.1:6060"]),
            (vec!["127.0.0.1:5050", "[::1]:5050"], vec!["[::]:5050"], true, vec![]),
            (vec!["[::1]:5050"], vec!["0.0.0.0:5050"], true, vec!["[::1]:5050"]),
        ] {
            let (listen, held) = (at(&listen), at(&held));
            let found: Vec<Listen> = missing(&listen, &held, written).into_iter().cloned().collect();
            assert_eq!(found, at(&expected), "{listen:?} {held:?}");
        }
    }

    #[tokio::test]
    async fn the_first_start_of_a_node_makes_the_state_directory_before_the_sockets_below_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("none/state");
        let settings = |socket: &str| {
            let text = format!(
                "[server]\nstate = {state:?}\nlisten = [\"unix:{}\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n",
                match socket.strip_prefix("../") {
                    Some(beside) => directory.path().join("none").join(beside),
                    None => state.join(socket),
                }
                .display()
            );
            config::resolve(&text, &Environment { home: Some("/h".into()), ..Environment::default() })
                .unwrap()
        };
        let error = bind(&settings("below/r.sock"), Vec::new()).err().unwrap().to_string();
        let expected = format!("there is no directory {}", state.join("below").display());
        assert!(error.starts_with("[server] listen: ") && error.ends_with(&expected), "{error}");
        assert_eq!(bind(&settings("r.sock"), Vec::new()).unwrap().data.len(), 1);
        std::fs::remove_dir_all(directory.path().join("none")).unwrap();
        assert_eq!(bind(&settings("../r.sock"), Vec::new()).unwrap().data.len(), 1, "beside it");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_told_with_its_key() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        for key in ["listen", "metrics_listen"] {
            let listen = if key == "listen" { "" } else { "listen = \"127.0.0.1:0\"\n" };
            let text = format!("[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\n{listen}{key} = \"{at}\"\n");
            let environment = Environment { home: Some("/h".into()), ..Environment::default() };
            let error = bind(&config::resolve(&text, &environment).unwrap(), Vec::new()).err().unwrap();
            assert!(error.to_string().starts_with(&format!("[admin] {key}: cannot listen on")), "{error}");
        }
    }

    #[tokio::test]
    async fn a_daemon_starts_though_the_socket_unit_holds_the_port_of_all_its_addresses() {
        let hold = || {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            (Inherited::Tcp(socket, address), address)
        };
        let ((data, at), (admin, admin_at)) = (hold(), hold());
        let text =
            format!("[server]\nlisten = [\"0.0.0.0:{}\"]\n[admin]\nlisten = \"{admin_at}\"\n", at.port());
        let environment = Environment { home: Some("/h".into()), ..Environment::default() };
        let settings = config::resolve(&text, &environment).unwrap();
        assert!(settings.says_where_to_listen());
        let addresses = bind(&settings, vec![data, admin]).unwrap();
        let bound: Vec<Listen> = addresses.data.iter().map(|socket| socket.address().unwrap()).collect();
        assert_eq!(bound, [Listen::Tcp(at)]);
    }
}
