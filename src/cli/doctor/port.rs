//! The port that runtimes are pointed at: does it lead to the cache, and does the cache reach the registries?

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::finding::{CACHE as ABOUT, Findings, Level};
use super::http::get;
use crate::config::Settings;
use crate::serve::Gate;

/// How long a port may take to answer.
const WAIT: Duration = Duration::from_secs(5);
/// How long the cache may take to answer about a registry.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Whether the port that runtimes are pointed at leads to us.
pub(super) fn check(
    address: SocketAddr,
    running: bool,
    settings: &Settings,
    findings: &mut Findings,
) -> bool {
    let asked = get(address, "/v2/", gate(settings), WAIT);
    let ours = asked.as_ref().is_ok_and(|answer| {
        let challenges = answer.headers.get_all(header::WWW_AUTHENTICATE);
        challenges.iter().any(|said| said.to_str().is_ok_and(|said| said.contains("service=\"larder\"")))
    });
    match asked {
        Ok(_) if ours => findings.ok(ABOUT, format!("{address} answers")),
        Ok(_) => findings.add(
            Level::Problem,
            ABOUT,
            format!(
                "another program answers on {address}, and gets the credentials that runtimes send there"
            ),
            format!("find it: ss -ltnp 'sport = :{}'; then hold the port with larder.socket", address.port()),
        ),
        Err(error) if running => findings.add(
            Level::Problem,
            ABOUT,
            format!("{address} does not answer: {error}"),
            "is [server] listen what the running daemon was started with?",
        ),
        Err(_) => {}
    }
    ours
}

/// Whether the registries can be asked, as a pod without credentials would: of something that none of them has.
pub(super) fn check_registries(address: SocketAddr, settings: &Settings, findings: &mut Findings) {
    let mut hosts: Vec<String> = settings.upstream.registries.keys().map(ToString::to_string).collect();
    if hosts.is_empty() {
        hosts.push(settings.serve.default_registry.to_string());
    }
    hosts.sort();
    for host in hosts {
        let scope = "repository:larder-doctor/none:pull";
        let token = get(address, &format!("/token?ns={host}&scope={scope}"), HeaderMap::new(), WAIT).ok();
        let mut headers = gate(settings);
        let token = token.as_ref().and_then(|answer| answer.body["token"].as_str());
        if let Some(bearer) = token.and_then(|token| format!("Bearer {token}").parse().ok()) {
            headers.insert(header::AUTHORIZATION, bearer);
        }
        let path = format!("/v2/{host}/larder-doctor/none/manifests/none");
        match get(address, &path, headers, ANSWER_WAIT) {
            Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
                let why = answer.body["errors"][0]["message"].as_str().unwrap_or("it cannot be asked");
                // A registry that no section names may be one that no pod uses.
                let level =
                    if settings.upstream.registries.is_empty() { Level::Warning } else { Level::Problem };
                findings.add(
                    level,
                    ABOUT,
                    format!("{host}: {why}"),
                    "look at the network, the proxy and DNS of this machine",
                );
            }
            Ok(_) => findings.ok(ABOUT, format!("{host} answers")),
            Err(error) => findings.add(Level::Problem, ABOUT, format!("{host}: {error}"), ""),
        }
    }
}

/// The header that the operator wants from every client, if any.
fn gate(settings: &Settings) -> HeaderMap {
    let gate = settings.serve.gate.iter().filter_map(|gate| Gate::read(gate).ok());
    gate.filter_map(|gate| Some((gate.header().clone(), gate.value().reveal().parse().ok()?))).collect()
}
