//! Pull secrets in files: what `imagePullSecrets` of a pod are in a cluster, for pre-pull and for showing what matches.
//!
//! A file is a docker config in either format, or a Secret manifest (YAML or JSON, any number of documents). A
//! directory stands for all such files in it and in its subdirectories, in the order of their names; a Secret mounted
//! as a volume is such a directory. All are merged into one keyring, as kubelet merges the secrets of a pod, and as
//! with kubelet one invalid secret makes all of them unusable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
use serde::Deserialize;

use super::credential::Credential;
use super::docker_config::{DockerConfig, is_current, read_current, read_legacy};
use super::keyring::{Keyring, warn_of_dropped};
use super::node::{ConfigEntry, read_bounded};
use crate::reference::Repository;
use crate::support::{directory, yaml};

/// Levels of subdirectories at most.
const DEPTH_MAX: usize = 4;

/// A pull secret that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the pull secret {} cannot be used: {why}", path.display())]
pub struct PullSecretError {
    /// The file.
    pub path: PathBuf,
    /// Why not; quotes no content.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretManifest {
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "type")]
    secret_type: String,
    #[serde(default)]
    data: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    string_data: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    items: Option<Vec<SecretManifest>>,
}

/// Pull secrets, merged as kubelet merges those of a pod.
#[derive(Clone, Default)]
pub struct PullSecrets {
    pub(super) ring: Keyring<ConfigEntry>,
    /// In their order, to be merged with those of others.
    entries: Vec<(String, ConfigEntry)>,
    /// What plugins gave for the pod's service account, in their order.
    pub(super) of_account: Vec<Credential>,
}

impl std::fmt::Debug for PullSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PullSecrets({} entries)", self.entries.len())
    }
}

impl PullSecrets {
    /// Reads everything under `paths`. Blocks.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn read(paths: &[PathBuf]) -> Result<Self, PullSecretError> {
        let mut secrets = Self::default();
        for (file, content) in pull_secret_files(paths)? {
            secrets.add(&file, &content)?;
        }
        Ok(secrets)
    }

    /// Adds a docker config or Secret manifest that is in memory; `file` is its name for people.
    ///
    /// # Errors
    /// It is neither of the two, or invalid.
    pub fn add(&mut self, file: &Path, content: &[u8]) -> Result<(), PullSecretError> {
        let named = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let shared: Arc<Path> = file.into();
        let configs = read(named, content).map_err(|why| PullSecretError { path: file.to_owned(), why })?;
        for config in configs {
            let headers = Arc::new(config.headers);
            let mut dropped = 0;
            for (key, stored) in config.entries {
                let (file, headers) = (Arc::clone(&shared), Arc::clone(&headers));
                dropped += usize::from(!self.add_entry(key, ConfigEntry { file, stored, headers }));
            }
            warn_of_dropped(dropped);
        }
        Ok(())
    }

    /// Adds the entries of `others`, after those that are there.
    pub fn merge(&mut self, others: &Self) {
        for (key, entry) in &others.entries {
            self.add_entry(key.clone(), entry.clone());
        }
        self.of_account.extend(others.of_account.iter().cloned());
    }

    /// How many entries there are, those under keys that are no hosts too.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// How many entries match images of `repository`, those without a credential too.
    pub fn count_for(&self, repository: &Repository) -> usize {
        self.ring.lookup(&repository.to_string()).len()
    }

    /// Adds what plugins gave for the pod's service account and the image that is fetched.
    pub fn add_account_credentials(&mut self, credentials: Vec<Credential>) {
        self.of_account.extend(credentials);
    }

    /// Returns whether the key is a host.
    fn add_entry(&mut self, key: String, entry: ConfigEntry) -> bool {
        let is_host = self.ring.add(&key, entry.clone());
        self.entries.push((key, entry));
        is_host
    }
}

/// The content of every file under `paths`. Blocks.
///
/// # Errors
/// The first that cannot be read.
pub fn pull_secret_files(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Vec<u8>)>, PullSecretError> {
    let mut all = Vec::new();
    for path in paths {
        let files = directory::files(path, DEPTH_MAX, counts)
            .map_err(|e| PullSecretError { path: path.clone(), why: e.to_string() })?;
        for file in files {
            let failed = |why| PullSecretError { path: file.clone(), why };
            let content = read_bounded(&file).map_err(failed)?.unwrap_or_default();
            all.push((file, content));
        }
    }
    Ok(all)
}

/// Whether an entry of a directory counts: hidden ones do not, but for the two names that secrets have.
fn counts(entry: directory::Entry<'_>) -> bool {
    let (directory::Entry::File(name) | directory::Entry::Directory(name)) = entry;
    !name.starts_with('.') || matches!(name, ".dockerconfigjson" | ".dockercfg")
}

/// The docker configs in a file, which is recognised by its name or its content.
///
/// # Errors
/// Why there are none; never quotes the content.
pub(super) fn read(name: &str, content: &[u8]) -> Result<Vec<DockerConfig>, String> {
    match name {
        ".dockercfg" => return read_legacy(content).map(|c| vec![c]).map_err(|e| e.to_string()),
        ".dockerconfigjson" => return read_current(content).map(|c| vec![c]).map_err(|e| e.to_string()),
        _ => {}
    }
    let text = std::str::from_utf8(content).map_err(|e| format!("it is not text: {e}"))?;
    if let Some(current) = is_current(content) {
        let config = if current { read_current(content) } else { read_legacy(content) };
        return config.map(|c| vec![c]).map_err(|e| e.to_string());
    }
    let documents: Vec<SecretManifest> =
        yaml::documents(text).map_err(|at| format!("{at}: it is neither a docker config nor a Secret"))?;
    let mut configs = Vec::new();
    for document in documents {
        of_manifest(document, &mut configs)?;
    }
    Ok(configs)
}

