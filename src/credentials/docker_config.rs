//! Docker configs in both formats: `config.json` (`.dockerconfigjson`) and the legacy `.dockercfg`.
//!
//! Read as kubelet reads them: names in any case, twice, or null as Go takes them; `auth` overrides user name and
//! password, one bad `auth` spoils the whole document, an empty entry is an entry too and means an anonymous attempt.
//! Beyond kubelet, identity tokens and `HttpHeaders` are read, and an entry names the helper that has its credential.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};

use super::credential::Credential;
use super::secret::Secret;
use crate::support::go_json::{Fields, Json, Names, Place, WrongType};
use crate::support::short_text::shortened;

/// Bytes of a docker config at most.
pub(super) const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Headers of `HttpHeaders` that are never sent: they belong to the protocol, would replace a credential, or would
/// change what is requested.
const RESERVED_HEADERS: &[&str] = &[
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Extra headers for requests to the registries of a docker config. Their values may be secret.
pub type HttpHeaders = Vec<(HeaderName, HeaderValue)>;

/// What an entry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StoredCredential {
    /// The credential itself; `None` is an empty entry, which means an anonymous attempt.
    Inline(Option<Credential>),
    /// The name of the docker credential helper that has it, for this server.
    Helper { name: String, server: String },
}

impl StoredCredential {
    /// The user name as it may be shown, where the file says it.
    pub(super) fn shown_username(&self) -> &str {
        match self {
            Self::Inline(credential) => credential.as_ref().map_or("", Credential::shown_username),
            Self::Helper { .. } => self.username(),
        }
    }

    /// The user name, where the file says it.
    pub(super) fn username(&self) -> &str {
        match self {
            Self::Inline(credential) => credential.as_ref().map_or("", Credential::username),
            Self::Helper { .. } => "(from a credential helper)",
        }
    }
}

/// A docker config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DockerConfig {
    /// By raw key, sorted: where two keys mean the same registry, Go's order is random and this one is not.
    pub(super) entries: Vec<(String, StoredCredential)>,
    pub(super) headers: HttpHeaders,
}

/// Why a document is not a docker config. Quotes none of its content but keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DockerConfigError {
    /// Not JSON, or not of the expected shape.
    #[error("not a docker config: line {line}, column {column}")]
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A field that holds something else.
    #[error("not a docker config: {0}")]
    Field(#[from] WrongType),
    /// An `auth` that is not base64 of `user:password`.
    #[error("the entry {key:?} has an auth field that is not base64 of user:password")]
    Auth {
        /// The key of the entry.
        key: String,
    },
}

/// Characters of a key that an error shows: errors of pods' pull secrets are kept.
const SHOWN_KEY_CHARS_MAX: usize = 255;

/// Reads `config.json` or the content of `.dockerconfigjson`.
///
/// # Errors
/// [`DockerConfigError`].
pub(super) fn read_current(content: &[u8]) -> Result<DockerConfig, DockerConfigError> {
    let json = parsed(content)?;
    let file = json.fields("it", Names::AnyCase)?;
    let mut config = entries(file.table("auths")?)?;
    config.headers = headers(&texts(file, "HttpHeaders")?);
    let store = file.text("credsStore")?.filter(|name| !name.is_empty());
    for (key, stored) in &mut config.entries {
        if let (StoredCredential::Inline(None), Some(name)) = (&stored, store) {
            *stored = StoredCredential::Helper { name: name.to_owned(), server: key.clone() };
        }
    }
    // As in docker, the helper of one host precedes all else that the file has for that host.
    let helpers = texts(file, "credHelpers")?.into_iter().map(|(server, name)| {
        let stored = StoredCredential::Helper { name: name.to_owned(), server: server.to_owned() };
        (server.to_owned(), stored)
    });
    config.entries = last_of_each(config.entries.into_iter().chain(helpers));
    Ok(config)
}

/// Each key once, sorted, with its last entry. The tenant who makes a pull secret chooses how many there are.
fn last_of_each<K: Ord>(entries: impl Iterator<Item = (K, StoredCredential)>) -> Vec<(K, StoredCredential)> {
    entries.collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// Whether a document is a `config.json` rather than a `.dockercfg`, which has no name of its own.
pub(super) fn is_current(content: &[u8]) -> Option<bool> {
    let json = parsed(content).ok()?;
    let Json::Object(_) = &json else { return None };
    let fields = json.fields("it", Names::AnyCase).ok()?;
    let named = ["auths", "credHelpers", "credsStore", "HttpHeaders"].iter().any(|name| fields.has(name));
    (!fields.has("kind")).then(|| named || fields.is_empty())
}

/// Reads `.dockercfg`: the bare map.
///
/// # Errors
/// [`DockerConfigError`].
pub(super) fn read_legacy(content: &[u8]) -> Result<DockerConfig, DockerConfigError> {
    let json = parsed(content)?;
    entries(json.fields("it", Names::AnyCase)?.all())
}

fn parsed(content: &[u8]) -> Result<Json, DockerConfigError> {
    Json::read(content).map_err(|Place { line, column }| DockerConfigError::Json { line, column })
}

/// A table of texts.
fn texts<'j>(file: Fields<'j>, name: &str) -> Result<Vec<(&'j str, &'j str)>, DockerConfigError> {
    let text = |(key, value): (&'j str, &'j Json)| match value {
        Json::Text(text) => Ok((key, text.as_str())),
        // Go makes an empty text of it.
        Json::Null => Ok((key, "")),
        _ => Err(WrongType::new(&name, "an object of texts").into()),
    };
    file.table(name)?.into_iter().map(text).collect()
}

