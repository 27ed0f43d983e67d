//! Can the cache ask the registries? It is asked for an image that none of them has, as pods without a credential ask.
//!
//! What the daemon reports of a registry and what the answer says are one finding: a registry is named once. How bad
//! it is, and what to do about it, follows from the kind of the failure alone, which the daemon names; its words are
//! shown.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::cache::EXPLAIN;
use super::finding::{CACHE as ABOUT, Finding, Findings, Level};
use super::http::{HttpAnswer, get};
use super::port::{WAIT, gate};
use crate::config::Settings;
use crate::pull::FailureKind;

/// How long the cache may take to answer about a registry.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// What to do about a failure of a kind; `None` of one that the daemon does not name, or that is not known here: then
/// it is of another version.
fn remedy(kind: Option<FailureKind>) -> &'static str {
    let Some(kind) = kind else { return EXPLAIN };
    match kind {
        FailureKind::Refused | FailureKind::NotFound => "",
        FailureKind::RateLimited => "wait, or give the node a login for it: docs/credentials-and-access.md",
        FailureKind::ServerError => {
            "it can be reached, and fails by itself: ask those who run it, or what is in front of it"
        }
        FailureKind::Certificate => {
            "name the authority that signs it by `ca` in its [[registry]]; of a date look at the certificate, and at the clock of this machine"
        }
        FailureKind::Scheme => "correct endpoints in its [[registry]], then: systemctl reload larder",
        FailureKind::AuthenticationFailed => {
            "its token server is another host, or fails: docs/credentials-and-access.md has trusted_realms"
        }
        FailureKind::CredentialUnavailable => {
            "the daemon's log says why (journalctl -u larder): docs/credentials-and-access.md has the plugins"
        }
        FailureKind::InvalidAnswer => {
            "what answers there is no registry: look at endpoints in its [[registry]], and whether a proxy or a login page answers in its place"
        }
        FailureKind::Declined => "correct what it names",
        FailureKind::Node => {
            "run this again; if it stays so, look at what asks so much, and at the daemon's log"
        }
        FailureKind::Unreachable => {
            "look at the network, the proxy and DNS of this machine; behind a proxy the daemon needs HTTPS_PROXY in its own unit (docs/reference-deployment.md)"
        }
    }
}

/// How bad a failure of a kind is; `failure` is for those after which the registry cannot be used.
fn level(kind: Option<FailureKind>, failure: Level) -> Level {
    match kind {
        Some(FailureKind::Refused | FailureKind::NotFound) => Level::Ok,
        Some(FailureKind::RateLimited) => Level::Note,
        Some(FailureKind::Node) => Level::Warning,
        _ => failure,
    }
}

pub(super) fn check(address: SocketAddr, settings: &Settings, findings: &mut Findings) {
    let mut hosts: Vec<String> = settings.upstream.registries.keys().map(ToString::to_string).collect();
    // A registry that no section names may be one that no pod uses.
    let failure = if hosts.is_empty() { Level::Warning } else { Level::Problem };
    if hosts.is_empty() {
        hosts.push(settings.serve.default_registry.to_string());
    }
    hosts.sort();
    for host in hosts {
        let asked = ask(address, &host, settings);
        add(&host, asked, failure, findings);
    }
}

fn ask(address: SocketAddr, host: &str, settings: &Settings) -> Result<HttpAnswer, String> {
    let scope = "repository:larder-doctor/none:pull";
    let token = get(address, &format!("/token?ns={host}&scope={scope}"), HeaderMap::new(), WAIT).ok();
    let mut headers = gate(settings);
    let token = token.as_ref().and_then(|answer| answer.body["token"].as_str());
    if let Some(bearer) = token.and_then(|token| format!("Bearer {token}").parse().ok()) {
        headers.insert(header::AUTHORIZATION, bearer);
    }
    get(address, &format!("/v2/{host}/larder-doctor/none/manifests/none"), headers, ANSWER_WAIT)
}

/// Adds what an answer about a registry means, together with what was reported of it.
fn add(host: &str, asked: Result<HttpAnswer, String>, failure: Level, findings: &mut Findings) {
    let is_reported = |finding: &Finding| finding.registry.as_deref() == Some(host);
    let trouble = match &asked {
        Ok(answer) => trouble_of(answer),
        Err(error) => Some((None, error.clone())),
    };
    match (trouble, findings.0.iter_mut().find(|finding| is_reported(finding))) {
        (None, None) => findings.ok(ABOUT, format!("{host} answers")),
        (None, Some(reported)) => reported.what += "; it answers now",
        (Some((kind, why)), _) => {
            findings.0.retain(|finding| !is_reported(finding));
            findings.add_of_registry(level(kind, failure), host, &why, remedy(kind));
        }
    }
}

