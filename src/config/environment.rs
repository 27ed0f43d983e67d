//! The environment: the only place that reads it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::support::proxies::ProxyVariables;

/// What the process was started with.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Whether the process is root.
    pub root: bool,
    /// `LARDER_CONFIG`.
    pub config: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub state_home: Option<PathBuf>,
    /// `STATE_DIRECTORY`, from systemd.
    pub state_dir: Option<PathBuf>,
    /// The node's docker config in `CREDENTIALS_DIRECTORY`, from systemd: what the unit's `LoadCredential=` brought.
    pub node_credential: Option<PathBuf>,
    /// Where sockets go: systemd's `RUNTIME_DIRECTORY`, `/run/larder` as root, `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, in either case.
    pub proxy: ProxyVariables,
    /// `LARDER_SECTION_KEY`: settings, by the name of the variable. An empty variable counts as none.
    pub overrides: BTreeMap<String, String>,
}

/// The name under which our unit loads the node's docker config.
const NODE_CREDENTIAL: &str = "docker-config.json";
/// What every variable of this program begins with.
const PREFIX: &str = "LARDER_";
/// The variable that names the configuration file, and so is no setting.
const CONFIG: &str = "LARDER_CONFIG";

impl Environment {
    /// Reads the environment of this process, and looks whether systemd brought a docker config. Blocks for a moment.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let root = rustix::process::geteuid().is_root();
        let runtime_dir = || if root { Some("/run/larder".into()) } else { path("XDG_RUNTIME_DIR") };
        Self {
            root,
            runtime_dir: path("RUNTIME_DIRECTORY").or_else(runtime_dir),
            // One directory is what our unit asks for.
            state_dir: path("STATE_DIRECTORY"),
            node_credential: path("CREDENTIALS_DIRECTORY")
                .map(|directory| directory.join(NODE_CREDENTIAL))
                .filter(|file| file.exists()),
            config: path(CONFIG),
            home: path("HOME"),
            state_home: path("XDG_STATE_HOME"),
            proxy: proxy(|name| std::env::var(name).ok()),
            overrides: overrides(std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value)))),
        }
    }

    /// The same with these variables, and no others, for the name of the file, the proxies and the settings.
    #[must_use]
    pub fn with_variables(self, variables: &BTreeMap<String, String>) -> Self {
        let config = variables.get(CONFIG).filter(|file| !file.is_empty()).map(PathBuf::from);
        Self {
            config,
            proxy: proxy(|name| variables.get(name).cloned()),
            overrides: overrides(variables.clone().into_iter()),
            ..self
        }
    }
}

/// The proxies that variables name: of a name in capital and in small letters the first that is not empty, as clients
/// written in Go have it.
fn proxy(variable: impl Fn(&str) -> Option<String>) -> ProxyVariables {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let either = |name: &str| set(name).or_else(|| set(&name.to_ascii_lowercase())).unwrap_or_default();
    ProxyVariables { http: either("HTTP_PROXY"), https: either("HTTPS_PROXY"), no: either("NO_PROXY") }
}

/// Of these variables, those that are settings.
fn overrides(all: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    all.filter(|(name, value)| name.starts_with(PREFIX) && name != CONFIG && !value.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_variables_of_a_proxy_the_first_that_says_something_counts_and_capital_letters_come_first() {
        let no = |variables: &[(&str, &str)]| {
            let found = |name: &str| variables.iter().find(|(of, _)| *of == name);
            proxy(|name| found(name).map(|(_, value)| (*value).to_owned())).no
        };
        assert_eq!(no(&[("no_proxy", ""), ("NO_PROXY", "a")]), "a", "an empty one hides it");
        assert_eq!(no(&[("NO_PROXY", ""), ("no_proxy", "a")]), "a", "an empty one hides it");
        assert_eq!(no(&[("no_proxy", "a"), ("NO_PROXY", "b")]), "b");
        assert_eq!(no(&[]), "");
    }
}
