//! One command: read, done, answered.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::mpsc;
use tower::util::{BoxCloneSyncService, service_fn};

use super::commands::{
    CollectGarbage, Collected, ControlCommand, Explain, GetReport, ImportNames, ListImages, Pull, Remove,
    Removed, Revoke, Revoked, Unpin, Unpinned,
};
use super::describe::{EffectiveConfig, GetConfig, MatchCredentials, ProbeTier};
use super::error::{CommandError, place};
use super::explain::Explainer;
use super::{images, import, writes_often};
use crate::admin::report::StatusReport;
use crate::admin::respond::{json, text};
use crate::admin::service::Service;
use crate::credentials::Keychain;
use crate::listener::Body;
use crate::prepull::Fetcher;
use crate::pull::Puller;
use crate::reference::{Image, Repository};
use crate::store::{self, Store};
use crate::support::body_chunk::BodyChunk;
use crate::support::shutdown::Shutdown;
use crate::support::tasks::Tasks;
use crate::tier::Tier;

/// Bytes of a command at most: a long list of images with their secrets.
const COMMAND_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Events that may wait to be read.
const EVENTS_MAX: usize = 256;
/// Images that one command fetches at a time.
const CONCURRENCY: usize = 3;

/// What the commands work on.
#[derive(Clone)]
pub struct Control {
    /// Rights, memory caches and imports.
    pub puller: Puller,
    /// Images and pins.
    pub store: Store,
    /// The principals that may read what is imported.
    pub keychain: Keychain,
    /// Says how a pull would go.
    pub explainer: Explainer,
    /// The shared tier, which is tried.
    pub tier: Tier,
    /// Fetches images.
    pub fetcher: Fetcher,
    /// The configuration in effect.
    pub config: Arc<dyn Fn() -> EffectiveConfig + Send + Sync>,
    /// Makes the whole report.
    pub report: Arc<dyn Fn() -> BoxFuture<'static, StatusReport> + Send + Sync>,
    /// Runs pull commands, which end with the shutdown, and lists of images.
    pub tasks: Tasks,
    /// Ends pull commands.
    pub shutdown: Shutdown,
}

/// The commands as a service for a [`crate::listener`].
pub fn service(control: Control) -> Service {
    BoxCloneSyncService::new(service_fn(move |request: Request<Incoming>| {
        let control = control.clone();
        async move {
            let answered = control.answer(request).await;
            let failed = |error: CommandError| text(error.status, &format!("{}\n", error.message));
            Ok::<_, Infallible>(answered.unwrap_or_else(failed))
        }
    }))
}

impl Control {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, CommandError> {
        let path = request.uri().path().to_owned();
        if request.method() == Method::PUT && [import::BLOB, import::MANIFEST].contains(&path.as_str()) {
            return import::receive(self.puller.importer(), request).await;
        }
        if request.method() != Method::POST {
            let message = "commands are posted".to_owned();
            return Err(CommandError { status: StatusCode::METHOD_NOT_ALLOWED, message });
        }
        let body = Limited::new(request.into_body(), COMMAND_BYTES_MAX).collect().await;
        let body = body.map_err(|error| {
            CommandError::bad(format!(
                "the command cannot be read ({error}); at most {COMMAND_BYTES_MAX} bytes are"
            ))
        })?;
        self.run(&path, &body.to_bytes()).await
    }

    async fn run(&self, path: &str, body: &[u8]) -> Result<Response<Body>, CommandError> {
        match path {
            Revoke::PATH => reply::<Revoke>(&self.revoke(&read(body)?).await?),
            ListImages::PATH => {
                let ListImages {} = read(body)?;
                Ok(images::list(self.store.clone(), &self.tasks))
            }
            GetReport::PATH => {
                let GetReport {} = read(body)?;
                reply::<GetReport>(&(self.report)().await)
            }
            Explain::PATH => reply::<Explain>(&self.explainer.explain(&read(body)?).await?),
            GetConfig::PATH => {
                let GetConfig {} = read(body)?;
                reply::<GetConfig>(&(self.config)())
            }
            ProbeTier::PATH => {
                let ProbeTier {} = read(body)?;
                reply::<ProbeTier>(&self.tier.probe().await)
            }
            MatchCredentials::PATH => {
                let command: MatchCredentials = read(body)?;
                reply::<MatchCredentials>(&command.matched(&self.keychain).await?)
            }
            Remove::PATH => reply::<Remove>(&self.remove(&read(body)?).await?),
            Unpin::PATH => {
                let Image { repository, reference } =
                    read::<Unpin>(body)?.image.parse().map_err(CommandError::bad)?;
                let unpinned = self.store.unpin(&repository, &reference).await;
                reply::<Unpin>(&Unpinned { unpinned: unpinned.map_err(CommandError::failed)? })
            }
            CollectGarbage::PATH => {
                let CollectGarbage {} = read(body)?;
                let freed_bytes = self.store.enforce_budget().await.map_err(CommandError::failed)?;
                reply::<CollectGarbage>(&Collected { freed_bytes })
            }
            ImportNames::PATH => import::name(self.puller.importer(), &self.keychain, &read(body)?).await,
            Pull::PATH => self.pull(&read(body)?),
            _ => Err(CommandError {
                status: StatusCode::NOT_FOUND,
                message: "this daemon does not know that command: is it older?".to_owned(),
            }),
        }
    }

    async fn revoke(&self, command: &Revoke) -> Result<Revoked, CommandError> {
        let repository = command.repository.as_deref().map(str::parse::<Repository>).transpose();
        let repository = repository.map_err(CommandError::bad)?;
        let repository = repository.map(|named| named.canonical()).transpose().map_err(CommandError::bad)?;
        let revoked = self.puller.revoke(repository.as_ref()).await.map_err(CommandError::failed)?;
        Ok(Revoked { revoked })
    }

    async fn remove(&self, command: &Remove) -> Result<Removed, CommandError> {
        let Image { repository, reference } = command.image.parse().map_err(CommandError::bad)?;
        let removed = self.store.remove_image(&repository, &reference).await;
        // Whatever came of it: what is remembered of the image may be gone from the disk.
        self.puller.forget(&repository, &reference);
        let store::RemovedImage { tags, pins, blobs, bytes } = removed.map_err(CommandError::failed)?;
        Ok(Removed { tags, pins, blobs, bytes })
    }

    /// Begins to fetch images; the answer is a line for each event. When the client hangs up, the command ends after
    /// the images under way.
    fn pull(&self, command: &Pull) -> Result<Response<Body>, CommandError> {
        let order = command.order(CONCURRENCY).map_err(CommandError::bad)?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (fetcher, mut shutdown) = (self.fetcher.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                _ = fetcher.run(order, sender) => {}
                () = shutdown.requested() => {}
            }
        });
        let lines = writes_often::lines(events).map(|bytes| Ok(BodyChunk::from(bytes)));
        let mut answer = Response::new(Body::stream(lines));
        answer.headers_mut().insert(writes_often::FIELD, HeaderValue::from_static("yes"));
        Ok(answer)
    }
}

fn read<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, CommandError> {
    serde_json::from_slice(body).map_err(|error| {
        let place = place(&error);
        CommandError::bad(format!(
            "this daemon does not understand the command ({place}): is it of another version?"
        ))
    })
}

/// The reply that the command's sender expects.
fn reply<C: ControlCommand>(reply: &C::Reply) -> Result<Response<Body>, CommandError> {
    json(reply).map_err(CommandError::failed)
}
