//! `CredentialProviderConfig`, as kubelet's `--image-credential-provider-config` names it: a file or a directory of
//! them.
//!
//! Read strictly, as kubelet does: an unknown field, a missing one or a name given twice is an error that stops the
//! start, because a provider that is missing without a word looks like a registry that refuses access.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::support::yaml;

use super::super::node::read_bounded;
use super::response::{ApiVersion, duration};

/// A provider configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the credential provider configuration {} cannot be used: {why}", path.display())]
pub struct ProviderConfigError {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong; quotes no value.
    pub why: String,
}

/// A plugin, and how it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::credentials) struct Provider {
    pub(super) name: String,
    pub(super) match_images: Vec<String>,
    pub(super) default_cache: Duration,
    pub(super) api: ApiVersion,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// `None`: it is run for the node alone.
    pub(super) token: Option<TokenAttributes>,
}

/// For which tokens of a service account a response counts (`cacheType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheType {
    /// For one token. Also where nothing is said, as with kubelet 1.33: what is shared least.
    Token,
    /// For every token of the account.
    ServiceAccount,
}

/// What a plugin needs of a pod's service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenAttributes {
    pub(super) audience: String,
    /// Whether it is not run without a service account.
    pub(super) is_account_required: bool,
    pub(super) cache_type: CacheType,
    pub(super) required_annotations: Vec<String>,
    pub(super) optional_annotations: Vec<String>,
}

impl Provider {
    /// Whether it is run for the node: without a service account, as kubelet does for a pod that has none.
    pub(super) fn is_run_for_node(&self) -> bool {
        self.token.as_ref().is_none_or(|token| !token.is_account_required)
    }

