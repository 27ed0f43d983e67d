//! Whether a daemon could be built from settings: every file that they name is read as the daemon reads it.
//!
//! Changes nothing and binds nothing. A command that checks a configuration refuses what the daemon refuses.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::addresses;
use super::error::Error;
use super::named_files::{NamedFile, named_files};
use crate::config::Settings;
use crate::credentials::{Keychain, Keys};
use crate::serve::Gate;
use crate::support::clock::Clock;
use crate::support::metrics::Registry;
use crate::support::open_file::{Links, open_at_once};
use crate::support::proxies::ProxyVariables;
use crate::tier::Tier;
use crate::tier::metrics::Metrics;
use crate::upstream::{self, BuildError, ClientCertificate, RegistryConfig};

/// What the daemon would not start with, each with its key. Blocks while files are read.
pub fn check(settings: &Settings) -> Vec<(String, Error)> {
    let gate = gate(settings).err().map(|error| ("[server] gate_file".to_owned(), error));
    let mut found: Vec<(String, Error)> = gate.into_iter().chain(registries(settings)).collect();
    let mut add = |key: &str, error: Option<Error>| found.extend(error.map(|error| (key.to_owned(), error)));
    add("[tier]", tier(settings).err());
    let keychain = Keys::ephemeral().map_err(Error::from).and_then(|keys| keychain(settings, keys));
    add("[credentials]", keychain.err());
    found.extend(addresses::without_directory(settings));
    // What a part would have read after the file at which it stopped.
    for NamedFile { key, path, .. } in named_files(settings).into_iter().filter(|file| file.is_needed) {
        if let Err(source) = open(&path)
            // The plugins' directory need not be listed.
            && !path.is_dir()
            && !found.iter().any(|(_, error)| is_about(error, &path))
        {
            found.push((key, Error::File { path, source }));
        }
    }
    found
}

/// Whether an error names this path, and not a longer one.
fn is_about(error: &Error, path: &Path) -> bool {
    let (text, name) = (error.to_string(), path.display().to_string());
    let goes_on = |c: char| c.is_alphanumeric() || "._-/".contains(c);
    text.match_indices(&name).any(|(at, _)| !text[at + name.len()..].starts_with(goes_on))
}

/// What is named and cannot be read, and would not end the daemon's start, each with its key. Blocks while files are
/// looked at.
pub fn unreadable(settings: &Settings) -> Vec<(String, Error)> {
    let files = named_files(settings).into_iter().filter(|file| !file.is_needed);
    let unreadable = files.filter_map(|NamedFile { key, path, .. }| {
        let source = open(&path).err()?;
        Some((key, Error::File { path, source }))
    });
    unreadable.collect()
}

/// The files and directories that settings name for the daemon to read.
pub fn files(settings: &Settings) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = named_files(settings).into_iter().map(|file| file.path).collect();
    all.dedup();
    all
}

/// Of each registry the first file that cannot be used.
fn registries(settings: &Settings) -> Vec<(String, Error)> {
    let mut left = settings.clone();
    let mut found = Vec::new();
    while let Err(error) = configured(&left) {
        let goes_on = left_out(&mut left.upstream, &error);
        found.push(("[[registry]]".to_owned(), error));
        if !goes_on {
            break;
        }
    }
    found
}

/// Takes from the configuration what was refused. Whether there was something.
fn left_out(config: &mut upstream::Config, refused: &Error) -> bool {
    let Error::Upstream(refused) = refused else { return false };
    let mut each = |left_out: &dyn Fn(&mut RegistryConfig) -> bool| {
        config.registries.values_mut().map(left_out).fold(false, |any, this| any | this)
    };
    match refused {
        BuildError::Authorities { path, .. } => {
            each(&|registry| registry.ca.take_if(|ca| ca == path).is_some())
        }
        BuildError::Certificate { path, .. } => each(&|registry| {
            let names = |client: &mut ClientCertificate| client.certificate == *path || client.key == *path;
            registry.client.take_if(names).is_some()
        }),
        BuildError::Proxy { .. } => {
            config.proxy = ProxyVariables::default();
            true
        }
        BuildError::Tls(_) => false,
    }
}

/// Opens a file as the daemon does before it reads.
fn open(path: &Path) -> io::Result<()> {
    open_at_once(path, Links::Followed).map(drop)
}

