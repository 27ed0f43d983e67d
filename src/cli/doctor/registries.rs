//! Can the cache ask the registries? It is asked for an image that none of them has, as pods without a credential ask.
//!
//! What the daemon reports of a registry and what the answer says are one finding: a registry is named once.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::finding::{CACHE as ABOUT, Finding, Findings, Level};
use super::http::{HttpAnswer, get};
use super::port::{WAIT, gate};
use crate::config::Settings;

/// How long the cache may take to answer about a registry.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Why a registry gives no answer, as the words of the daemon have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// It limits requests.
    RateLimit,
    /// It fails by itself.
    Server,
    /// Its certificate is not accepted.
    Certificate,
    /// It is asked with TLS and speaks plain HTTP, or the other way round.
    Scheme,
    /// Its challenge could not be answered.
    Login,
    /// A plugin or helper of this node gave no credential for it.
    Plugin,
    /// What answers is no registry.
    Page,
    /// A rule of this node forbids it.
    Rule,
    /// A limit of this node was reached.
    Node,
    /// It cannot be reached.
    Network,
}

impl Trouble {
    fn of(status: StatusCode, why: &str) -> Self {
        let says = |words: &[&str]| words.iter().any(|words| why.contains(words));
        if says(&["endpoints = ["]) {
            Self::Scheme
        } else if says(&["certificate"]) {
            Self::Certificate
        } else if says(&["rate limit"]) {
            Self::RateLimit
        } else if says(&["asks for authentication, which failed"]) {
            Self::Login
        } else if says(&["is declined:"]) {
            Self::Rule
        } else if says(&[" answered 5", " answered 408"]) {
            Self::Server
        } else if says(&["credential plugin or helper"]) {
            Self::Plugin
        } else if says(&["cannot be reached", "did not answer in time"]) {
            Self::Network
        } else if says(&["a limit of this node"]) || status == StatusCode::SERVICE_UNAVAILABLE {
            Self::Node
        } else {
            Self::Page
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::RateLimit => "wait, or give the node a login for it: docs/credentials-and-access.md",
            Self::Server => {
                "it can be reached, and fails by itself: ask those who run it, or what is in front of it"
            }
            Self::Certificate => {
                "name the authority that signs it by `ca` in its [[registry]]; of a date look at the certificate, and at the clock of this machine"
            }
            Self::Scheme => "correct endpoints in its [[registry]], then: systemctl reload larder",
            Self::Login => {
                "its token server is another host, or fails: docs/credentials-and-access.md has trusted_realms"
            }
            Self::Plugin => {
                "the daemon's log says why (journalctl -u larder): docs/credentials-and-access.md has the plugins"
            }
            Self::Page => {
                "what answers there is no registry: look at endpoints in its [[registry]], and whether a proxy or a login page answers in its place"
            }
            Self::Rule => "correct what it names",
            Self::Node => {
                "run this again; if it stays so, look at what asks so much, and at the daemon's log"
            }
            Self::Network => {
                "look at the network, the proxy and DNS of this machine; behind a proxy the daemon needs HTTPS_PROXY in its own unit (docs/reference-deployment.md)"
            }
        }
    }

