//! A transport for tests: a function answers every request, and what was sent is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;

use crate::upstream::body::ResponseBody;
use crate::upstream::config::Config;
use crate::upstream::error::{ConnectStage, Error, NodeLimit};
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::authority::authority;
use crate::upstream::transport::configured::Configured;
use crate::upstream::transport::send::{OutgoingRequest, SendRequest};

/// A request that was sent.
#[derive(Debug, Clone)]
pub(crate) struct SentRequest {
    pub(crate) method: Method,
    pub(crate) url: String,
    /// `host:port`.
    pub(crate) host: String,
    pub(crate) trust: HostTrust,
    pub(crate) headers: HeaderMap,
}

impl SentRequest {
    /// The value of a header, empty if it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }
}

/// What becomes of a request.
pub(crate) enum Outcome {
    Response(Response<String>),
    /// A head, and a body that comes as it does.
    Body(Response<ResponseBody>),
    /// The host cannot be reached.
    Unreachable,
    /// It failed at this stage, for this cause.
    Fails(ConnectStage, &'static str),
    /// This node has no descriptor for a connection.
    NodeIsShort,
    /// No response came in time.
    TimedOut,
    /// No response ever comes.
    Hang,
}

/// Answers requests with a function, without a network.
pub(crate) struct Scripted {
    respond: Box<dyn Fn(&SentRequest) -> Outcome + Send + Sync>,
    sent: Mutex<Vec<SentRequest>>,
}

impl Scripted {
    /// A transport that answers with `respond`, and settings that use it.
    pub(crate) fn new(
        config: Config,
        respond: impl Fn(&SentRequest) -> Outcome + Send + Sync + 'static,
    ) -> (Arc<Self>, Configured) {
        let this = Arc::new(Self { respond: Box::new(respond), sent: Mutex::default() });
        let transport: Arc<dyn SendRequest> = Arc::<Self>::clone(&this);
        (this, Configured { config, transport })
    }

    /// Every request so far, oldest first.
    pub(crate) fn sent(&self) -> Vec<SentRequest> {
        self.sent.lock().clone()
    }
}

impl SendRequest for Scripted {
    fn send<'a>(
        &'a self,
        request: OutgoingRequest<'a>,
    ) -> BoxFuture<'a, Result<Response<ResponseBody>, Error>> {
        let sent = SentRequest {
            method: request.method,
            url: request.url.to_string(),
            host: authority(request.url),
            trust: request.trust,
            headers: request.headers,
        };
        self.sent.lock().push(sent.clone());
        Box::pin(async move {
            match (self.respond)(&sent) {
                Outcome::Response(response) => {
                    Ok(response
                        .map(|text| Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()))
                }
                Outcome::Body(response) => Ok(response),
                Outcome::Unreachable => {
                    let why = "connection refused".to_owned();
                    Err(Error::Unreachable { host: sent.host, stage: ConnectStage::Connect, why })
                }
                Outcome::Fails(stage, why) => {
                    Err(Error::Unreachable { host: sent.host, stage, why: why.to_owned() })
                }
                Outcome::NodeIsShort => {
                    let why = "Too many open files".to_owned();
                    Err(Error::Overloaded { limit: NodeLimit::Machine, host: sent.host, why })
                }
                Outcome::TimedOut => {
                    let why = "no response in time".to_owned();
                    Err(Error::Unreachable { host: sent.host, stage: ConnectStage::Timeout, why })
                }
                Outcome::Hang => std::future::pending().await,
            }
        })
    }
}

/// A response without headers.
pub(crate) fn status(status: u16) -> Outcome {
    respond(status, &[], "")
}

/// A response.
pub(crate) fn respond(status: u16, headers: &[(&str, &str)], body: &str) -> Outcome {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Outcome::Response(response.body(body.to_owned()).expect("a valid response"))
}

/// A response of status 200 whose body brings `bytes` each time that `every` is over, and does not end.
pub(crate) fn slow_body(bytes: &'static [u8], every: Duration) -> Outcome {
    let frames = stream::repeat(()).then(move |()| async move {
        tokio::time::sleep(every).await;
        Ok(Frame::data(Bytes::from_static(bytes)))
    });
    let response = Response::builder().status(200).body(BodyExt::boxed(StreamBody::new(Box::pin(frames))));
    Outcome::Body(response.expect("a valid response"))
}
