//! Which requests are sent twice, over a network whose server is slow or whose connections are forgotten.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::upstream::transport::network::{Io, Network, Pending, Reach};

/// A server that answers after a time; `None` is never.
#[derive(Clone, Default)]
struct Server {
    answers_after: Arc<Mutex<Option<Duration>>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn serve(self, mut connection: DuplexStream) {
        let mut request = Vec::new();
        while let Ok(byte) = connection.read_u8().await {
            request.push(byte);
            if !request.ends_with(b"\r\n\r\n") {
                continue;
            }
            request.clear();
            self.requests.fetch_add(1, Ordering::SeqCst);
            let wait = *self.answers_after.lock();
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
            // A client that has closed the connection needs no answer.
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        }
    }
}

impl Network for Server {
    fn resolve(&self, _: &str) -> Pending<Vec<SocketAddr>> {
        Box::pin(async { Ok(vec![([127, 0, 0, 1], 0).into()]) })
    }

    fn connect(&self, _: SocketAddr, _: &str) -> Pending<Box<dyn Io>> {
        let (ours, theirs) = duplex(4_096);
        tokio::spawn(self.clone().serve(theirs));
        Box::pin(async { Ok::<Box<dyn Io>, io::Error>(Box::new(ours)) })
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
async fn only_what_may_be_forgotten_and_carries_no_login_is_sent_twice() {
    let (short, long, slow) = (Duration::from_secs(1), Duration::from_secs(20), Duration::from_secs(10));
    let bearer = Some("Bearer t");
    let may_be_forgotten = sent(long, slow, bearer, false).await;
    let slow_server = sent(short, slow, bearer, false).await;
    let login = sent(long, slow, Some("basic dTpw"), false).await;
    let token = sent(long, slow, None, true).await;
    assert_eq!([may_be_forgotten, slow_server, login, token], [(true, 2), (true, 1), (true, 1), (true, 1)]);
}

#[test]
fn a_name_that_was_not_looked_up_is_no_failure_of_its_host() {
    let error = io::Error::other(NameNotAsked);
    assert!(matches!(error_of("reg.test:443", &error, true), Error::Unreachable { .. }), "io hides it");
    assert!(matches!(error_of("reg.test:443", &NameNotAsked, true), Error::Overloaded { .. }));
}
