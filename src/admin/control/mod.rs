//! The control socket: commands that name repositories or change something, for the owner of the daemon.
//!
//! A unix socket of mode 0600, spoken to by the `larder` program itself in JSON over HTTP; no interface for others.

mod client;
mod commands;
mod import;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tower::util::{BoxCloneSyncService, service_fn};

pub use client::{ControlError, pull, put, send};
pub use commands::{
    AskReport, Command, ImageRow, ImportNames, Imported, ListImages, MakeRoom, Pull, PullImage, PullSecret,
    Readers, Remove, Removed, Revoke, Revoked, Room, Unpin, Unpinned,
};
pub use import::{BLOB as IMPORT_BLOB, MANIFEST as IMPORT_MANIFEST};

use super::{Report, Service, page_of, text};
use crate::credentials::Keychain;
use crate::listener::Body;
use crate::prepull::{Event, Fetcher};
use crate::pull::Puller;
use crate::reference::{Image, Repository};
use crate::store::Store;
use crate::support::body_chunk::BodyChunk;

/// Bytes of a command at most: a long list of images with their secrets.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Events that may wait to be read.
const EVENTS: usize = 256;
/// Images at a time.
const CONCURRENCY: usize = 3;

/// What the commands work on.
#[derive(Clone)]
pub struct Owned {
    /// Rights, memory caches and imports.
    pub puller: Puller,
    /// Images, pins and room.
    pub store: Store,
    /// Who may read what is imported.
    pub keychain: Keychain,
    /// Fetches images.
    pub fetcher: Fetcher,
    /// How the daemon stands.
    pub report: Arc<dyn Fn() -> Report + Send + Sync>,
}

/// Why a command is answered with an error.
type Refusal = (StatusCode, String);

/// The commands as a service for a [`crate::listener`].
pub fn service(owned: Owned) -> Service {
    BoxCloneSyncService::new(service_fn(move |request: Request<Incoming>| {
        let owned = owned.clone();
        async move {
            let answered = answer(&owned, request).await;
            Ok::<_, Infallible>(answered.unwrap_or_else(|(status, why)| text(status, &format!("{why}\n"))))
        }
    }))
}

async fn answer(owned: &Owned, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    if request.method() == Method::PUT && [import::BLOB, import::MANIFEST].contains(&path.as_str()) {
        return import::receive(&owned.puller, request).await;
    }
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "commands are posted".to_owned()));
    }
    let body = Limited::new(request.into_body(), BYTES_MAX).collect().await;
    let body = body.map_err(|_| bad("the command is too long, or broke off"))?.to_bytes();
    let puller = &owned.puller;
    match path.as_str() {
        Revoke::PATH => {
            let Revoke { repository } = read(&body)?;
            let repository: Option<Repository> =
                repository.as_deref().map(str::parse).transpose().map_err(bad)?;
            json(&Revoked { revoked: puller.revoke(repository.as_ref()).await.map_err(failed)? })
        }
        ListImages::PATH => {
            let ListImages {} = read(&body)?;
            json(&images(&owned.store).await.map_err(failed)?)
        }
        AskReport::PATH => {
            let AskReport {} = read(&body)?;
            json(&(owned.report)())
        }
        Remove::PATH => {
            let Image { repository, reference } = read::<Remove>(&body)?.image.parse().map_err(bad)?;
            let crate::store::RemovedImage { tags, pins, blobs, bytes } = {
                let removed = owned.store.remove_image(&repository, &reference).await;
                puller.forget(&repository, &reference);
                removed.map_err(failed)?
            };
            json(&Removed { tags, pins, blobs, bytes })
        }
        Unpin::PATH => {
            let Image { repository, reference } = read::<Unpin>(&body)?.image.parse().map_err(bad)?;
            json(&Unpinned { unpinned: owned.store.unpin(&repository, &reference).await.map_err(failed)? })
        }
        MakeRoom::PATH => {
            let MakeRoom {} = read(&body)?;
            json(&Room { freed_bytes: owned.store.enforce_budget().await.map_err(failed)? })
        }
        ImportNames::PATH => import::name(puller, &owned.keychain, &read(&body)?).await,
        Pull::PATH => fetch(&owned.fetcher, &read(&body)?),
        _ => Err((StatusCode::NOT_FOUND, "this daemon does not know that command: is it older?".to_owned())),
    }
}

/// Begins to fetch images; what becomes of them is told line by line. Who hangs up ends it after the images under way.
fn fetch(fetcher: &Fetcher, command: &Pull) -> Result<Response<Body>, Refusal> {
    let order = command.order(CONCURRENCY).map_err(bad)?;
    let (ear, events) = mpsc::channel(EVENTS);
    let fetcher = fetcher.clone();
    tokio::spawn(async move { fetcher.run(order, ear).await });
    let lines = stream::unfold(events, |mut events: mpsc::Receiver<Event>| async {
        let event = events.recv().await?;
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Some((Ok(BodyChunk::from(Bytes::from(line))), events))
    });
    Ok(Response::new(Body::stream(lines)))
}

/// Every name, and what is pinned by its digest alone.
async fn images(store: &Store) -> Result<Vec<ImageRow>, crate::store::Error> {
    let row = |cached: crate::store::CachedImage| ImageRow {
        image: cached.image.to_string(),
        digest: cached.digest.to_string(),
        confirmed_at: cached.confirmed_at,
        bytes: cached.bytes,
        platforms: cached.platforms,
        pinned: cached.pinned,
    };
    Ok(store.inventory().await?.into_iter().map(row).collect())
}

fn read<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|_| bad("this daemon does not understand the command: is it of another version?"))
}

/// It is not the command's fault.
fn failed(why: impl ToString) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, why.to_string())
}

fn bad(why: impl ToString) -> Refusal {
    (StatusCode::BAD_REQUEST, why.to_string())
}

fn json<T: Serialize>(answer: &T) -> Result<Response<Body>, Refusal> {
    let body = serde_json::to_vec(answer).map_err(failed)?;
    Ok(page_of("application/json", body))
}
