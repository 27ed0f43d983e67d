//! One HTTP/1.1 connection to a host.
//!
//! hyper's client has two halves: one takes requests, the other reads and writes the socket, for which it is polled.
//! While a response's head is waited for, the task that asks polls both: a question without a body costs no second
//! task, and no other is woken. While a body comes, a task of the connection polls: a reader that is slow must not keep
//! the connection from being read.
//!
//! Deliberately not here: which connections stay open (`pool`), and how long an answer is waited for (`connect`).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};

use crate::upstream::transport::connector::{HttpRequest, Socket};
use crate::upstream::transport::pool::Keepable;

/// Bytes of a response head at most, and of one read of a body. The fields of a head are 100 at most: hyper's own
/// bound, which is left unsaid, since it takes room for a bound that is said from the heap.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

/// A connection over which one request at a time is sent.
pub(super) struct Connection(Box<Halves>);

struct Halves {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once the connection has ended.
    driver: Option<http1::Connection<Socket, Full<Bytes>>>,
}

impl Connection {
    /// HTTP over `socket`.
    ///
    /// # Errors
    /// None so far; hyper leaves room for one.
    pub(super) async fn over(socket: Socket) -> hyper::Result<Self> {
        let mut settings = http1::Builder::new();
        settings.max_buf_size(BUFFER_BYTES_MAX);
        // As clients written in Go read them, and curl. Each fold becomes a space, so that no value has a line end.
        settings.allow_obsolete_multiline_headers_in_responses(true);
        let (sender, driver) = settings.handshake(socket).await?;
        Ok(Self(Box::new(Halves { sender, driver: Some(driver) })))
    }

    /// Sends a request and waits for the head of its response. The body comes once [`Self::finish`] is polled.
    ///
    /// # Errors
    /// Why there is no response, with the request if nothing of it was sent.
    pub(super) async fn ask(
        &mut self,
        request: HttpRequest,
    ) -> Result<Response<Incoming>, TrySendError<HttpRequest>> {
        let Halves { sender, driver } = &mut *self.0;
        let mut answer = pin!(sender.try_send_request(request));
        poll_fn(|cx| {
            if poll_driver(driver, cx).is_ready() {
                // What it has not answered it gives back as it is dropped.
                *driver = None;
            }
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Reads the body of the last response; whether another request can be sent then.
    pub(super) async fn finish(&mut self) -> bool {
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Halves { sender, driver } = &mut *self.0;
        if poll_driver(driver, cx).is_ready() {
            *driver = None;
            return Poll::Ready(false);
        }
        sender.poll_ready(cx).map(|ready| ready.is_ok())
    }
}

impl Keepable for Connection {
    fn is_open(&mut self) -> bool {
        self.poll_finish(&mut Context::from_waker(Waker::noop())) == Poll::Ready(true)
    }
}

/// Reads and writes what can be; ready when the connection has ended.
fn poll_driver<F: Future + Unpin>(driver: &mut Option<F>, cx: &mut Context<'_>) -> Poll<()> {
    driver.as_mut().map_or(Poll::Ready(()), |driver| Pin::new(driver).poll(cx).map(drop))
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::upstream::transport::address::HostTrust;
    use crate::upstream::transport::dial::Stream;
    use crate::upstream::transport::pool::{Hosts, IDLE_TIME};

    /// A connection, and its other side.
    async fn connected() -> (Connection, DuplexStream) {
        let (ours, theirs) = duplex(4_096);
        let socket = Socket::Http(Stream::Other(TokioIo::new(Box::new(ours))));
        (Connection::over(socket).await.unwrap(), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_registry_has_closed_is_not_held_half_open_until_its_time_is_over() {
        let (connection, mut theirs) = connected().await;
        let host = Hosts::new(HostTrust::Configured).host("http://reg.test");
        host.belonging().keep(connection);
        let begun = Instant::now();
        // As a registry does that has closed its side: nothing is asked any more that could find it.
        theirs.shutdown().await.unwrap();
        theirs.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(begun.elapsed() < IDLE_TIME / 2, "closed after {:?}", begun.elapsed());
    }

    /// What a request comes to that is answered with this head.
    async fn answered_with(head: &'static str) -> Result<Response<Incoming>, TrySendError<HttpRequest>> {
        let (mut connection, mut theirs) = connected().await;
        let request = HttpRequest::new(Full::default());
        let answer = async {
            theirs.read_u8().await.unwrap();
            theirs.write_all(head.as_bytes()).await.unwrap();
        };
        tokio::join!(connection.ask(request), answer).0
    }

    #[tokio::test]
    async fn a_folded_header_is_no_broken_answer_and_brings_no_line_end_into_logs() {
        let head = "HTTP/1.1 401 Unauthorized\r\n\
            WWW-Authenticate: Bearer realm=\"https://auth.test/token\", \r\n\t service=\"reg\",\r\n scope=\"a\"\r\n\
            X-Empty:\r\n \r\n\
            X-Begins-Empty:\r\n \r\n  late\n early\r\n\
            Content-Length: 0\r\n\r\n";
        let response = answered_with(head).await.unwrap();
        let headers = response.headers();
        let challenge = r#"Bearer realm="https://auth.test/token", service="reg", scope="a""#;
        assert_eq!(headers["www-authenticate"], challenge);
        assert_eq!(headers["x-begins-empty"], "late early");
        for (name, value) in headers {
            assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n')), "{name}: {value:?}");
        }
        let bare = "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 0\r\n\r\n";
        assert!(answered_with(bare).await.is_err(), "a line end that ends no line");
    }

    #[tokio::test]
    async fn what_a_registry_says_without_having_been_asked_is_no_answer_to_the_next_request() {
        let (mut connection, mut theirs) = connected().await;
        assert!(connection.is_open());
        // As some do that close an idle connection.
        theirs.write_all(b"HTTP/1.1 408 Request Time-out\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        assert!(!connection.is_open());
    }
}
