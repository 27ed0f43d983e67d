//! Clients: they speak HTTP/1.x themselves, byte by byte, and say exactly what they got and what they could know of it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use larder::listener::memory::Dialer;
use larder::reference::{Algorithm, Digest, Hasher};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::catalog::catalog;
use crate::plan::{Manner, Repo, What, Who};
use crate::time::Now;

/// Bytes that wait between the daemon and a client: as little as a slow network would hold.
const BUFFER: usize = 16 * 1024;
/// How long a client waits for an answer: longer than any promise.
const HEAD_WAIT: Duration = Duration::from_secs(60);
/// Without any byte for so long, a client gives up.
const BODY_WAIT: Duration = Duration::from_secs(180);
/// Bytes of a body that are kept.
const KEPT_MAX: usize = 256 * 1024;

/// One request, as the world and the referee know it.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) who: Who,
    pub(crate) repo: Repo,
    pub(crate) what: What,
    /// `GET` by this reference; none for lists.
    pub(crate) digest: Option<Digest>,
    pub(crate) head: bool,
    pub(crate) range: Option<(u64, u64)>,
    pub(crate) manner: Manner,
    /// The step of the plan that it belongs to.
    pub(crate) step: usize,
    pub(crate) begun: u64,
    pub(crate) reply: Reply,
}

/// What came back, and how it ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    /// 0: nothing came.
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    /// When the head had come.
    pub(crate) head_at: Option<u64>,
    pub(crate) ended_at: u64,
    pub(crate) got: u64,
    pub(crate) digest: Option<Digest>,
    /// The first of its bytes.
    pub(crate) kept: Bytes,
    /// The first byte that is not what it should be.
    pub(crate) wrong_at: Option<u64>,
    /// When that byte arrived.
    pub(crate) wrong_since: Option<u64>,
    /// Whether its protocol tells the client that this is all of it.
    pub(crate) complete: bool,
    /// Whether the client went away by itself.
    pub(crate) left: bool,
    /// Requests that this took, those for a token included.
    pub(crate) requests: u32,
}

impl Reply {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

impl Ask {
    pub(crate) fn path(&self) -> String {
        let repo = self.repo;
        let rest = match (self.what, self.digest) {
            (What::Tag, _) => "manifests/v1".to_owned(),
            (What::Manifest, Some(digest)) => format!("manifests/{digest}"),
            (What::Tags, _) => "tags/list".to_owned(),
            (What::Referrers, Some(digest)) => format!("referrers/{digest}"),
            (_, Some(digest)) => format!("blobs/{digest}"),
            (_, None) => "tags/list".to_owned(),
        };
        if self.manner.mirror {
            format!("/v2/{}/{rest}?ns={}", repo.path(), repo.host().name())
        } else {
            format!("/v2/{}/{rest}", repo.name())
        }
    }

    /// Whether it is about content, by digest.
    pub(crate) fn is_blob(&self) -> bool {
        matches!(self.what, What::Layer(_) | What::Others(..))
    }
}

/// Asks, saying who it is where that is wanted.
pub(crate) async fn ask(dialer: Option<Dialer>, now: &Now, mut ask: Ask) -> Ask {
    let _waiting = now.wait();
    ask.begun = now.ms();
    let path = ask.path();
    let basic = ask.who.credential().map(|(user, password)| {
        let plain = format!("{user}:{password}");
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain))
    });
    let Some(dialer) = dialer else {
        ask.reply.ended_at = now.ms();
        return ask;
    };
    // podman and the like show what they have at once; containerd waits to be asked.
    let first = basic.clone().filter(|_| !ask.manner.mirror);
    let mut requests = 1;
    let mut reply = once(&dialer, now, &ask, &path, first.as_deref()).await;
    if reply.status == 401
        && let Some(realm) = realm(&reply)
    {
        let token = Ask { head: false, range: None, manner: Manner::default(), ..ask.clone() };
        let answer = once(&dialer, now, &token, &realm, basic.as_deref()).await;
        requests += 1;
        let token = serde_json::from_slice::<serde_json::Value>(&answer.kept).ok();
        if let Some(token) = token.as_ref().and_then(|answer| answer["token"].as_str()) {
            requests += 1;
            let before = reply.head_at;
            reply = once(&dialer, now, &ask, &path, Some(&format!("Bearer {token}"))).await;
            // The bound is for each answer.
            let _ = before;
        }
    }
    reply.requests = requests;
    ask.reply = reply;
    ask
}

