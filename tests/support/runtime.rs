//! containerd's resolver, as each version was seen to behave: which host is asked in which order, how a challenge is
//! answered, and which of the errors a pod's event shows. A model of `HEAD manifests/<tag>`, the first request of a pull.

use std::net::SocketAddr;

use http::{Method, StatusCode};

use super::client::{self, Reply};

/// A version of containerd whose errors were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containerd {
    /// 1.6.20 and 1.7.34: the first error that is not a 404.
    V1,
    /// 2.1.9: of a 404, another status and everything else, a status ranks first and everything else last.
    V2_1,
    /// 2.3.4: the same, and a `HEAD` that was answered with 403 is repeated as `GET`, whose body is shown.
    V2_3,
}

impl Containerd {
    pub const ALL: [Self; 3] = [Self::V1, Self::V2_1, Self::V2_3];

    fn user_agent(self) -> &'static str {
        match self {
            Self::V1 => "containerd/1.6.20~ds1",
            Self::V2_1 => "containerd/v2.1.9",
            Self::V2_3 => "containerd/v2.3.4",
        }
    }
}

/// A host of `hosts.toml`.
pub struct Host {
    pub address: SocketAddr,
    /// The query, for a mirror.
    pub query: &'static str,
    pub headers: &'static [(&'static str, &'static str)],
}

struct Failed {
    rank: u8,
    text: String,
}

/// Resolves a tag as kubelet has it done with a pod's pull secret: the text of the pod's event if that fails.
pub async fn resolve(
    version: Containerd,
    hosts: &[Host],
    path: &str,
    login: Option<(&str, &str)>,
) -> Result<String, String> {
    let mut shown: Option<Failed> = None;
    for host in hosts {
        let failed = match ask(version, host, path, login).await {
            Ok(digest) => return Ok(digest),
            Err(failed) => failed,
        };
        let is_shown = match (version, &shown) {
            (Containerd::V1, None) => failed.rank != NOT_FOUND,
            (Containerd::V1, Some(_)) => false,
            (_, None) => true,
            (_, Some(before)) => failed.rank > before.rank,
        };
        if is_shown {
            shown = Some(failed);
        }
    }
    Err(shown.map_or_else(|| "not found".to_owned(), |failed| failed.text))
}

/// What failed before there was a status: connecting, a token, an authorization.
const ERROR: u8 = 1;
const NOT_FOUND: u8 = 2;
const STATUS: u8 = 3;
/// Answers to one request at most.
const RESPONSES_MAX: usize = 6;

async fn ask(
    version: Containerd,
    host: &Host,
    path: &str,
    login: Option<(&str, &str)>,
) -> Result<String, Failed> {
    let error = |text: String| Failed { rank: ERROR, text };
    let url = format!("http://{}{path}{}", host.address, host.query);
    let mut token = None;
    let mut last = None;
    for responses in 1..=RESPONSES_MAX {
        let reply = send(version, host, Method::HEAD, path, token.as_deref()).await;
        let reply = reply.map_err(|why| error(format!("failed to do request: Head {url:?}: {why}")))?;
        let status = reply.status;
        last = Some(reply);
        let Some(reply) = &last else { break };
        match status {
            StatusCode::UNAUTHORIZED => {
                let Some(challenge) = parameters(reply.header("www-authenticate")) else { break };
                let said = parameter(&challenge, "error");
                // The very first answer is taken for a token that has expired.
                if !said.is_empty() && responses > 1 {
                    let denied = "pull access denied, repository does not exist or may require authorization";
                    return Err(error(format!("{denied}: server message: {said}: authorization failed")));
                }
                if token.is_none() {
                    token = Some(fetch_token(&challenge, login).await.map_err(error)?);
                }
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {}
            _ => break,
        }
    }
    let Some(reply) = last else { return Err(error("no answer".to_owned())) };
    if reply.status.is_success() {
        return Ok(reply.header("docker-content-digest").to_owned());
    }
    if reply.status == StatusCode::NOT_FOUND {
        return Err(Failed { rank: NOT_FOUND, text: "not found".to_owned() });
    }
    let mut text = match version {
        Containerd::V1 => {
            format!("pulling from host {} failed with status code {}", host.address, reply.status)
        }
        _ => format!("unexpected status from HEAD request to {url}: {}", reply.status),
    };
    if version == Containerd::V2_3 && reply.status == StatusCode::FORBIDDEN {
        let again = send(version, host, Method::GET, path, token.as_deref()).await.map_err(error)?;
        if let Ok(document) = serde_json::from_slice::<serde_json::Value>(&again.body) {
            let said = document["errors"][0]["message"].as_str().unwrap_or_default();
            text += &format!("\ndenied: {said}");
        }
    }
    Err(Failed { rank: STATUS, text })
}

async fn send(
    version: Containerd,
    host: &Host,
    method: Method,
    path: &str,
    token: Option<&str>,
) -> Result<Reply, String> {
    let token = token.map(|token| format!("Bearer {token}"));
    let mut headers = host.headers.to_vec();
    headers.push(("user-agent", version.user_agent()));
    headers.extend(token.as_deref().map(|token| ("authorization", token)));
    if let Err(error) = tokio::net::TcpStream::connect(host.address).await {
        return Err(format!("dial tcp {}: connect: {error}", host.address));
    }
    Ok(client::send(host.address, method, &format!("{path}{}", host.query), &headers).await)
}

async fn fetch_token(challenge: &str, login: Option<(&str, &str)>) -> Result<String, String> {
    let realm: http::Uri = parameter(challenge, "realm").parse().map_err(|_| "no realm".to_owned())?;
    let address: SocketAddr =
        realm.authority().map_or("", |a| a.as_str()).parse().map_err(|_| "no address")?;
    let query = realm.path_and_query().map_or("/", |path| path.as_str());
    let join = if query.contains('?') { '&' } else { '?' };
    let scope = parameter(challenge, "scope");
    let path = format!("{query}{join}service={}&scope={scope}", parameter(challenge, "service"));
    let basic = login.map(|(name, password)| client::basic(name, password));
    let headers: Vec<_> = basic.iter().map(|basic| ("authorization", basic.as_str())).collect();
    let reply = client::send(address, Method::GET, &path, &headers).await;
    if !reply.status.is_success() {
        return Err(format!(
            "failed to authorize: failed to fetch oauth token: unexpected status: {}",
            reply.status
        ));
    }
    Ok(reply.json()["token"].as_str().unwrap_or_default().to_owned())
}

/// What follows `Bearer `.
fn parameters(challenge: &str) -> Option<String> {
    challenge.strip_prefix("Bearer ").map(str::to_owned)
}

/// The value of a quoted parameter; empty if it is not there.
fn parameter<'a>(challenge: &'a str, name: &str) -> &'a str {
    let rest = challenge.split_once(&format!("{name}=\"")).map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or_default()
}