/// Adds the docker config of a Secret; other kinds and types are ignored, as kubelet does it.
fn of_manifest(manifest: SecretManifest, configs: &mut Vec<DockerConfig>) -> Result<(), String> {
    for item in manifest.items.into_iter().flatten() {
        of_manifest(item, configs)?;
    }
    if manifest.kind != "Secret" {
        return Ok(());
    }
    let (key, current) = match manifest.secret_type.as_str() {
        "kubernetes.io/dockerconfigjson" => (".dockerconfigjson", true),
        "kubernetes.io/dockercfg" => (".dockercfg", false),
        _ => return Ok(()),
    };
    // As in the API server, stringData precedes data.
    let of = |table: &Option<BTreeMap<String, Option<String>>>| table.as_ref()?.get(key)?.clone();
    let content = match (of(&manifest.string_data), of(&manifest.data)) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(encoded)) => {
            let compact: String = encoded.split_ascii_whitespace().collect();
            STANDARD.decode(compact).map_err(|e| format!("{key} is not base64: {}", place(&e)))?
        }
        (None, None) => return Ok(()),
    };
    let config = if current { read_current(&content) } else { read_legacy(&content) };
    configs.push(config.map_err(|e| format!("{key}: {e}"))?);
    Ok(())
}

/// Where base64 is wrong, without the character that is there.
fn place(error: &DecodeError) -> String {
    match error {
        DecodeError::InvalidByte(offset, _) | DecodeError::InvalidLastSymbol(offset, _) => {
            format!("a wrong character at offset {offset}")
        }
        DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CURRENT: &str = r#"{"auths": {"reg.test": {"auth": "Y3VycmVudDpw"}}}"#;

    fn secret(config: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\ntype: kubernetes.io/dockerconfigjson\ndata:\n  .dockerconfigjson: {}\n",
            STANDARD.encode(config)
        )
    }

    fn keys(name: &str, content: &str) -> Result<Vec<String>, String> {
        let configs = read(name, content.as_bytes())?;
        Ok(configs.into_iter().flat_map(|c| c.entries).map(|(key, _)| key).collect())
    }

    #[test]
    fn a_secret_is_read_in_every_form_that_it_has() {
        let legacy = r#"{"old.test": {"auth": "dTpw"}}"#;
        let two = format!("{}---\n{}", secret(CURRENT), secret(r#"{"auths": {"b.test": {"auth": "dTpw"}}}"#));
        let json = format!(
            r#"{{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/dockercfg","data":{{".dockercfg":"{}"}}}}"#,
            STANDARD.encode(legacy)
        );
        let plain = "kind: Secret\ntype: kubernetes.io/dockerconfigjson\nstringData:\n  .dockerconfigjson: '{\"auths\": {\"s.test\": {}}}'\n";
        let list = format!(r#"{{"kind":"List","items":[{json}]}}"#);
        for (name, content, expected) in [
            ("x.json", CURRENT, vec!["reg.test"]),
            (".dockerconfigjson", CURRENT, vec!["reg.test"]),
            (".dockercfg", legacy, vec!["old.test"]),
            ("legacy.json", legacy, vec!["old.test"]),
            ("s.yaml", &secret(CURRENT), vec!["reg.test"]),
            ("s.yaml", &two, vec!["reg.test", "b.test"]),
            ("s.json", &json, vec!["old.test"]),
            ("l.json", &list, vec!["old.test"]),
            ("s.yaml", plain, vec!["s.test"]),
            ("o.yaml", "kind: Secret\ntype: Opaque\ndata: {x: eA==}\n", vec![]),
            ("c.yaml", "kind: ConfigMap\ndata: {x: y}\n", vec![]),
        ] {
            assert_eq!(keys(name, content).unwrap(), expected, "{name} {content}");
        }
    }

    #[test]
    fn an_invalid_secret_is_named_and_not_quoted() {
        for content in ["{\"auths\": {\"a\": {\"auth\": \"!marker\"}}}", "marker: [", &secret("{\"marker")] {
            let why = keys("x", content).unwrap_err();
            assert!(!why.contains("marker"), "{why}");
        }
    }

    #[test]
    fn a_directory_stands_for_its_files_and_its_order_is_by_key() {
        let directory = tempfile::tempdir().unwrap();
        // As kubelet mounts a Secret.
        let data = directory.path().join("b/..2026");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join(".dockerconfigjson"), r#"{"auths": {"reg.test/team": {"auth": "dGVhbTpw"}}}"#)
            .unwrap();
        std::os::unix::fs::symlink("..2026", directory.path().join("b/..data")).unwrap();
        std::os::unix::fs::symlink("..data/.dockerconfigjson", directory.path().join("b/.dockerconfigjson"))
            .unwrap();
        fs::write(directory.path().join("a.yaml"), secret(CURRENT)).unwrap();
        let ring = PullSecrets::read(&[directory.path().to_owned()]).unwrap().ring;
        let found: Vec<_> = ring.lookup("reg.test/team/app").iter().map(|(key, _)| key.to_string()).collect();
        assert_eq!(found, ["reg.test/team", "reg.test"]);

        fs::write(directory.path().join("c"), "{").unwrap();
        assert!(PullSecrets::read(&[directory.path().to_owned()]).unwrap_err().path.ends_with("c"));
        assert!(PullSecrets::read(&["/nonexistent/x".into()]).is_err());
    }
}
