//! The port that runtimes are pointed at: does it lead to the cache?

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::finding::{CACHE as ABOUT, Findings, Level};
use super::http::{HttpAnswer, get};
use crate::config::Settings;
use crate::serve::Gate;

/// How long a port may take to answer.
pub(super) const WAIT: Duration = Duration::from_secs(5);

/// Who answered.
#[derive(Debug, PartialEq, Eq)]
enum Answered {
    /// The cache, as it answers a client.
    Larder,
    /// The cache, which refuses this request, in these words.
    Refused(StatusCode, String),
    /// Another program.
    Other,
}

/// Whether the port that runtimes are pointed at leads to us, and this command is a client of it.
pub(super) fn check(
    address: SocketAddr,
    running: bool,
    settings: &Settings,
    findings: &mut Findings,
) -> bool {
    // Where no daemon runs, what answers is another program, whatever this command may ask.
    if running
        && let Some((level, what, remedy)) = not_to_be_asked(settings, rustix::process::geteuid().as_raw())
    {
        findings.add(level, ABOUT, format!("{address} was not asked: {what}"), remedy);
        return false;
    }
    let headers = if running { gate(settings) } else { HeaderMap::new() };
    let answered = get(address, "/v2/", headers, WAIT).map(|answer| judged(&answer, running));
    let (level, what, remedy) = match &answered {
        Ok(Answered::Larder) => (Level::Ok, format!("{address} answers"), String::new()),
        Ok(Answered::Refused(status, why)) => {
            let (level, remedy) = of_refusal(*status);
            (level, format!("{address} answers {}: {why}", status.as_u16()), remedy.to_owned())
        }
        Ok(Answered::Other) => (
            Level::Problem,
            format!(
                "another program answers on {address}, and gets the credentials that runtimes send there"
            ),
            format!("find it: ss -ltnp 'sport = :{}'; then hold the port with larder.socket", address.port()),
        ),
        Err(error) if running => (
            Level::Problem,
            format!("{address} does not answer: {error}"),
            "is [server] listen what the running daemon was started with?".to_owned(),
        ),
        Err(_) => return false,
    };
    findings.add(level, ABOUT, what, remedy);
    answered == Ok(Answered::Larder)
}

/// Why this command would be refused as a client, which says nothing of who listens: a user who may not connect, or who
/// may not read the gate's header.
fn not_to_be_asked(settings: &Settings, user: u32) -> Option<(Level, String, String)> {
    if let Some(uids) = settings.uids.as_ref().filter(|uids| !uids.contains(&user)) {
        let what = format!("[server] allow_uids does not name the user of this command ({user})");
        let one = uids.first().map_or_else(String::new, |uid| format!(", such as {uid}"));
        return Some((Level::Note, what, format!("run this as a user that it names{one}")));
    }
    let error = settings.serve.gate.as_ref().and_then(|gate| Gate::read(gate).err())?;
    let what = format!("the header of [server] gate_header is not known: {error}");
    Some((Level::Warning, what, "run this as root, or correct the file".to_owned()))
}

/// Who gave an answer. While the daemon runs, an error document with a status of its own refusals is taken for its
/// own: another program that listens there does not know what to answer.
fn judged(answer: &HttpAnswer, running: bool) -> Answered {
    const REFUSALS: [StatusCode; 3] =
        [StatusCode::MISDIRECTED_REQUEST, StatusCode::SERVICE_UNAVAILABLE, StatusCode::FORBIDDEN];
    let challenges = answer.headers.get_all(header::WWW_AUTHENTICATE);
    let is_ours = |said: &HeaderValue| said.to_str().is_ok_and(|said| said.contains("service=\"larder\""));
    if challenges.iter().any(is_ours) {
        return Answered::Larder;
    }
    match answer.body["errors"][0]["message"].as_str() {
        Some(why) if running && REFUSALS.contains(&answer.status) => {
            Answered::Refused(answer.status, why.to_owned())
        }
        _ => Answered::Other,
    }
}

/// How bad a refusal of the cache is, and what to do.
fn of_refusal(status: StatusCode) -> (Level, &'static str) {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => (
            Level::Warning,
            "run this again; if it stays so, look at what asks so much, or raise [server] connections_max or requests_max",
        ),
        StatusCode::MISDIRECTED_REQUEST => {
            (Level::Problem, "name this address in [server] hosts, or point runtimes at the loopback address")
        }
        _ => (Level::Problem, "if the gate's file was changed: systemctl restart larder"),
    }
}

/// The header that the operator wants from every client, if any.
pub(super) fn gate(settings: &Settings) -> HeaderMap {
    let gate = settings.serve.gate.iter().filter_map(|gate| Gate::read(gate).ok());
    gate.filter_map(|gate| Some((gate.header().clone(), gate.value().reveal().parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, challenge: Option<&str>, body: &str) -> HttpAnswer {
        let challenge = challenge.map(|said| (header::WWW_AUTHENTICATE, said.parse().unwrap()));
        HttpAnswer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: challenge.into_iter().collect(),
            body: serde_json::from_str(body).unwrap_or_default(),
        }
    }

    #[test]
    fn a_cache_that_is_full_or_refuses_a_client_is_not_taken_for_an_intruder() {
        let document =
            r#"{"errors":[{"code":"UNAVAILABLE","message":"too many connections to this cache"}]}"#;
        let ours = "Bearer realm=\"http://127.0.0.1:5050/token\",service=\"larder\"";
        assert_eq!(judged(&answer(200, Some(ours), "{}"), true), Answered::Larder);
        for status in [503, 421, 403] {
            let found = judged(&answer(status, None, document), true);
            let Answered::Refused(is, why) = found else { panic!("{status}: {found:?}") };
            assert!(is == status && why.contains("too many"), "{status} {why}");
            assert!(!of_refusal(is).1.is_empty());
            assert_eq!(judged(&answer(status, None, document), false), Answered::Other, "no daemon runs");
            assert_eq!(judged(&answer(status, None, "<html>"), true), Answered::Other);
        }
        let of_another = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\"";
        for (status, challenge) in [(200, None), (401, Some(of_another)), (404, None)] {
            assert_eq!(judged(&answer(status, challenge, document), true), Answered::Other, "{status}");
        }
    }

    #[test]
    fn a_user_who_may_not_connect_is_told_so_and_no_intruder_is_seen() {
        let environment = crate::config::Environment { home: Some("/h".into()), ..Default::default() };
        let resolved = |config: &str| crate::config::resolve(config, &environment).unwrap();
        let listed = resolved("[server]\nallow_uids = [7, 8]\n");
        assert!(not_to_be_asked(&listed, 8).is_none() && not_to_be_asked(&resolved(""), 0).is_none());
        let (level, what, remedy) = not_to_be_asked(&listed, 0).unwrap();
        assert!(
            level == Level::Note && what.contains("allow_uids") && remedy.contains('7'),
            "{what} {remedy}"
        );
        let gate = resolved("[server]\ngate_header = \"X-Node\"\ngate_file = \"/absent/gate\"\n");
        let (level, what, _) = not_to_be_asked(&gate, 0).unwrap();
        assert!(level == Level::Warning && what.contains("/absent/gate"), "{what}");
    }
}
