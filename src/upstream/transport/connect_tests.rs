//! Which requests are sent twice, over a network whose server is slow or whose connections are forgotten.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::*;
use crate::upstream::error::NodeLimit;
use crate::upstream::transport::dial::NameNotAsked;
use crate::upstream::transport::network::{Io, Network, Pending, Reach};

/// A server that answers after a time; `None` is never.
#[derive(Clone, Default)]
struct Server {
    answers_after: Arc<Mutex<Option<Duration>>>,
    requests: Arc<AtomicUsize>,
    /// Connections opened so far, and how many of them a NAT has forgotten.
    opened: Arc<AtomicUsize>,
    forgotten: Arc<AtomicUsize>,
    /// Only so many connections are made; further ones fail after five seconds.
    connections_max: Option<usize>,
    /// Whether it closes a connection once it has answered over it, without having said so.
    hangs_up: bool,
    /// Whether it closes a connection at the second request over it, without an answer.
    answers_once: bool,
    /// Whether the end of a connection is an error, as that of TLS is without its own word for it.
    ends_abruptly: bool,
}

/// A connection whose end is an error.
struct Abrupt(DuplexStream);

impl AsyncRead for Abrupt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.0).poll_read(cx, buffer);
        match read {
            Poll::Ready(Ok(())) if buffer.filled().len() == before => {
                Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            read => read,
        }
    }
}

impl AsyncWrite for Abrupt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Server {
    async fn serve(self, number: usize, mut connection: DuplexStream) {
        let (mut request, mut answered) = (Vec::new(), 0);
        while let Ok(byte) = connection.read_u8().await {
            request.push(byte);
            if !request.ends_with(b"\r\n\r\n") {
                continue;
            }
            request.clear();
            self.requests.fetch_add(1, Ordering::SeqCst);
            if number < self.forgotten.load(Ordering::SeqCst) {
                continue;
            }
            if self.answers_once && answered > 0 {
                return;
            }
            answered += 1;
            let wait = *self.answers_after.lock();
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
            // A client that has closed the connection needs no answer.
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
            if self.hangs_up {
                return;
            }
        }
    }
}

impl Network for Server {
    fn resolve(&self, _: &str) -> Pending<Vec<SocketAddr>> {
        Box::pin(async { Ok(vec![([127, 0, 0, 1], 0).into()]) })
    }

    fn connect(&self, _: SocketAddr, _: &str) -> Pending<Box<dyn Io>> {
        let (ours, theirs) = duplex(4_096);
        let number = self.opened.fetch_add(1, Ordering::SeqCst);
        if self.connections_max.is_some_and(|max| number >= max) {
            return Box::pin(async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Err(io::ErrorKind::TimedOut.into())
            });
        }
        tokio::spawn(self.clone().serve(number, theirs));
        let io: Box<dyn Io> = if self.ends_abruptly { Box::new(Abrupt(ours)) } else { Box::new(ours) };
        Box::pin(async { Ok(io) })
    }
}

/// Sends a request over a connection that was idle for `idle`, to a server that answers after `answers_after`; returns
/// whether a response came, and how often the request was sent.
async fn sent(
    idle: Duration,
    answers_after: Duration,
    login: Option<&'static str>,
    is_for_token: bool,
) -> (bool, usize) {
    let server = Server { answers_after: Arc::new(Mutex::new(Some(Duration::ZERO))), ..Server::default() };
    let config = Config { reach: Reach::through(Arc::new(server.clone())), ..Config::default() };
    let transport = Transport::new(&config).unwrap();
    let (registry, url) = ("reg.test".parse().unwrap(), "http://reg.test/v2/".parse().unwrap());
    let send = || async {
        let mut request = OutgoingRequest::get(&registry, HostTrust::Configured, &url);
        request.is_for_token = is_for_token;
        if let Some(login) = login {
            request.headers.insert(AUTHORIZATION, HeaderValue::from_static(login));
        }
        transport
            .send(request)
            .await?
            .into_body()
            .collect()
            .await
            .map_err(|_| Error::Invalid { host: String::new(), why: String::new() })
    };
    send().await.unwrap();
    server.requests.store(0, Ordering::SeqCst);
    *server.answers_after.lock() = Some(answers_after);
    tokio::time::advance(idle).await;
    let is_answered = send().await.is_ok();
    (is_answered, server.requests.load(Ordering::SeqCst))
}

