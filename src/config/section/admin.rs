//! `[admin]`: metrics, probes and the control socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::admin;
use crate::config::schema::section;
use crate::config::value::{Text, path};

section! {
    /// Metrics, probes and numbers on an address of their own; commands on a socket of their own.
    Admin = "admin";

    /// Where /metrics, /livez, /readyz and /v1/status are.
    restart listen: SocketAddr = address(), |_| admin::LISTEN.into();

    /// The socket for commands such as `larder revoke`; only the daemon's own user can open it. This is the default as
    /// root; otherwise it is in $XDG_RUNTIME_DIR, else in the state directory.
    restart socket: PathBuf = path(),
        |context| context.environment.runtime_dir.as_deref().unwrap_or(context.state).join("larder.sock");

    /// A second address that has /metrics alone, for a Prometheus elsewhere in the cluster.
    restart metrics_listen: Option<SocketAddr> = address(), |_| None, example "\"0.0.0.0:5052\"";
}

impl Admin {
    /// What the admin plane is built from.
    pub(crate) fn config(&self) -> admin::Config {
        let Self { listen, socket, metrics_listen } = self.clone();
        admin::Config { listen, metrics_listen, socket }
    }
}

fn address() -> Text<SocketAddr> {
    let read = |text: &str| {
        let expected = |error| format!("{error}: expected address:port, such as 127.0.0.1:5051");
        text.parse().map_err(|error: std::net::AddrParseError| expected(error))
    };
    let examples = &["127.0.0.1:5051", "[::]:9"];
    Text { what: "address:port", examples, read, write: SocketAddr::to_string }
}