fn entries(auths: Vec<(&str, &Json)>) -> Result<DockerConfig, DockerConfigError> {
    let mut entries = Vec::with_capacity(auths.len());
    for (key, entry) in auths {
        let shown = without_user_information(key);
        let found = credential(entry.fields(&shown, Names::AnyCase)?, &shown)?;
        entries.push((key.to_owned(), StoredCredential::Inline(found)));
    }
    Ok(DockerConfig { entries, headers: Vec::new() })
}

/// A key as it may be shown: what precedes an `@` in a URL may be a user name and a password.
pub(super) fn without_user_information(key: &str) -> String {
    let (scheme, rest) = key.split_once("://").map_or(("", key), |(scheme, rest)| (scheme, rest));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) if scheme.is_empty() => format!("{host}{path}"),
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => key.to_owned(),
    }
}

/// What the entry of a key has; `None` for an empty one.
fn credential(entry: Fields<'_>, shown_key: &str) -> Result<Option<Credential>, DockerConfigError> {
    let text = |name: &str| entry.text(name).map(Option::unwrap_or_default);
    let (mut username, mut password) =
        (text("username")?.to_owned(), Secret::from(text("password")?.to_owned()));
    let (auth, token) = (text("auth")?, text("identitytoken")?);
    if !auth.is_empty() {
        let malformed = || DockerConfigError::Auth { key: shortened(&shown_key, SHOWN_KEY_CHARS_MAX) };
        (username, password) = Credential::decode(auth).ok_or_else(malformed)?;
    }
    if !token.is_empty() {
        return Ok(Some(Credential::IdentityToken(token.to_owned().into())));
    }
    Ok(Credential::password(&username, password.reveal()))
}