/// Why an answer is not that of a registry, and of what kind that is; `None` if it is: that it has no such image, or
/// wants a credential for it.
fn trouble_of(answer: &HttpAnswer) -> Option<(Option<FailureKind>, String)> {
    let error = &answer.body["errors"][0];
    let kind = error["detail"]["kind"].as_str().and_then(FailureKind::named);
    let is_answer = match kind {
        Some(kind) => matches!(kind, FailureKind::Refused | FailureKind::NotFound),
        None => [StatusCode::OK, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND]
            .contains(&answer.status),
    };
    let why = error["message"].as_str();
    let why = || why.map_or_else(|| format!("it cannot be asked ({})", answer.status), str::to_owned);
    (!is_answer).then(|| (kind, why()))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::pull::{self, ChallengeReason};
    use crate::serve::refusal::{Asker, ClientKind};
    use crate::serve::respond::ErrorResponse;
    use crate::serve::route::Resource;
    use crate::store;
    use crate::support::metric_labels::Label;
    use crate::upstream::{ConnectStage, Error, NodeLimit, Unknown};

    /// What the daemon answers to this command.
    fn answer_of(response: &ErrorResponse) -> HttpAnswer {
        let body = serde_json::from_slice(&response.document()).unwrap();
        HttpAnswer { status: response.status, headers: HeaderMap::new(), body }
    }

    fn answer(error: &pull::Error) -> HttpAnswer {
        let resource = Resource::Manifest("none".parse::<crate::reference::Tag>().unwrap().into());
        let asker = Asker { client: ClientKind::Direct, shows_unknown_token: false };
        answer_of(&ErrorResponse::of_pull(error, asker, &Method::GET, &resource))
    }

    fn found(asked: Result<HttpAnswer, String>) -> Finding {
        let mut findings = Findings::default();
        add("reg.test", asked, Level::Problem, &mut findings);
        let [found] = &findings.0[..] else { panic!("{:?}", findings.0) };
        found.clone()
    }

    /// Upstream's failures, with the level and a part of the remedy that follow; `None` is an answer of the registry.
    fn failures() -> Vec<(Error, Option<(Level, &'static str)>)> {
        let host = || "reg.test:443".to_owned();
        let registry = || "reg.test".parse().unwrap();
        let unreachable = |stage| Error::Unreachable { host: host(), stage, why: "x".to_owned() };
        let problem = |remedy| Some((Level::Problem, remedy));
        vec![
            (Error::NotFound { host: host(), unknown: Unknown::Unsaid, public: true }, None),
            (Error::Refused { host: host(), status: 401, why: "x".to_owned(), public: true }, None),
            (Error::Refused { host: host(), status: 403, why: "x".to_owned(), public: true }, None),
            (Error::RateLimited { host: host(), retry_after: None }, Some((Level::Note, "login"))),
            (
                Error::ServerError { host: host(), status: 502, retry_after: None },
                problem("those who run it"),
            ),
            (unreachable(ConnectStage::Certificate), problem("clock")),
            (unreachable(ConnectStage::NotTls), problem("correct endpoints")),
            (Error::ExpectsTls { host: host() }, problem("correct endpoints")),
            (unreachable(ConnectStage::Dns), problem("DNS")),
            (unreachable(ConnectStage::Tls), problem("DNS")),
            (unreachable(ConnectStage::Timeout), problem("DNS")),
            (Error::Unauthenticated { host: host(), why: "x".to_owned() }, problem("trusted_realms")),
            (Error::Declined { registry: registry(), why: "x".to_owned() }, problem("correct what it names")),
            (Error::CredentialUnavailable { registry: registry() }, problem("plugins")),
            (Error::Invalid { host: host(), why: "x".to_owned() }, problem("no registry")),
            (
                Error::Overloaded { limit: NodeLimit::Names, host: host(), why: "x".to_owned() },
                Some((Level::Warning, "run this again")),
            ),
        ]
    }

    #[test]
    fn each_failure_has_its_own_remedy_whatever_its_words_and_only_a_registry_answers() {
        let mut kinds = Vec::new();
        for (error, expected) in failures() {
            let why = error.to_string();
            let answer = answer(&error.into());
            kinds.push(answer.body["errors"][0]["detail"]["kind"].as_str().unwrap().to_owned());
            let found = found(Ok(answer));
            let Some((level, remedy)) = expected else {
                assert_eq!((found.level, found.what.as_str()), (Level::Ok, "reg.test answers"), "{why}");
                continue;
            };
            assert_eq!(found.level, level, "{why}");
            assert!(found.remedy.contains(remedy) && found.what.ends_with(&why), "{found:?}");
        }
        for kind in FailureKind::ALL {
            assert!(kinds.iter().any(|seen| seen == kind.label()), "{kind:?} is not tried");
        }
    }

    #[test]
    fn a_challenge_does_not_hide_why_the_registry_could_not_answer() {
        for (error, expected) in failures() {
            let why = if error.is_outage() { ChallengeReason::Unreachable } else { ChallengeReason::Refused };
            let challenge = pull::Error::authentication_required(why, Some(&error));
            let found = found(Ok(answer(&challenge)));
            assert_eq!(found.level, expected.map_or(Level::Ok, |(level, _)| level), "{error}");
            assert!(found.remedy.contains(expected.map_or("", |(_, remedy)| remedy)), "{found:?}");
        }
        let alone = pull::Error::authentication_required(ChallengeReason::RateLimit, None);
        assert_eq!(found(Ok(answer(&alone))).level, Level::Note);
        let private = pull::Error::authentication_required(ChallengeReason::Refused, None);
        assert_eq!(found(Ok(answer(&private))).level, Level::Ok);
    }

    #[test]
    fn what_fails_in_this_node_is_not_blamed_on_the_network() {
        let full = pull::Error::Store(store::Error::Closed);
        for answer in [
            answer(&pull::Error::TooManyDownloads),
            answer(&full),
            answer_of(&ErrorResponse::unavailable(FailureKind::Node, "cannot be reached")),
        ] {
            let found = found(Ok(answer));
            assert!(found.level == Level::Warning && found.remedy.contains("run this again"), "{found:?}");
        }
        let late = answer_of(&ErrorResponse::unavailable(FailureKind::Unreachable, "x"));
        assert!(found(Ok(late)).remedy.contains("DNS"));
    }

    #[test]
    fn a_daemon_of_another_version_is_understood_by_its_status_and_never_by_its_words() {
        let answer = |status: u16, detail: serde_json::Value| {
            let error = serde_json::json!({"code": "X", "message": "its certificate cannot be reached", "detail": detail});
            let status = StatusCode::from_u16(status).unwrap();
            Ok(HttpAnswer { status, headers: HeaderMap::new(), body: serde_json::json!({"errors": [error]}) })
        };
        let null = || serde_json::Value::Null;
        for status in [200, 401, 403, 404] {
            assert_eq!(found(answer(status, null())).level, Level::Ok, "{status}");
        }
        for detail in [null(), "text".into(), serde_json::json!({"kind": "of_next_year"})] {
            for status in [502, 503] {
                let found = found(answer(status, detail.clone()));
                assert_eq!((found.level, found.remedy.as_str()), (Level::Problem, EXPLAIN), "{detail}");
                assert!(found.what.ends_with("its certificate cannot be reached"), "{found:?}");
            }
        }
        let silent = found(Err("no answer within 30s".to_owned()));
        assert_eq!((silent.level, silent.remedy.as_str()), (Level::Problem, EXPLAIN));
    }

    #[test]
    fn a_registry_is_named_once_in_a_run() {
        let reported = || {
            let mut findings = Findings::default();
            findings.add_of_registry(Level::Note, "reg.test", "limits anonymous pulls", "");
            findings.add_of_registry(Level::Note, "reg.test:5000", "limits anonymous pulls", "");
            findings
        };
        let of_it = |findings: &Findings| {
            let all = findings.0.iter().filter(|one| one.registry.as_deref() == Some("reg.test"));
            all.map(|one| (one.level, one.what.clone())).collect::<Vec<_>>()
        };
        let host = || "reg.test:443".to_owned();
        let mut findings = reported();
        let not_found = Error::NotFound { host: host(), unknown: Unknown::Unsaid, public: true };
        add("reg.test", Ok(answer(&not_found.into())), Level::Problem, &mut findings);
        let answers = "reg.test: limits anonymous pulls; it answers now".to_owned();
        assert_eq!(of_it(&findings), [(Level::Note, answers)]);
        let mut findings = reported();
        let failing = Error::ServerError { host: host(), status: 502, retry_after: None };
        add("reg.test", Ok(answer(&failing.into())), Level::Problem, &mut findings);
        assert_eq!(of_it(&findings), [(Level::Problem, "reg.test: reg.test:443 answered 502".to_owned())]);
        assert_eq!(findings.0.len(), 2);
    }
}