#[tokio::test(start_paused = true)]
async fn of_what_is_not_answered_only_what_may_be_forgotten_and_carries_no_login_is_sent_twice() {
    let (short, long, slow) = (Duration::from_secs(1), Duration::from_secs(20), Duration::from_secs(10));
    let bearer = Some("Bearer t");
    let may_be_forgotten = sent(long, slow, bearer, false).await;
    let slow_server = sent(short, slow, bearer, false).await;
    let login = sent(long, slow, Some("basic dTpw"), false).await;
    let token = sent(long, slow, None, true).await;
    assert_eq!([may_be_forgotten, slow_server, login, token], [(true, 2), (true, 1), (true, 1), (true, 1)]);
}

/// As a token server does it that closes what it takes for idle: the login comes over the connection of the challenge.
#[tokio::test(start_paused = true)]
async fn a_login_is_sent_again_where_a_used_connection_was_closed_without_an_answer() {
    let kinds = [
        (None, true, false),
        (Some("Basic dTpw"), false, false),
        (Some("Basic dTpw"), true, false),
        (Some("Basic dTpw"), true, true),
    ];
    for (login, is_for_token, ends_abruptly) in kinds {
        let answers_after = Arc::new(Mutex::new(Some(Duration::ZERO)));
        let server = Server { answers_after, answers_once: true, ends_abruptly, ..Server::default() };
        let config = Config { reach: Reach::through(Arc::new(server.clone())), ..Config::default() };
        let transport = Transport::new(&config).unwrap();
        assert!(send(&transport, None, false).await);
        assert!(send(&transport, login, is_for_token).await, "{login:?}, {is_for_token}");
        assert_eq!(server.requests.load(Ordering::SeqCst), 3, "one of them is sent twice");
    }
}

/// A transport to a server to which several connections are open and were used.
async fn with_connections(login: Option<&'static str>, is_for_token: bool) -> (Transport, Server) {
    let answers_after = Arc::new(Mutex::new(Some(Duration::from_millis(10))));
    let server = Server { answers_after, ..Server::default() };
    let config = Config { reach: Reach::through(Arc::new(server.clone())), ..Config::default() };
    let transport = Transport::new(&config).unwrap();
    let sending = (0..6).map(|_| send(&transport, login, is_for_token));
    futures_util::future::join_all(sending).await.into_iter().for_each(|sent| assert!(sent));
    assert!(server.opened.load(Ordering::SeqCst) > 2);
    (transport, server)
}

