//! What is written to a plugin and what it prints (`credentialprovider.kubelet.k8s.io`). Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use zeroize::Zeroizing;

use super::super::credential::Credential;
use crate::support::go_json::{Json, Names, WrongType};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// `CredentialProviderRequest`. What is empty is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'static str,
    api_version: String,
    image: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    service_account_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account_annotations: Option<&'a BTreeMap<String, String>>,
}

/// Bytes of a request at most beside what is counted: its other fields.
const REQUEST_BYTES: usize = 512;

/// What is written to the plugin's standard input; of a service account, the token and annotations.
pub(super) fn request(
    api: ApiVersion,
    image: &str,
    account: Option<(&str, &BTreeMap<String, String>)>,
) -> Zeroizing<Vec<u8>> {
    let annotations = account.map(|(_, annotations)| annotations).filter(|all| !all.is_empty());
    let request = Request {
        kind: "CredentialProviderRequest",
        api_version: api.full(),
        image,
        service_account_token: account.map_or("", |(token, _)| token),
        service_account_annotations: annotations,
    };
    // As large as it becomes: a buffer that grows leaves what was in it behind.
    let told: usize = annotations.into_iter().flatten().map(|(key, value)| key.len() + value.len() + 6).sum();
    let bytes = REQUEST_BYTES + image.len() + 6 * request.service_account_token.len() + 6 * told;
    let mut written = Zeroizing::new(Vec::with_capacity(bytes));
    // Texts alone, into memory: nothing of it can fail.
    let _ = serde_json::to_writer(&mut *written, &request);
    written
}

/// Reads what the plugin printed, as kubelet's decoder does: the case of names counts, the last of a name that is there
/// twice does, and null is as good as absent.
///
/// # Errors
/// Why it is not a response; never quotes it.
pub(super) fn read(api: ApiVersion, content: &[u8]) -> Result<Response, String> {
    let json = Json::read(content).map_err(|at| {
        format!("its output is not a CredentialProviderResponse at line {}, column {}", at.line, at.column)
    })?;
    document(api, &json).map_err(|why| match why {
        NoResponse::Field(wrong) => format!("its output is not a CredentialProviderResponse: {wrong}"),
        NoResponse::Value(why) => why.to_owned(),
    })
}

/// Why a document is no response.
enum NoResponse {
    Field(WrongType),
    Value(&'static str),
}

impl From<WrongType> for NoResponse {
    fn from(wrong: WrongType) -> Self {
        Self::Field(wrong)
    }
}

fn document(api: ApiVersion, json: &Json) -> Result<Response, NoResponse> {
    let fields = json.fields("it", Names::Exact)?;
    let text = |name: &str| fields.text(name).map(Option::unwrap_or_default);
    if text("kind")? != "CredentialProviderResponse" {
        return Err(NoResponse::Value("its output is of another kind"));
    }
    if ApiVersion::parse(text("apiVersion")?) != Some(api) {
        return Err(NoResponse::Value("it answers in another apiVersion than the configured one"));
    }
    let cache_key_type = match text("cacheKeyType")? {
        "Image" => CacheKeyType::Image,
        "Registry" => CacheKeyType::Registry,
        "Global" => CacheKeyType::Global,
        _ => return Err(NoResponse::Value("its cacheKeyType is not Image, Registry or Global")),
    };
    let cache_duration = match fields.text("cacheDuration")? {
        None => None,
        Some(text) => Some(duration(text).ok_or(NoResponse::Value("its cacheDuration is not a duration"))?),
    };
    let mut auth = Vec::new();
    for (key, entry) in fields.table("auth")? {
        // A key may be a URL with a password in it.
        let entry = entry.fields("an entry of auth", Names::Exact)?;
        let text = |name: &str| entry.text(name).map(Option::unwrap_or_default);
        auth.push((key.to_owned(), Credential::password(text("username")?, text("password")?)));
    }
    Ok(Response { cache_key_type, cache_duration, auth })
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
        let twice = good.replacen(
            "{\"kind\"",
            "{\"auth\":{\"x\":null},\"cacheKeyType\":\"Image\",\"cacheDuration\":null,\"kind\"",
            1,
        );
        let found = read(&twice).unwrap();
        assert_eq!((found.cache_key_type, found.auth.len()), (CacheKeyType::Registry, 3));
        assert_eq!(read(&good.replace("6h0m0s", "0s")).unwrap().cache_duration, Some(Duration::ZERO));
        for (from, to) in [
            ("/v1\"", "/v1beta1\""),
            ("Registry", "Cluster"),
            ("CredentialProviderResponse", "CredentialProviderRequest"),
            ("6h0m0s", "-6h"),
            ("{\"kind\"", "x{\"kind\""),
            ("\"auth\":{", "\"auth\":["),
            ("\"cacheKeyType\"", "\"CacheKeyType\""),
            ("\"u\"", "5"),
        ] {
            assert!(read(&good.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn a_request_is_kubelets() {
        let request: serde_json::Value =
            serde_json::from_slice(&request(ApiVersion::V1Beta1, "a.b/c", None)).unwrap();
        let api = "credentialprovider.kubelet.k8s.io/v1beta1";
        assert_eq!(
            request,
            serde_json::json!({"kind": "CredentialProviderRequest", "apiVersion": api, "image": "a.b/c"})
        );
        let annotations = BTreeMap::from([("example.com/role".to_owned(), "\"reader\"".to_owned())]);
        let written = super::request(ApiVersion::V1, "a.b/c", Some(("marker", &annotations)));
        assert!(written.capacity() >= written.len() && written.len() < REQUEST_BYTES, "it never grew");
        let request: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(request["serviceAccountToken"], "marker");
        assert_eq!(request["serviceAccountAnnotations"]["example.com/role"], "\"reader\"");
        let bare: serde_json::Value =
            serde_json::from_slice(&super::request(ApiVersion::V1, "a", Some(("t", &BTreeMap::new()))))
                .unwrap();
        assert_eq!(bare.get("serviceAccountAnnotations"), None);
    }
}
