//! Which status and which challenge a pull that failed is answered with: a pure table.
//!
//! The operator reads the event of a pod, and what is in there is decided by the runtime: it
//! asks this cache, mostly then the registry itself, and shows one of the two answers. docs/wiring.md has the table of
//! what each runtime shows; `tests/it/runtime_errors.rs` holds it. What follows from that:
//!
//! - A refusal is `401` with `error="insufficient_scope"`. containerd then asks the registry itself, and says what it
//!   says without a mirror. A 404 would hide that the registry refuses, since containerd 2 shows "not found" instead.
//! - While a registry cannot be reached, the reason is the `error` of a challenge: the only words of an answer to
//!   `HEAD` that containerd prints. containerd 1 gets 404, after which it shows what the registry itself says.
//! - An answer to `GET` has a body, whose words runtimes print or log.

use http::{HeaderMap, Method, StatusCode, Uri};

use super::client_auth::InvalidAuthorization;
use super::route;
use crate::pull::Fault;

/// Asks for errors as they are, where a mirror client would be sent on; written by `setup --strict`.
const MODE: &str = "x-larder-mode";

/// What a client does with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// It turns to the registry itself, and shows one of the two errors: a mirror client.
    Mirror,
    /// The same, by containerd 1, which shows the first error that is not a 404.
    MirrorContainerd1,
    /// A runtime that has this cache alone, and asks for errors as they are (`X-Larder-Mode: strict`). Of a `HEAD` it
    /// sees no more than status and headers.
    Strict,
    /// It shows the error.
    Direct,
}

/// Who asks, as far as the answer to a failure depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// What it does with an error.
    pub client: ClientKind,
    /// Whether the request carries a token that this node did not issue, or that is too old.
    pub shows_unknown_token: bool,
}

/// The `error` of the challenge that goes with a 401; where there is none, the client is to show a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChallengeError {
    /// A word of RFC 6750: `insufficient_scope`, as registries have it where a credential is not enough, or
    /// `invalid_token`.
    Invalid(InvalidAuthorization),
    /// The reason, in words.
    Reason,
}

impl ClientKind {
    /// The client of a request: a mirror client names its registry by `ns`, or by the header that says the same.
    pub fn of(headers: &HeaderMap, uri: &Uri) -> Self {
        if headers.get(MODE).is_some_and(|mode| mode == "strict") {
            Self::Strict
        } else if !route::has_namespace(uri, headers) {
            Self::Direct
        } else if is_containerd_1(headers) {
            Self::MirrorContainerd1
        } else {
            Self::Mirror
        }
    }

    /// Whether the client asks the registry itself if this cache has no answer.
    pub fn has_fallback(self) -> bool {
        matches!(self, Self::Mirror | Self::MirrorContainerd1)
    }
}

/// Whether the client says that it is containerd 1.x: `containerd/1.6.20~ds1`, `containerd/v1.7.34`.
fn is_containerd_1(headers: &HeaderMap) -> bool {
    let agent = headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let version = agent.and_then(|agent| agent.strip_prefix("containerd/"));
    version.is_some_and(|version| version.trim_start_matches('v').starts_with("1."))
}

