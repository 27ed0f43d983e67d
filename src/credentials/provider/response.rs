//! What is written to a plugin and what it prints (`credentialprovider.kubelet.k8s.io`). Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::super::credential::Credential;

const GROUP: &str = "credentialprovider.kubelet.k8s.io/";

/// The versions of the protocol; for a node, they differ in name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApiVersion {
    V1,
    V1Beta1,
    V1Alpha1,
}

impl ApiVersion {
    const ALL: [Self; 3] = [Self::V1, Self::V1Beta1, Self::V1Alpha1];

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| text.strip_prefix(GROUP) == Some(v.name()))
    }

    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
            Self::V1Alpha1 => "v1alpha1",
        }
    }

    fn full(self) -> String {
        format!("{GROUP}{}", self.name())
    }
}

/// For which images a response counts (`cacheKeyType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum CacheKeyType {
    Image,
    Registry,
    Global,
}

/// What a plugin returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) cache_key_type: CacheKeyType,
    /// How long it counts; `None`: as long as the configuration says.
    pub(super) cache_duration: Option<Duration>,
    /// By key as in a docker config; `None` is an entry without user name or password.
    pub(super) auth: Vec<(String, Option<Credential>)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResponseDocument {
    kind: String,
    api_version: String,
    cache_key_type: CacheKeyType,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, AuthEntry>>,
}

#[derive(Deserialize)]
struct AuthEntry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: zeroize::Zeroizing<String>,
}

/// What is written to the plugin's standard input.
pub(super) fn request(api: ApiVersion, image: &str) -> Vec<u8> {
    let request =
        serde_json::json!({"kind": "CredentialProviderRequest", "apiVersion": api.full(), "image": image});
    request.to_string().into_bytes()
}

/// Reads what the plugin printed.
///
/// # Errors
/// Why it is not a response; never quotes it.
pub(super) fn read(api: ApiVersion, content: &[u8]) -> Result<Response, String> {
    let document: ResponseDocument = serde_json::from_slice(content).map_err(|e| {
        // The parser's own message may quote a secret.
        let (line, column) = (e.line(), e.column());
        format!("its output is not a CredentialProviderResponse at line {line}, column {column}")
    })?;
    if document.kind != "CredentialProviderResponse" {
        return Err("its output is of another kind".to_owned());
    }
    if ApiVersion::parse(&document.api_version) != Some(api) {
        return Err("it answers in another apiVersion than the configured one".to_owned());
    }
    let cache_duration = match document.cache_duration {
        None => None,
        Some(text) => Some(duration(&text).ok_or("its cacheDuration is not a duration")?),
    };
    let auth = document.auth.unwrap_or_default().into_iter();
    let auth = auth.map(|(key, a)| (key, Credential::password(&a.username, &a.password))).collect();
    Ok(Response { cache_key_type: document.cache_key_type, cache_duration, auth })
}

/// A duration as Go writes it (`time.ParseDuration`): `1h30m`, `1.5h`, `300ms`, `0`. `None` for a negative one too.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let number: f64 = number.parse().ok()?;
        seconds += number
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3_600.0,
                _ => return None,
            };
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// For the fuzzers.
#[cfg(fuzzing)]
pub(in crate::credentials) fn fuzz(content: &[u8]) {
    let _ = read(ApiVersion::V1, content);
    let _ = duration(&String::from_utf8_lossy(content));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("6h0m0s", Some(21_600_000)),
            ("1.5h", Some(5_400_000)),
            ("300ms", Some(300)),
            ("1h15m30.5s", Some(4_530_500)),
            ("+5s", Some(5_000)),
            ("-5s", None),
            ("5", None),
            ("", None),
            ("h", None),
            ("5 s", None),
            ("1d", None),
            ("1e3s", None),
            ("99999999999999999999999h", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn a_response_is_read_and_any_other_text_is_not() {
        let good = r#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"6h0m0s","auth":{"reg.test":{"username":"u","password":"p"},"e":{"username":"","password":""}}}"#;
        let read = |text: &str| read(ApiVersion::V1, text.as_bytes());
        let found = read(good).unwrap();
        assert_eq!(
            (found.cache_key_type, found.cache_duration),
            (CacheKeyType::Registry, Some(Duration::from_secs(21_600)))
        );
        assert_eq!(
            found.auth,
            [("e".to_owned(), None), ("reg.test".to_owned(), Credential::password("u", "p"))]
        );
        assert_eq!(read(&good.replace("\"6h0m0s\"", "null")).unwrap().cache_duration, None);
        assert_eq!(read(&good.replace("6h0m0s", "0s")).unwrap().cache_duration, Some(Duration::ZERO));
        for (from, to) in [
            ("/v1\"", "/v1beta1\""),
            ("Registry", "Cluster"),
            ("CredentialProviderResponse", "CredentialProviderRequest"),
            ("6h0m0s", "-6h"),
            ("{\"kind\"", "x{\"kind\""),
            ("\"auth\":{", "\"auth\":["),
        ] {
            assert!(read(&good.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn a_request_is_kubelets() {
        let request: serde_json::Value =
            serde_json::from_slice(&request(ApiVersion::V1Beta1, "a.b/c")).unwrap();
        let api = "credentialprovider.kubelet.k8s.io/v1beta1";
        assert_eq!(
            request,
            serde_json::json!({"kind": "CredentialProviderRequest", "apiVersion": api, "image": "a.b/c"})
        );
    }
}
