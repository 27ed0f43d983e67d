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