/// The gate, with the value of its file.
pub(super) fn gate(settings: &Settings) -> Result<Option<Gate>, Error> {
    Ok(settings.serve.gate.as_ref().map(Gate::read).transpose()?)
}

/// The registries, with the certificates of their files.
pub(super) fn configured(settings: &Settings) -> Result<upstream::Configured, Error> {
    Ok(upstream::Configured::new(settings.upstream.clone())?)
}

/// The shared tier of a command, which shows no metrics.
///
/// # Errors
/// A URL, file or credential that cannot be used.
pub fn tier(settings: &Settings) -> Result<Tier, Error> {
    build_tier(settings, Clock::system(), Metrics::register(&Registry::new())?)
}

/// The shared tier, with the credential of its key file; none if none is configured.
pub(super) fn build_tier(settings: &Settings, clock: Clock, metrics: Metrics) -> Result<Tier, Error> {
    Ok(match &settings.tier {
        Some(config) => Tier::build(config.clone(), clock, metrics)?,
        None => Tier::none(),
    })
}

/// The node's credentials, with the plugins that their configuration names.
pub(super) fn keychain(settings: &Settings, keys: Keys) -> Result<Keychain, Error> {
    Ok(Keychain::build(&settings.credentials, Arc::new(keys))?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Environment, resolve};

    #[test]
    fn every_file_that_the_daemon_refuses_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let provider = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- {name: p, matchImages: [a.b], defaultCacheDuration: 1h, apiVersion: credentialprovider.kubelet.k8s.io/v1}\n";
        fs::write(at("p.yaml"), provider).unwrap();
        fs::write(at("empty.pem"), "").unwrap();
        let found = |text: &str| {
            let settings =
                resolve(text, &Environment { home: Some("/h".into()), ..Default::default() }).unwrap();
            check(&settings).into_iter().map(|(key, error)| format!("{key}: {error}")).collect::<Vec<_>>()
        };
        let all = found(&format!(
            "[server]\ngate_header = \"X-K\"\ngate_file = \"{}\"\n[credentials]\nprovider_config = \"{}\"\nprovider_bin_dir = \"{}\"\n[[registry]]\nhost = \"r\"\nca = \"{}\"\n",
            at("gate"),
            at("p.yaml"),
            at("no-such-directory"),
            at("no-such-ca")
        ));
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[0].contains("gate_file") && all[1].contains("no-such-ca"), "{all:?}");
        assert!(all[2].contains("no-such-directory") && all[2].contains("provider_bin_dir"), "{all:?}");
        for (text, part) in [
            (format!("[[registry]]\nhost = \"r\"\nca = \"{}\"\n", at("empty.pem")), "empty.pem"),
            (
                format!(
                    "[[registry]]\nhost = \"r\"\nclient_cert = \"{0}\"\nclient_key = \"{0}\"\n",
                    at("no-key")
                ),
                "no-key",
            ),
            (
                format!(
                    "[credentials]\nprovider_config = \"{}\"\nprovider_bin_dir = \"/\"\n",
                    at("none.yaml")
                ),
                "none.yaml",
            ),
        ] {
            let all = found(&text);
            assert!(all.len() == 1 && all[0].contains(part), "{all:?}");
        }
        let both = found(&format!(
            "[[registry]]\nhost = \"r\"\nclient_cert = \"{0}.pem\"\nclient_key = \"{0}\"\n",
            at("none")
        ));
        assert_eq!(both.len(), 2, "the name of one begins as that of the other: {both:?}");
        assert_eq!(
            found(&format!(
                "[credentials]\nprovider_config = \"{}\"\nprovider_bin_dir = \"/\"\n",
                at("p.yaml")
            )),
            [""; 0]
        );
    }

    #[test]
    fn a_file_that_a_tier_in_a_directory_does_not_read_ends_no_start() {
        for key in ["ca", "key_file"] {
            let text = format!("[tier]\nurl = \"file:///mnt\"\n{key} = \"/nothing-is-here\"\n");
            let environment = Environment { home: Some("/h".into()), ..Default::default() };
            let found = check(&resolve(&text, &environment).unwrap());
            assert!(found.is_empty(), "{found:?}");
        }
    }
}