    /// `failure`: of a registry that cannot be used.
    fn level(self, failure: Level) -> Level {
        match self {
            Self::RateLimit => Level::Note,
            Self::Node => Level::Warning,
            _ => failure,
        }
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
    let of_host = format!("{host}: ");
    let is_reported = |finding: &Finding| finding.about == ABOUT && finding.what.starts_with(&of_host);
    let why = match &asked {
        Ok(answer) => trouble_of(answer),
        Err(error) => Some((Trouble::Network, error.clone())),
    };
    match (why, findings.0.iter_mut().find(|finding| is_reported(finding))) {
        (None, None) => findings.ok(ABOUT, format!("{host} answers")),
        (None, Some(reported)) => reported.what += "; it answers now",
        (Some((trouble, why)), _) => {
            findings.0.retain(|finding| !is_reported(finding));
            findings.add(trouble.level(failure), ABOUT, format!("{of_host}{why}"), trouble.remedy());
        }
    }
}

/// Why an answer is not that of a registry; `None` if it is: that it has no such image, or wants a credential for it.
fn trouble_of(answer: &HttpAnswer) -> Option<(Trouble, String)> {
    let why = answer.body["errors"][0]["message"].as_str();
    let trouble = why.map(|why| Trouble::of(answer.status, why));
    match (answer.status, trouble) {
        (StatusCode::OK | StatusCode::NOT_FOUND, _) => None,
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, None | Some(Trouble::Page)) => None,
        (status, trouble) => Some((
            trouble.unwrap_or(Trouble::Network),
            why.map_or_else(|| format!("it cannot be asked ({status})"), str::to_owned),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{ConnectStage, Error, NodeLimit};

    fn answer(status: u16, why: &str) -> Result<HttpAnswer, String> {
        Ok(HttpAnswer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: serde_json::json!({"errors": [{"code": "X", "message": why}]}),
        })
    }

    #[test]
    fn each_failure_has_its_own_remedy_and_only_a_registry_answers() {
        let host = || "reg.test:443".to_owned();
        let unreachable = |why: &str| {
            Error::Unreachable { host: host(), stage: ConnectStage::Tls, why: why.to_owned() }.to_string()
        };
        let expired = "its certificate expired on 2025-02-01T00:00:00Z; here it is 2026-11-28T00:00:00Z";
        let plain = "it does not answer with TLS; its [[registry]] says so: endpoints = [\"http://…\"]";
        let refused = |status| Error::Refused { host: host(), status, why: "x".to_owned(), public: true };
        let failed = Error::Unauthenticated { host: host(), why: "it has no token".to_owned() };
        let declined = Error::Declined { registry: "reg.test".parse().unwrap(), why: "a rule".to_owned() };
        let plugin = Error::CredentialUnavailable { registry: "reg.test".parse().unwrap() }.to_string();
        let overloaded = Error::Overloaded { limit: NodeLimit::Names, host: host(), why: "names".to_owned() };
        for (status, why, expected) in [
            (404, "reg.test:443 does not have it".to_owned(), None),
            (401, refused(401).to_string(), None),
            (403, refused(403).to_string(), None),
            (401, "authentication required: the repository is closed".to_owned(), None),
            (
                503,
                Error::RateLimited { host: host(), retry_after: None }.to_string(),
                Some((Level::Note, "login")),
            ),
            (
                503,
                Error::ServerError { host: host(), status: 502, retry_after: None }.to_string(),
                Some((Level::Problem, "those who run it")),
            ),
            (503, unreachable(expired), Some((Level::Problem, "clock"))),
            (503, unreachable(plain), Some((Level::Problem, "correct endpoints"))),
            (503, unreachable("Connection refused"), Some((Level::Problem, "DNS"))),
            (401, failed.to_string(), Some((Level::Problem, "trusted_realms"))),
            (403, declined.to_string(), Some((Level::Problem, "correct what it names"))),
            (503, overloaded.to_string(), Some((Level::Warning, "run this again"))),
            (503, "too many requests at once".to_owned(), Some((Level::Warning, "run this again"))),
            (503, plugin, Some((Level::Problem, "plugins"))),
            (
                502,
                Error::Invalid { host: host(), why: "a page".to_owned() }.to_string(),
                Some((Level::Problem, "no registry")),
            ),
        ] {
            let mut findings = Findings::default();
            add("reg.test", answer(status, &why), Level::Problem, &mut findings);
            let [found] = &findings.0[..] else { panic!("{why}: {:?}", findings.0) };
            let Some((level, remedy)) = expected else {
                assert_eq!((found.level, found.what.as_str()), (Level::Ok, "reg.test answers"), "{why}");
                continue;
            };
            assert_eq!(found.level, level, "{why}");
            assert!(found.remedy.contains(remedy) && found.what.ends_with(&why), "{found:?}");
        }
    }

    #[test]
    fn a_registry_is_named_once_in_a_run() {
        let reported = || {
            let mut findings = Findings::default();
            findings.add(Level::Note, ABOUT, "reg.test: limits anonymous pulls", "");
            findings.add(Level::Note, ABOUT, "reg.test:5000: limits anonymous pulls", "");
            findings
        };
        let of_it = |findings: &Findings| {
            let all = findings
                .0
                .iter()
                .filter(|one| one.what.starts_with("reg.test ") || one.what.starts_with("reg.test: "));
            all.map(|one| (one.level, one.what.clone())).collect::<Vec<_>>()
        };
        let mut findings = reported();
        add("reg.test", answer(404, "it does not have it"), Level::Problem, &mut findings);
        let answers = "reg.test: limits anonymous pulls; it answers now".to_owned();
        assert_eq!(of_it(&findings), [(Level::Note, answers)]);
        let mut findings = reported();
        add("reg.test", answer(503, "reg.test answered 502"), Level::Problem, &mut findings);
        assert_eq!(of_it(&findings), [(Level::Problem, "reg.test: reg.test answered 502".to_owned())]);
        assert_eq!(findings.0.len(), 2);
    }
}
