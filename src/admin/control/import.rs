//! Receiving an image: its blobs one by one, its manifests, then its names.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::body::Incoming;

use super::commands::{ImportNames, Imported, Readers};
use super::{Refusal, bad, failed, json};
use crate::credentials::{Keychain, PullSecrets};
use crate::listener::Body;
use crate::pull::{self, Puller};
use crate::reference::{Digest, MANIFEST_BYTES_MAX, Principal, Reference, Repository};
use futures_util::TryStreamExt;

/// Where blobs are put: `?repository=R&digest=D&size=N`.
pub const BLOB: &str = "/v1/import/blob";
/// Where manifests are put: `?repository=R&digest=D`.
pub const MANIFEST: &str = "/v1/import/manifest";

/// Receives a blob or a manifest.
pub(super) async fn receive(puller: &Puller, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let value = |name: &str| {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
            .ok_or_else(|| bad(format!("{name} is missing")))
    };
    let repository: Repository = value("repository")?.parse().map_err(bad)?;
    let digest: Digest = value("digest")?.parse().map_err(bad)?;
    if request.uri().path() == MANIFEST {
        let body = Limited::new(request.into_body(), MANIFEST_BYTES_MAX).collect().await;
        let bytes: Bytes = body.map_err(|_| bad("a manifest that is too large, or broke off"))?.to_bytes();
        puller.importer().manifest(&repository, digest, bytes).await.map_err(refused)?;
    } else {
        let size: u64 = value("size")?.parse().map_err(bad)?;
        let bytes = BodyStream::new(request.into_body())
            .try_filter_map(|frame| std::future::ready(Ok(frame.into_data().ok())));
        puller.importer().blob(&repository, digest, size, bytes).await.map_err(refused)?;
    }
    json(&Imported {})
}

/// Says what the names are.
pub(super) async fn name(
    puller: &Puller,
    keychain: &Keychain,
    command: &ImportNames,
) -> Result<Response<Body>, Refusal> {
    let image: crate::reference::Image = command.image.parse().map_err(bad)?;
    let digest: Digest = command.digest.parse().map_err(bad)?;
    let tag = match &image.reference {
        Reference::Tag(tag) => Some((tag, digest)),
        Reference::Digest(_) => None,
    };
    let readers = readers(keychain, &image.repository, &command.readers).await?;
    puller.importer().names(&image.repository, tag, &readers).await.map_err(refused)?;
    json(&Imported {})
}

/// Who they are.
async fn readers(
    keychain: &Keychain,
    repository: &Repository,
    readers: &Readers,
) -> Result<Vec<Principal>, Refusal> {
    let found: Vec<Principal> = match readers {
        Readers::Anybody => vec![keychain.anonymous_principal()],
        Readers::Node => keychain.node_principals(repository).await,
        Readers::Secrets(secrets) => {
            let mut merged = PullSecrets::default();
            for secret in secrets {
                merged.add(secret.file.as_ref(), secret.content.as_bytes()).map_err(bad)?;
            }
            keychain
                .pull_secret_credentials(&merged, repository)
                .into_iter()
                .map(|shown| shown.principal)
                .collect()
        }
    };
    if found.is_empty() {
        return Err(bad(format!("none of the credentials is for {repository}: nobody could read it")));
    }
    Ok(found)
}

fn refused(error: pull::Error) -> Refusal {
    match error.fault() {
        pull::Fault::Invalid => bad(error),
        _ => failed(error),
    }
}