/// The table.
pub fn status_of(fault: Fault, asker: Asker, method: &Method) -> (StatusCode, Option<ChallengeError>) {
    use ClientKind::{Direct, Mirror, MirrorContainerd1, Strict};
    let plain = |status| (status, None);
    let in_a_word = |word| (StatusCode::UNAUTHORIZED, Some(ChallengeError::Invalid(word)));
    let in_words = (StatusCode::UNAUTHORIZED, Some(ChallengeError::Reason));
    let is_head = *method == Method::HEAD;
    match (fault, asker.client) {
        (Fault::AuthenticationRequired, _) if asker.shows_unknown_token => {
            in_a_word(InvalidAuthorization::InvalidToken)
        }
        (Fault::AuthenticationRequired, _) => plain(StatusCode::UNAUTHORIZED),
        (Fault::NotFound, _) => plain(StatusCode::NOT_FOUND),
        (Fault::Query, _) => plain(StatusCode::BAD_REQUEST),
        (Fault::Refused(_), Mirror | MirrorContainerd1) => in_a_word(InvalidAuthorization::InsufficientScope),
        (_, Strict) if is_head => in_words,
        (Fault::Ours, _) => plain(StatusCode::SERVICE_UNAVAILABLE),
        (Fault::Outage | Fault::Declined, Mirror) if is_head => in_words,
        (Fault::Outage, MirrorContainerd1) if is_head => plain(StatusCode::NOT_FOUND),
        (Fault::Outage, _) => plain(StatusCode::SERVICE_UNAVAILABLE),
        (Fault::Declined | Fault::Invalid, Mirror | MirrorContainerd1) => plain(StatusCode::NOT_FOUND),
        (Fault::Refused(401), Strict | Direct) => plain(StatusCode::UNAUTHORIZED),
        (Fault::Refused(_) | Fault::Declined, Strict | Direct) => plain(StatusCode::FORBIDDEN),
        (Fault::Invalid, Strict | Direct) => plain(StatusCode::BAD_GATEWAY),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The document that operators read.
    const PAGE: &str = "docs/life-of-a-pull.md";
    const FAULTS: [(&str, Fault); 9] = [
        ("the caller must show a credential", Fault::AuthenticationRequired),
        ("upstream says 401", Fault::Refused(401)),
        ("upstream says 403, or withholds it", Fault::Refused(403)),
        ("upstream says 404", Fault::NotFound),
        ("upstream says 400 to the query of a list", Fault::Query),
        ("declined by a rule of this node", Fault::Declined),
        ("upstream sent something unusable", Fault::Invalid),
        ("upstream unreachable, 5xx, 429 or too slow, and nothing stale to serve", Fault::Outage),
        ("too many downloads, or a fault of this node", Fault::Ours),
    ];
    /// In the order of the table's columns.
    const CLIENTS: [ClientKind; 4] =
        [ClientKind::Mirror, ClientKind::MirrorContainerd1, ClientKind::Strict, ClientKind::Direct];

    #[test]
    fn the_table_is_the_one_in_the_documentation() {
        let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).unwrap();
        let table = page.split("| Why it failed |").nth(1).unwrap();
        let mut documented = BTreeSet::new();
        for row in table.lines().skip(2).map_while(|line| line.strip_prefix("| ")) {
            let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
            let [why, methods, answers @ ..] = cells.as_slice() else { panic!("{row}") };
            let (_, fault) = FAULTS.iter().find(|(words, _)| words == why).unwrap();
            assert_eq!(answers.len(), CLIENTS.len(), "{row}");
            for method in methods.split(", ").map(|method| method.trim_matches('`').parse().unwrap()) {
                for (client, documented) in CLIENTS.into_iter().zip(answers) {
                    assert_eq!(in_words(*fault, client, &method), *documented, "{row}: {client:?}");
                }
                documented.insert(format!("{fault:?} {method}"));
            }
        }
        assert_eq!(documented.len(), 2 * FAULTS.len(), "a failure is missing: {documented:?}");
    }

    fn in_words(fault: Fault, client: ClientKind, method: &Method) -> String {
        let (status, error) = status_of(fault, Asker { client, shows_unknown_token: false }, method);
        let status = status.as_u16();
        match error {
            None => status.to_string(),
            Some(ChallengeError::Invalid(InvalidAuthorization::InsufficientScope)) => {
                format!("{status} scope")
            }
            Some(ChallengeError::Invalid(InvalidAuthorization::InvalidToken)) => format!("{status} token"),
            Some(ChallengeError::Reason) => format!("{status} reason"),
        }
    }

    #[test]
    fn a_token_of_another_node_is_told_where_a_credential_is_wanted_and_nowhere_else() {
        for (_, fault) in FAULTS {
            for client in CLIENTS {
                let answer = |shows_unknown_token| {
                    status_of(fault, Asker { client, shows_unknown_token }, &Method::GET)
                };
                let (status, error) = answer(true);
                assert_eq!(status, answer(false).0, "{fault:?}");
                let is_told = error == Some(ChallengeError::Invalid(InvalidAuthorization::InvalidToken));
                assert_eq!(is_told, fault == Fault::AuthenticationRequired, "{fault:?}");
            }
        }
    }

    #[test]
    fn a_client_is_known_by_its_registry_its_mode_and_its_name() {
        let kind = |uri: &str, headers: &[(&'static str, &'static str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
                .collect();
            ClientKind::of(&headers, &uri.parse().unwrap())
        };
        let mirror = "/v2/a/manifests/v1?ns=reg.test";
        assert_eq!(kind("/v2/a/manifests/v1", &[]), ClientKind::Direct);
        assert_eq!(kind(mirror, &[]), ClientKind::Mirror);
        assert_eq!(kind("/v2/a/manifests/v1", &[("oci-namespace", "reg.test")]), ClientKind::Mirror);
        assert_eq!(kind(mirror, &[("x-larder-mode", "strict")]), ClientKind::Strict);
        assert_eq!(kind("/v2/a/manifests/v1", &[("x-larder-mode", "strict")]), ClientKind::Strict);
        for (agent, expected) in [
            ("containerd/1.6.20~ds1", ClientKind::MirrorContainerd1),
            ("containerd/v1.7.34", ClientKind::MirrorContainerd1),
            ("containerd/v2.1.9", ClientKind::Mirror),
            ("containerd/2.3.4+unknown", ClientKind::Mirror),
            ("containerd/10.1", ClientKind::Mirror),
            ("buildkit/v0.32", ClientKind::Mirror),
        ] {
            assert_eq!(kind(mirror, &[("user-agent", agent)]), expected, "{agent}");
        }
    }
}
