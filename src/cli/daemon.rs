//! What the running daemon says of itself; where none answers, what the files and the environment say.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::context::{Context, socket_of};
use super::failure::Failure;
use super::run_async::run_async;
use crate::admin::control::{self, ControlError, EffectiveConfig, GetConfig};
use crate::config::{self, Environment, Loaded, Settings};
use crate::listener::Listen;

/// The settings in effect, and whose they are.
pub(super) struct InEffect {
    /// Those of the daemon; of the files and the environment of this command where no daemon answered.
    pub(super) settings: Settings,
    /// What the daemon said; else why it did not.
    pub(super) daemon: Result<EffectiveConfig, NoAnswer>,
    /// Where the files and the environment of this command have it from.
    pub(super) from: String,
    /// The mistakes of these files, while the daemon goes on with what it read before.
    pub(super) mistakes: Option<String>,
}

/// Why no daemon said what is in effect.
#[derive(Debug)]
pub(super) struct NoAnswer {
    pub(super) why: String,
    /// Whether one is there and does not answer.
    pub(super) is_hanging: bool,
}

impl From<ControlError> for NoAnswer {
    fn from(error: ControlError) -> Self {
        Self { why: error.to_string(), is_hanging: error.is_of_a_hanging_daemon() }
    }
}

#[cfg(test)]
impl From<&str> for NoAnswer {
    fn from(why: &str) -> Self {
        Self { why: why.to_owned(), is_hanging: false }
    }
}

impl InEffect {
    /// Asks the daemon whose socket the configuration names.
    ///
    /// # Errors
    /// A configuration that cannot be read; one with mistakes, if no daemon answers either.
    pub(super) fn ask(context: &Context) -> Result<Self, Failure> {
        let read = context.read();
        let socket = socket_of(&read)?;
        let asked = run_async(async || control::send(socket, &GetConfig {}).await)?;
        match (asked, read) {
            (Ok(said), read) => {
                let settings = understood(&said)?;
                let (from, mistakes) = match read {
                    Ok(loaded) => (loaded.from, None),
                    Err(error) => (String::new(), Some(error.to_string())),
                };
                Ok(Self { settings, daemon: Ok(said), from, mistakes })
            }
            (Err(error), Ok(Loaded { settings, from, .. })) => {
                Ok(Self { settings, daemon: Err(error.into()), from, mistakes: None })
            }
            (Err(no_answer), Err(error)) if no_answer.is_of_a_hanging_daemon() => {
                Err(Failure::usage(format!("{error}\n{no_answer}")))
            }
            (Err(_), Err(error)) => Err(Failure::usage(error)),
        }
    }

    /// Where the data plane listens, as far as that is known.
    pub(super) fn listening(&self) -> Vec<Listen> {
        match &self.daemon {
            Ok(said) => said.listening.iter().filter_map(|at| at.parse().ok()).collect(),
            Err(_) => self.settings.listen.clone(),
        }
    }

    /// Those under which a client on this machine reaches the data plane.
    pub(super) fn reached_at(&self) -> Vec<SocketAddr> {
        reached_at(&self.listening())
    }
}

/// The TCP addresses under which a client on this machine reaches a daemon that listens at these: one that listens on
/// every address refuses a request that names it by `0.0.0.0` or `[::]`, and listens on the loopback addresses too.
pub(super) fn reached_at(listening: &[Listen]) -> Vec<SocketAddr> {
    let addresses = listening.iter().filter_map(|at| match at {
        Listen::Tcp(at) => Some(*at),
        Listen::Unix(_) => None,
    });
    let all: BTreeSet<SocketAddr> = addresses.flat_map(reached).collect();
    all.into_iter().collect()
}

/// The addresses under which a socket that listens at `address` is reached from its own machine. `[::]` is every
/// address of IPv4 too.
fn reached(address: SocketAddr) -> Vec<SocketAddr> {
    let ips: Vec<IpAddr> = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![Ipv4Addr::LOCALHOST.into()],
        IpAddr::V6(ip) if ip.is_unspecified() => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        ip => vec![ip],
    };
    ips.into_iter().map(|ip| SocketAddr::new(ip, address.port())).collect()
}

/// The settings that a daemon has told: every key is there, so that this command's own environment adds nothing.
fn understood(said: &EffectiveConfig) -> Result<Settings, Failure> {
    config::resolve(&said.text, &Environment::default()).map_err(|mistakes| {
        let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
        Failure::failed(format!(
            "the daemon is of another version: its configuration is not understood ({first})"
        ))
    })
}