/// Whether a response comes to a request.
async fn send(transport: &Transport, login: Option<&'static str>, is_for_token: bool) -> bool {
    let (registry, url) = ("reg.test".parse().unwrap(), "http://reg.test/v2/".parse().unwrap());
    let mut request = OutgoingRequest::get(&registry, HostTrust::Configured, &url);
    request.is_for_token = is_for_token;
    login.into_iter().for_each(|login| drop(request.headers.insert(AUTHORIZATION, login.parse().unwrap())));
    match transport.send(request).await {
        Ok(response) => response.into_body().collect().await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_sent_twice_goes_over_no_connection_that_may_be_forgotten() {
    for (login, is_for_token) in [(Some("Basic dTpw"), false), (None, true)] {
        let (transport, server) = with_connections(login, is_for_token).await;
        server.forgotten.store(server.opened.load(Ordering::SeqCst), Ordering::SeqCst);
        server.requests.store(0, Ordering::SeqCst);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(send(&transport, login, is_for_token).await);
        assert_eq!(server.requests.load(Ordering::SeqCst), 1, "{login:?}: into a forgotten connection");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_no_longer_is_the_last_to_wait_for_forgotten_connections() {
    for (login, is_for_token) in [(None, false), (Some("Basic dTpw"), false), (None, true)] {
        let (transport, server) = with_connections(login, is_for_token).await;
        server.forgotten.store(server.opened.load(Ordering::SeqCst), Ordering::SeqCst);
        // They were used a moment ago, and the caller gives up before the transport does.
        let sending = send(&transport, login, is_for_token);
        assert!(tokio::time::timeout(Duration::from_secs(10), sending).await.is_err(), "{login:?}");
        let begun = Instant::now();
        assert!(send(&transport, login, is_for_token).await);
        assert!(begun.elapsed() < Duration::from_secs(1), "{login:?}: one timeout after the other");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_sent_at_a_time_go_over_the_connections_of_those_before() {
    let (transport, server) = with_connections(None, false).await;
    for _ in 0..4 {
        let sending = (0..32).map(|_| send(&transport, None, false));
        futures_util::future::join_all(sending).await.into_iter().for_each(|sent| assert!(sent));
    }
    assert_eq!(server.opened.load(Ordering::SeqCst), 32, "connections were closed that were needed again");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_over_a_connection_that_the_registry_has_closed() {
    for (login, is_for_token) in [(None, false), (Some("Basic dTpw"), false), (None, true)] {
        let server = Server {
            answers_after: Arc::new(Mutex::new(Some(Duration::from_millis(10)))),
            hangs_up: true,
            ..Server::default()
        };
        let config = Config { reach: Reach::through(Arc::new(server.clone())), ..Config::default() };
        let transport = Transport::new(&config).unwrap();
        for _ in 0..5 {
            assert!(send(&transport, login, is_for_token).await, "{login:?}");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(server.opened.load(Ordering::SeqCst), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_takes_a_connection_that_becomes_free_while_a_new_one_is_not_to_be_had() {
    let answers_after = Arc::new(Mutex::new(Some(Duration::from_millis(100))));
    let server = Server { answers_after, connections_max: Some(1), ..Server::default() };
    let config = Config { reach: Reach::through(Arc::new(server.clone())), ..Config::default() };
    let transport = Transport::new(&config).unwrap();
    let begun = Instant::now();
    let sending = (0..3).map(|_| send(&transport, None, false));
    assert_eq!(futures_util::future::join_all(sending).await, [true; 3]);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_question_without_a_body_costs_no_task_of_its_own() {
    let (transport, server) = with_connections(None, false).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for _ in 0..20 {
        assert!(send(&transport, None, false).await);
    }
    assert_eq!(metrics.num_alive_tasks(), before);
    assert_eq!(server.opened.load(Ordering::SeqCst), 6);
}

#[test]
fn a_name_that_was_not_looked_up_is_no_failure_of_its_host() {
    let error = io::Error::other(NameNotAsked);
    assert!(matches!(error_of("reg.test:443", &error, true), Error::Unreachable { .. }), "io hides it");
    assert!(matches!(error_of("reg.test:443", &NameNotAsked, true), Error::Overloaded { .. }));
}

#[test]
fn a_shortage_of_this_node_is_no_failure_of_a_host() {
    // EMFILE, ENFILE, ENOBUFS and ENOMEM of Linux.
    for code in [24, 23, 105, 12] {
        let error = error_of("reg.test:443", &io::Error::from_raw_os_error(code), true);
        assert!(matches!(error, Error::Overloaded { limit: NodeLimit::Machine, .. }), "{error}");
        assert!(!error.is_outage(), "{error}");
    }
    let refused = error_of("reg.test:443", &io::Error::from_raw_os_error(111), true);
    assert!(refused.is_outage(), "{refused}");
}

#[test]
fn a_server_that_speaks_plain_http_is_named_with_the_endpoint_to_write_and_a_certificate_in_words() {
    use rustls::{CertificateError, InvalidMessage};
    let said = |error: rustls::Error, expected| {
        let Error::Unreachable { stage, why, .. } = error_of("reg.test:443", &io::Error::other(error), true)
        else {
            panic!("no failure of its host")
        };
        assert_eq!(stage, expected);
        why
    };
    let plain = said(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType), ConnectStage::NotTls);
    assert!(plain.contains("endpoints = [\"http://"), "{plain}");
    let unknown =
        said(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer), ConnectStage::Certificate);
    assert!(unknown.contains("not known here") && !unknown.contains("Unknown"), "{unknown}");
    said(rustls::Error::HandshakeNotComplete, ConnectStage::Tls);
}
