//! The cache itself: is it running, does its port lead to it, is there room, what does it say about registries?

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::{Findings, Level};
use crate::admin::StatusReport;
use crate::admin::control::{self, ControlError, GetReport};
use crate::cli::Failure;
use crate::config::Settings;
use crate::credentials::{Keychain, Keys};
use crate::listener::Listen;
use crate::serve::Gate;
use crate::support::size;

pub(super) const ABOUT: &str = "cache";
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long a port may take to answer.
const WAIT: Duration = Duration::from_secs(5);
/// How long the cache may take to answer about a registry.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

pub(super) fn look(settings: &Settings, findings: &mut Findings) {
    let report = super::super::run_async(control::send(&settings.admin.socket, &GetReport {}));
    let running = match report {
        Ok(Ok(report)) => {
            findings.ok(ABOUT, format!("version {} is running", report.numbers.version));
            of_report(&report, findings);
            true
        }
        Ok(Err(ControlError::Forbidden(at))) => {
            findings.add(
                Level::Warning,
                ABOUT,
                format!("{} may not be opened", at.display()),
                "run it as root, or as the daemon's own user",
            );
            true
        }
        Ok(Err(error)) => {
            findings.add(
                Level::Problem,
                ABOUT,
                error.to_string(),
                "start it: systemctl start larder, or larder serve",
            );
            false
        }
        Err(_) => false,
    };
    for at in &settings.listen {
        if let Listen::Tcp(address) = at
            && port(*address, running, settings, findings)
            && running
        {
            registries(*address, settings, findings);
        }
    }
    clock(findings);
    credentials(settings, findings);
}

fn of_report(report: &StatusReport, findings: &mut Findings) {
    let store = &report.numbers.store;
    if !store.caching {
        findings.add(
            Level::Problem,
            ABOUT,
            "the store's disk failed: what is fetched is not kept",
            "look at the log and the disk: journalctl -u larder",
        );
    }
    match (store.capacity_bytes, store.max_bytes, store.free_bytes) {
        (Some(0), ..) => findings.add(
            Level::Problem,
            ABOUT,
            "the store's filesystem is fuller than [store] min_free allows: what is fetched is not kept",
            "free some of it, or put [store] path on another filesystem; min_free keeps kubelet from evicting pods",
        ),
        (Some(room), ..) if room < 1 << 30 => findings.add(
            Level::Warning,
            ABOUT,
            format!("the store may have {} only", size::shown(room)),
            "set [store] max_bytes, or put [store] path on a larger or emptier filesystem",
        ),
        (_, Some(max), Some(free)) => findings.ok(
            ABOUT,
            format!(
                "the store has {} of {}; {} are free",
                size::shown(store.bytes),
                size::shown(max),
                size::shown(free)
            ),
        ),
        _ => {}
    }
    for registry in &report.registries {
        for message in &registry.messages {
            let level = if registry.outage_since.is_some() { Level::Warning } else { Level::Note };
            findings.add(level, ABOUT, format!("{}: {message}", registry.registry), "");
        }
    }
    for (image, error) in &report.prepull.failed {
        findings.add(Level::Warning, ABOUT, format!("pre-pull of {image}: {error}"), "");
    }
    if let Some(problem) = &report.prepull.problem {
        findings.add(
            Level::Problem,
            ABOUT,
            format!("[prepull] cannot be used: {problem}"),
            "mend it, then: systemctl reload larder",
        );
    }
}

/// Whether the port that runtimes are pointed at leads to us.
fn port(address: SocketAddr, running: bool, settings: &Settings, findings: &mut Findings) -> bool {
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
fn registries(address: SocketAddr, settings: &Settings, findings: &mut Findings) {
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
                // One that nobody configured may be one that nobody uses.
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

/// What came back; a body that is no JSON is null.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

/// One request on a connection of its own. The error is for a person.
fn get(address: SocketAddr, path: &str, headers: HeaderMap, wait: Duration) -> Result<Answer, String> {
    let work = async {
        let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = Request::get(path).header(header::HOST, address.to_string());
        let mut request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        request.headers_mut().extend(headers);
        let (head, body) = sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
        let body = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    match super::super::run_async(async { tokio::time::timeout(wait, work).await }) {
        Ok(in_time) => in_time.map_err(|_| format!("no answer within {wait:?}"))?,
        Err(Failure::Failed(why) | Failure::Usage(why)) => Err(why),
    }
}

/// A clock that is behind makes certificates invalid that are not.
fn clock(findings: &mut Findings) {
    let written = std::env::current_exe().and_then(std::fs::metadata).and_then(|found| found.modified());
    let now = crate::support::clock::Clock::system().now().to_system_time();
    if written.is_ok_and(|written| written > now + Duration::from_secs(86_400)) {
        findings.add(
            Level::Problem,
            ABOUT,
            "the clock is behind the date of this program",
            "set the time: timedatectl set-ntp true; certificates of registries are not accepted meanwhile",
        );
    }
}

fn credentials(settings: &Settings, findings: &mut Findings) {
    let keychain = Keys::ephemeral()
        .map_err(|e| e.to_string())
        .and_then(|keys| Keychain::build(&settings.credentials, keys.into()).map_err(|e| e.to_string()));
    match keychain {
        Ok(keychain) => {
            let files: Vec<String> =
                keychain.files_in_use().iter().map(|f| f.display().to_string()).collect();
            let what = if files.is_empty() { "none".to_owned() } else { files.join(", ") };
            findings.ok(ABOUT, format!("docker configs of the node that can be read from here: {what}"));
        }
        Err(error) => findings.add(Level::Problem, ABOUT, error, "mend the file that is named"),
    }
}