    /// The audience of the tokens that it needs of pods' service accounts, if it does.
    pub(in crate::credentials) fn token_audience(&self) -> Option<String> {
        self.token.as_ref().map(|token| token.audience.clone())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ConfigFile {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Option<Vec<ProviderEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ProviderEntry {
    name: String,
    #[serde(default)]
    match_images: Option<Vec<String>>,
    default_cache_duration: Option<String>,
    api_version: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
    #[serde(default)]
    token_attributes: Option<TokenEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TokenEntry {
    service_account_token_audience: String,
    require_service_account: bool,
    /// Of kubelet 1.34 and later.
    #[serde(default)]
    cache_type: Option<String>,
    #[serde(default)]
    required_service_account_annotation_keys: Option<Vec<String>>,
    #[serde(default)]
    optional_service_account_annotation_keys: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

/// Reads a file, or all `*.json`, `*.yaml` and `*.yml` of a directory in the order of their names.
///
/// # Errors
/// The first thing that is wrong.
pub(in crate::credentials) fn read(path: &Path) -> Result<Vec<Provider>, ProviderConfigError> {
    let failed = |path: &Path, why: String| ProviderConfigError { path: path.to_owned(), why };
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| failed(path, e.to_string()))?;
        let named =
            |p: &PathBuf| p.extension().is_some_and(|e| ["json", "yaml", "yml"].iter().any(|k| e == *k));
        files = entries.flatten().map(|entry| entry.path()).filter(named).collect();
        files.sort();
    }
    let (mut names, mut providers) = (Vec::new(), Vec::new());
    for file in &files {
        let content = read_bounded(file).map_err(|why| failed(file, why))?;
        let content = content.ok_or_else(|| failed(file, "there is no such file".to_owned()))?;
        for (name, provider) in parse(&content).map_err(|why| failed(file, why))? {
            if names.contains(&name) {
                return Err(failed(file, format!("the provider {name} is there twice")));
            }
            names.push(name);
            providers.push(provider);
        }
    }
    if names.is_empty() {
        return Err(failed(path, "it names no provider".to_owned()));
    }
    Ok(providers)
}

/// The directory of the plugins: kubelet does not start without it.
///
/// # Errors
/// There is none.
pub(in crate::credentials) fn check_directory(path: &Path) -> Result<(), ProviderConfigError> {
    let failed = |why: String| Err(ProviderConfigError { path: path.to_owned(), why });
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => failed("provider_bin_dir is no directory".to_owned()),
        Err(error) => failed(format!("provider_bin_dir: {error}")),
    }
}

/// The providers by their names.
fn parse(content: &[u8]) -> Result<Vec<(String, Provider)>, String> {
    let text = std::str::from_utf8(content).map_err(|e| format!("it is not text: {e}"))?;
    // JSON is YAML. The parser's message may quote the line, and `env` may hold a secret.
    let file: ConfigFile = yaml::document(text).map_err(|at| {
        format!("{at}: not a CredentialProviderConfig (an unknown field, a missing one, or no YAML)")
    })?;
    let known = ["v1", "v1beta1", "v1alpha1"].map(|v| format!("kubelet.config.k8s.io/{v}"));
    if !known.contains(&file.api_version) {
        return Err(format!("apiVersion {:?}: expected one of {}", file.api_version, known.join(", ")));
    }
    if file.kind != "CredentialProviderConfig" {
        return Err(format!("kind {:?}: expected CredentialProviderConfig", file.kind));
    }
    let mut providers = Vec::new();
    for entry in file.providers.unwrap_or_default() {
        let name = entry.name.clone();
        let read = provider(entry).map_err(|why| format!("provider {name:?}: {why}"))?;
        providers.push((name, read));
    }
    Ok(providers)
}

fn provider(entry: ProviderEntry) -> Result<Provider, String> {
    let bad_name = entry.name.is_empty()
        || matches!(entry.name.as_str(), "." | "..")
        || entry.name.contains(|c: char| c == '/' || c.is_whitespace());
    if bad_name {
        return Err("name: expected the name of a program, without / and spaces".to_owned());
    }
    let match_images = entry.match_images.unwrap_or_default();
    if match_images.is_empty() {
        return Err("matchImages: at least one is needed".to_owned());
    }
    let cache = entry.default_cache_duration.ok_or("defaultCacheDuration is needed")?;
    let default_cache =
        duration(&cache).ok_or("defaultCacheDuration: expected a duration such as 12h, not negative")?;
    let api = ApiVersion::parse(&entry.api_version).ok_or_else(|| {
        "apiVersion: expected credentialprovider.kubelet.k8s.io/v1, v1beta1 or v1alpha1".to_owned()
    })?;
    let token = entry.token_attributes.map(|attributes| attributes.checked(api)).transpose()?;
    if token.as_ref().is_some_and(|token| token.is_account_required) {
        tracing::info!(
            provider = entry.name,
            "this credential provider needs a token of a pod's service account: it is run for the pods that are watched, and never for a request of a runtime"
        );
    }
    Ok(Provider {
        name: entry.name,
        match_images,
        default_cache,
        api,
        args: entry.args.unwrap_or_default(),
        env: entry.env.unwrap_or_default().into_iter().map(|v| (v.name, v.value)).collect(),
        token,
    })
}

impl TokenEntry {
    /// As kubelet checks them.
    fn checked(self, api: ApiVersion) -> Result<TokenAttributes, String> {
        let required =
            self.required_service_account_annotation_keys.as_ref().is_some_and(|keys| !keys.is_empty());
        let why = if api != ApiVersion::V1 {
            "apiVersion: tokenAttributes need credentialprovider.kubelet.k8s.io/v1"
        } else if self.service_account_token_audience.is_empty() {
            "tokenAttributes.serviceAccountTokenAudience: one is needed"
        } else if !matches!(self.cache_type.as_deref(), None | Some("Token" | "ServiceAccount")) {
            "tokenAttributes.cacheType: expected Token or ServiceAccount"
        } else if required && !self.require_service_account {
            "tokenAttributes.requiredServiceAccountAnnotationKeys: not without requireServiceAccount"
        } else {
            return Ok(self.read());
        };
        Err(why.to_owned())
    }

    fn read(self) -> TokenAttributes {
        let cache_type = match self.cache_type.as_deref() {
            Some("ServiceAccount") => CacheType::ServiceAccount,
            _ => CacheType::Token,
        };
        TokenAttributes {
            audience: self.service_account_token_audience,
            is_account_required: self.require_service_account,
            cache_type,
            required_annotations: self.required_service_account_annotation_keys.unwrap_or_default(),
            optional_annotations: self.optional_service_account_annotation_keys.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECR: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: ecr-credential-provider\n  matchImages: [\"*.dkr.ecr.*.amazonaws.com\"]\n  defaultCacheDuration: 12h0m0s\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [get-credentials]\n  env: [{name: AWS_PROFILE, value: x}]\n";

    #[test]
    fn a_configuration_written_for_kubelet_is_read() {
        let found = parse(ECR.as_bytes()).unwrap();
        assert_eq!(
            found,
            [(
                "ecr-credential-provider".to_owned(),
                Provider {
                    name: "ecr-credential-provider".into(),
                    match_images: vec!["*.dkr.ecr.*.amazonaws.com".into()],
                    default_cache: Duration::from_secs(43_200),
                    api: ApiVersion::V1,
                    args: vec!["get-credentials".into()],
                    env: vec![("AWS_PROFILE".into(), "x".into())],
                    token: None,
                }
            )]
        );
        let json = r#"{"apiVersion":"kubelet.config.k8s.io/v1beta1","kind":"CredentialProviderConfig","providers":[
            {"name":"p","matchImages":["*"],"defaultCacheDuration":"0s","apiVersion":"credentialprovider.kubelet.k8s.io/v1alpha1"}]}"#;
        let read = parse(json.as_bytes()).unwrap();
        assert_eq!(read[0].1.api, ApiVersion::V1Alpha1);
        let needs_pod = ECR.to_owned()
            + "  tokenAttributes: {serviceAccountTokenAudience: a, cacheType: ServiceAccount, requireServiceAccount: true, requiredServiceAccountAnnotationKeys: [x], optionalServiceAccountAnnotationKeys: [y]}\n";
        let token = TokenAttributes {
            audience: "a".into(),
            is_account_required: true,
            cache_type: CacheType::ServiceAccount,
            required_annotations: vec!["x".into()],
            optional_annotations: vec!["y".into()],
        };
        assert_eq!(parse(needs_pod.as_bytes()).unwrap()[0].1.token, Some(token));
    }

    #[test]
    fn a_plugin_that_needs_a_service_account_stops_no_start_and_is_not_run_for_the_node() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("p.yaml");
        let with = |attributes: &str| {
            format!("{ECR}  tokenAttributes: {{serviceAccountTokenAudience: a, {attributes}}}\n")
        };
        for (attributes, used) in
            [("requireServiceAccount: true, cacheType: Token", false), ("requireServiceAccount: false", true)]
        {
            std::fs::write(&file, with(attributes)).unwrap();
            assert_eq!(read(&file).unwrap()[0].is_run_for_node(), used, "{attributes}");
        }
        for (attributes, why) in [
            ("cacheType: Token", "line "),
            ("requireServiceAccount: true, cacheType: Pod", "cacheType"),
            ("requireServiceAccount: false, requiredServiceAccountAnnotationKeys: [x]", "requiredService"),
            ("requireServiceAccount: false, unknown: 1", "line "),
        ] {
            let error = parse(with(attributes).as_bytes()).unwrap_err();
            assert!(error.contains(why), "{attributes}: {error}");
        }
    }

    #[test]
    fn what_kubelet_refuses_is_refused_and_nothing_is_quoted() {
        for (from, to, why) in [
            ("args:", "arguments:", "line "),
            ("kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v2", "apiVersion"),
            ("kind: CredentialProviderConfig", "kind: KubeletConfiguration", "kind"),
            ("name: ecr-credential-provider", "name: ../sh", "name"),
            ("name: ecr-credential-provider", "name: a b", "name"),
            ("[\"*.dkr.ecr.*.amazonaws.com\"]", "[]", "matchImages"),
            ("12h0m0s", "-1h", "defaultCacheDuration"),
            ("12h0m0s", "soon", "defaultCacheDuration"),
            ("credentialprovider.kubelet.k8s.io/v1", "v1", "apiVersion"),
            ("value: x", "valeu: marker-secret", "line "),
        ] {
            let error = parse(ECR.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(error.contains(why) && !error.contains("marker"), "{to}: {error}");
        }
    }

    #[test]
    fn a_directory_is_merged_and_a_name_given_twice_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("b.yaml"), ECR).unwrap();
        std::fs::write(directory.path().join("a.yml"), ECR.replace("ecr-credential-provider", "other"))
            .unwrap();
        std::fs::write(directory.path().join("README"), "no").unwrap();
        let names: Vec<_> = read(directory.path()).unwrap().into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["other", "ecr-credential-provider"]);
        std::fs::write(directory.path().join("c.json"), ECR).unwrap();
        assert!(read(directory.path()).unwrap_err().to_string().contains("twice"));
        assert!(read(Path::new("/nonexistent/x")).is_err());
    }
}
