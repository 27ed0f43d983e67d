//! What `setup` writes into the files of runtimes and `doctor` checks there.

/// The comment behind what setup has added.
pub(in crate::cli) const MARK: &str = "# written by `larder setup`";
/// Keys of a `hosts.toml` that make containerd speak TLS to a `server` or host whose URL says http.
pub(in crate::cli) const TLS_KEYS: [&str; 3] = ["ca", "client", "skip_verify"];
/// Docker's own configuration.
pub(in crate::cli) const DOCKER_CONFIG: &str = "/etc/docker/daemon.json";
/// Where Docker's containerd image store looks hosts up, and containerd 2.2 and later after their own directory.
pub(in crate::cli) const DOCKER_HOSTS: &str = "/etc/docker/certs.d";
/// The header by which a client says that it has no way around this cache (`strict`).
pub(in crate::cli) const MODE: &str = "X-Larder-Mode";