fn headers(given: &[(&str, &str)]) -> HttpHeaders {
    let (mut headers, mut malformed, mut reserved) = (Vec::new(), 0_usize, 0_usize);
    for (name, value) in given {
        let lower = name.to_ascii_lowercase();
        let (Ok(name), Ok(mut value)) = (HeaderName::try_from(lower.as_str()), HeaderValue::try_from(*value))
        else {
            malformed += 1;
            continue;
        };
        if RESERVED_HEADERS.contains(&lower.as_str()) {
            reserved += 1;
            continue;
        }
        value.set_sensitive(true);
        headers.push((name, value));
    }
    if malformed + reserved > 0 {
        tracing::warn!(
            malformed,
            reserved,
            "fields of HttpHeaders in a docker config are malformed, or may not be set by it, and are ignored"
        );
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cmp::Ordering;

    use super::*;

    fn password(username: &str, password: &str) -> StoredCredential {
        StoredCredential::Inline(Credential::password(username, password))
    }

    fn entries_of(text: &str) -> Vec<(String, StoredCredential)> {
        read_current(text.as_bytes()).unwrap().entries
    }

    #[test]
    fn each_way_of_writing_an_entry_is_read() {
        let found = entries_of(
            r#"{"auths": {
                "a": {"auth": "dTpw"},
                "b": {"username": "u", "password": "p", "email": "x@y"},
                "c": {"username": "other", "password": "other", "auth": "dTpw"},
                "d": {"identitytoken": "t", "auth": "PHRva2VuPjo="},
                "e": {},
                "f": {"username": "u"}
            }, "experimental": "enabled"}"#,
        );
        let expected = [
            ("a", password("u", "p")),
            ("b", password("u", "p")),
            ("c", password("u", "p")),
            ("d", StoredCredential::Inline(Some(Credential::IdentityToken("t".to_owned().into())))),
            ("e", StoredCredential::Inline(None)),
            ("f", StoredCredential::Inline(None)),
        ];
        assert_eq!(found, expected.map(|(key, stored)| (key.to_owned(), stored)));
        assert_eq!(entries_of("{}"), []);
        assert_eq!(
            read_legacy(br#"{"https://quay.io": {"auth": "dTpw"}}"#).unwrap().entries,
            [("https://quay.io".to_owned(), password("u", "p"))]
        );
    }

    #[test]
    fn one_bad_auth_spoils_the_document_and_no_secret_is_quoted() {
        let bad =
            read_current(br#"{"auths": {"a": {"auth": "dTpw"}, "b": {"auth": "bWFya2Vy"}}}"#).unwrap_err();
        assert_eq!(bad, DockerConfigError::Auth { key: "b".to_owned() });
        let broken = read_current(b"{\"auths\": {\"a\": {\"password\": \"marker\"").unwrap_err();
        assert!(!broken.to_string().contains("marker"), "{broken}");
        let keyed = br#"{"auths": {"https://marker:marker@reg.test/v1/": {"auth": "bWFya2Vy"}}}"#;
        let keyed = read_current(keyed).unwrap_err();
        assert_eq!(keyed, DockerConfigError::Auth { key: "https://reg.test/v1/".to_owned() });
        let long = "x".repeat(500_000);
        for entry in ["\"text\"", r#"{"auth": "bWFya2Vy"}"#, r#"{"auth": 1}"#] {
            let error =
                read_current(format!(r#"{{"auths": {{"{long}": {entry}}}}}"#).as_bytes()).unwrap_err();
            assert!(error.to_string().len() < 500, "{} bytes of error text", error.to_string().len());
        }
        assert_eq!(without_user_information("marker@reg.test:5000"), "reg.test:5000");
        for text in [
            "",
            "[]",
            "5",
            r#"{"auths": 5}"#,
            r#"{"auths": {"a": 5}}"#,
            r#"{"auths": {"a": {"auth": 5}}}"#,
            r#"{"HttpHeaders": {"a": 5}}"#,
        ] {
            assert!(read_current(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn names_in_another_case_twice_or_null_are_read_as_kubelet_reads_them() {
        for (text, expected) in [
            (r#"{"Auths": {"a": {"Auth": "dTpw"}}}"#, password("u", "p")),
            (
                r#"{"auths": {"a": {"auth": "bWFya2Vy"}}, "AUTHS": {"a": {"USERNAME": "u", "Password": "p"}}}"#,
                password("u", "p"),
            ),
            (
                r#"{"auths": {"a": {"auth": null, "username": "u", "username": null, "password": "x", "password": "p"}}}"#,
                password("u", "p"),
            ),
            (
                r#"{"auths": {"a": null}, "credsStore": null, "HttpHeaders": null}"#,
                StoredCredential::Inline(None),
            ),
            (
                r#"{"auths": {"b": {"auth": "bWFya2Vy"}}, "auths": null, "auths": {"a": {}}}"#,
                StoredCredential::Inline(None),
            ),
        ] {
            assert_eq!(entries_of(text), [("a".to_owned(), expected)], "{text}");
        }
        assert_eq!(entries_of("null"), []);
        assert_eq!(is_current(br#"{"AUTHS": {}}"#), Some(true));
        assert_eq!(is_current(br#"{"reg.test": {}}"#), Some(false));
        assert_eq!(is_current(br#"{"kind": "Secret"}"#), None);
    }

    #[test]
    fn headers_that_would_replace_the_protocols_own_are_dropped() {
        let config = read_current(
            br#"{"HttpHeaders": {"X-Meta": "1", "AUTHORIZATION": "Basic x", "Host": "evil", "Range": "bytes=0-",
                "TE": "x", "bad name": "x", "X-Bad": "a\nb", "User-Agent": "Docker-Client/24"}}"#,
        )
        .unwrap();
        let names: Vec<_> = config.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["user-agent", "x-meta"]);
        assert!(config.headers.iter().all(|(_, value)| value.is_sensitive()));
    }

    #[test]
    fn an_entry_whose_credential_a_helper_has_names_the_helper() {
        let found = entries_of(
            r#"{"auths": {"a": {}, "b": {"auth": "dTpw"}}, "credsStore": "desktop", "credHelpers": {"c": "ecr", "b": "gcr"}}"#,
        );
        let helper =
            |name: &str, server: &str| StoredCredential::Helper { name: name.into(), server: server.into() };
        let expected = [("a", helper("desktop", "a")), ("b", helper("gcr", "b")), ("c", helper("ecr", "c"))];
        assert_eq!(found, expected.map(|(key, stored)| (key.to_owned(), stored)));
    }
    /// A key that counts how often it was compared.
    struct Counted<'c>(u32, &'c Cell<usize>);

    impl Ord for Counted<'_> {
        fn cmp(&self, other: &Self) -> Ordering {
            self.1.set(self.1.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Counted<'_> {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl PartialEq for Counted<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other).is_eq()
        }
    }

    impl Eq for Counted<'_> {}

    #[test]
    fn a_secret_of_ten_thousand_helpers_compares_no_key_with_all_others() {
        let compared = Cell::new(0);
        let keys = |all: std::ops::Range<u32>| all.map(|n| Counted(n * 7_919 % 20_011, &compared));
        let helper = StoredCredential::Helper { name: "x".to_owned(), server: "s".to_owned() };
        let inline = keys(0..10_000).map(|key| (key, StoredCredential::Inline(None)));
        let found = last_of_each(inline.chain(keys(5_000..15_000).map(|key| (key, helper.clone()))));
        let helpers = found.iter().filter(|(_, stored)| *stored == helper).count();
        assert_eq!((found.len(), helpers), (15_000, 10_000));
        // Twice what a sort takes; each with each would be a hundred million.
        assert!(compared.get() < 2 * 20_000 * 15, "{} comparisons", compared.get());
    }
}