/// The path and query of a Bearer challenge's realm, with its service and scope.
fn realm(reply: &Reply) -> Option<String> {
    let challenge = reply.header("www-authenticate")?.strip_prefix("Bearer ")?;
    let of = |name: &str| {
        let rest = challenge.split_once(&format!("{name}=\""))?.1;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let realm = of("realm")?;
    let path = realm.split_once("://")?.1.split_once('/')?.1;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for name in ["service", "scope"] {
        if let Some(value) = of(name) {
            query.append_pair(name, &value);
        }
    }
    let join = if path.contains('?') { '&' } else { '?' };
    Some(format!("/{path}{join}{}", query.finish()))
}

async fn once(dialer: &Dialer, now: &Now, ask: &Ask, path: &str, authorization: Option<&str>) -> Reply {
    let mut reply = Reply::default();
    let begun = now.ms();
    if let Ok(mut stream) = dialer.connect(BUFFER).await {
        let _ = talk(&mut stream, now, ask, path, authorization, &mut reply).await;
    }
    reply.ended_at = now.ms();
    if let Some(at) = reply.head_at.as_mut() {
        // Counted from this request on.
        *at -= begun;
    }
    reply
}

async fn talk(
    stream: &mut DuplexStream,
    now: &Now,
    ask: &Ask,
    path: &str,
    authorization: Option<&str>,
    reply: &mut Reply,
) -> std::io::Result<()> {
    let (method, version) =
        (if ask.head { "HEAD" } else { "GET" }, if ask.manner.old { "1.0" } else { "1.1" });
    let mut text = format!("{method} {path} HTTP/{version}\r\nHost: localhost:5050\r\n");
    if let Some(authorization) = authorization {
        text += &format!("Authorization: {authorization}\r\n");
    }
    if let Some((start, end)) = ask.range {
        text += &format!("Range: bytes={start}-{end}\r\n");
    }
    text += "Accept: */*\r\n\r\n";
    stream.write_all(text.as_bytes()).await?;
    let mut buffer = Vec::new();
    let head = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        let read = tokio::time::timeout(HEAD_WAIT, stream.read_buf(&mut buffer)).await;
        if !matches!(read, Ok(Ok(count)) if count > 0) {
            return Ok(());
        }
        now.stir();
    };
    let mut body = buffer.split_off(head);
    let text = String::from_utf8_lossy(&buffer).into_owned();
    let mut lines = text.split("\r\n");
    reply.status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).unwrap_or(0);
    for line in lines {
        if let Some((name, value)) = line.split_once(':') {
            reply.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    reply.head_at = Some(now.ms());
    if ask.head || matches!(reply.status, 204 | 304) {
        reply.complete = true;
        return Ok(());
    }
    let chunked = reply.header("transfer-encoding").is_some_and(|value| value.contains("chunked"));
    let length = reply.header("content-length").and_then(|value| value.parse::<u64>().ok());
    let mut sink = Sink::new(ask, reply.status);
    if chunked {
        read_chunked(stream, now, ask, &mut body, &mut sink).await;
    } else {
        read_plain(stream, now, ask, body, length, &mut sink).await;
    }
    (reply.got, reply.wrong_at, reply.left, reply.complete) =
        (sink.got, sink.wrong_at, sink.left, sink.complete);
    reply.wrong_since = sink.wrong_since;
    reply.digest = Some(sink.hasher.finish());
    reply.kept = sink.kept.into();
    Ok(())
}

/// Where body bytes go.
struct Sink {
    expected: Option<Bytes>,
    from: u64,
    hasher: Hasher,
    kept: Vec<u8>,
    got: u64,
    wrong_at: Option<u64>,
    wrong_since: Option<u64>,
    left: bool,
    complete: bool,
}

impl Sink {
    fn new(ask: &Ask, status: u16) -> Self {
        let expected = ask.digest.and_then(|digest| catalog().bytes(digest)).cloned();
        let from = ask.range.filter(|_| status == 206).map_or(0, |(start, _)| start);
        let expected = expected.filter(|_| (200..300).contains(&status));
        let (kept, hasher) = (Vec::new(), Hasher::new(Algorithm::Sha256));
        Self {
            expected,
            from,
            hasher,
            kept,
            got: 0,
            wrong_at: None,
            wrong_since: None,
            left: false,
            complete: false,
        }
    }

    /// Takes bytes; whether the client goes on.
    fn take(&mut self, bytes: &[u8], ask: &Ask, now: &Now) -> bool {
        let at = self.from + self.got;
        if let (Some(expected), None) = (&self.expected, self.wrong_at) {
            let right = expected.get(at as usize..).unwrap_or_default();
            let same = bytes.iter().zip(right).take_while(|(a, b)| a == b).count();
            if same < bytes.len() {
                self.wrong_at = Some(at + same as u64);
                self.wrong_since = Some(now.ms());
            }
        }
        self.hasher.update(bytes);
        if self.kept.len() < KEPT_MAX {
            self.kept.extend_from_slice(&bytes[..bytes.len().min(KEPT_MAX - self.kept.len())]);
        }
        self.got += bytes.len() as u64;
        self.left = ask.manner.leaves_after.is_some_and(|after| self.got >= after);
        !self.left
    }
}

/// Reads some bytes, as fast as this client does; empty at the end.
async fn some(stream: &mut DuplexStream, now: &Now, ask: &Ask, first: bool) -> Option<Vec<u8>> {
    if first && ask.manner.pause_ms > 0 {
        now.sleep(Duration::from_millis(ask.manner.pause_ms)).await;
    }
    let mut bytes = vec![0; if ask.manner.pace > 0 { ask.manner.pace } else { 64 * 1024 }];
    if ask.manner.pace > 0 {
        now.sleep(Duration::from_millis(100)).await;
    }
    match tokio::time::timeout(BODY_WAIT, stream.read(&mut bytes)).await {
        Ok(Ok(count)) => {
            now.stir();
            bytes.truncate(count);
            Some(bytes)
        }
        _ => None,
    }
}

async fn read_plain(
    stream: &mut DuplexStream,
    now: &Now,
    ask: &Ask,
    begun: Vec<u8>,
    length: Option<u64>,
    sink: &mut Sink,
) {
    let mut bytes = begun;
    let mut first = true;
    loop {
        if !sink.take(&bytes, ask, now) {
            return;
        }
        if length.is_some_and(|length| sink.got >= length) {
            sink.complete = true;
            return;
        }
        match some(stream, now, ask, first).await {
            // Without a length the end of the connection is the end of the body.
            Some(next) if next.is_empty() => {
                sink.complete = length.is_none();
                return;
            }
            Some(next) => bytes = next,
            None => return,
        }
        first = false;
    }
}

async fn read_chunked(stream: &mut DuplexStream, now: &Now, ask: &Ask, have: &mut Vec<u8>, sink: &mut Sink) {
    let mut first = true;
    loop {
        while let Some(line) = have.windows(2).position(|two| two == b"\r\n") {
            let size = String::from_utf8_lossy(&have[..line]).trim().to_owned();
            let Ok(size) = usize::from_str_radix(&size, 16) else { return };
            if have.len() < line + 2 + size + 2 {
                break;
            }
            if size == 0 {
                sink.complete = true;
                return;
            }
            let chunk: Vec<u8> = have[line + 2..line + 2 + size].to_vec();
            have.drain(..line + 2 + size + 2);
            if !sink.take(&chunk, ask, now) {
                return;
            }
        }
        match some(stream, now, ask, first).await {
            Some(next) if !next.is_empty() => have.extend_from_slice(&next),
            _ => return,
        }
        first = false;
    }
}
