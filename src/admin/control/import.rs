//! Receiving an image: its blobs one by one, its manifests, then its names.

use futures_util::TryStreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::body::Incoming;

use super::commands::{ImportNames, Imported, Readers};
use super::error::CommandError;
use crate::admin::respond::json;
use crate::credentials::{Keychain, PullSecrets};
use crate::listener::Body;
use crate::pull::{self, Importer};
use crate::reference::{Digest, Image, MANIFEST_BYTES_MAX, Principal, Reference, Repository};

/// Where blobs are put: `?repository=R&digest=D&size=N`.
pub const BLOB: &str = "/v1/import/blob";
/// Where manifests are put: `?repository=R&digest=D`.
pub const MANIFEST: &str = "/v1/import/manifest";

/// Receives a blob or a manifest.
pub(super) async fn receive(
    importer: &Importer,
    request: Request<Incoming>,
) -> Result<Response<Body>, CommandError> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let value = |name: &str| {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
            .ok_or_else(|| CommandError::bad(format!("{name} is missing")))
    };
    let repository: Repository = value("repository")?.parse().map_err(CommandError::bad)?;
    let digest: Digest = value("digest")?.parse().map_err(CommandError::bad)?;
    if request.uri().path() == MANIFEST {
        let body = Limited::new(request.into_body(), MANIFEST_BYTES_MAX).collect().await;
        let body = body.map_err(|error| {
            CommandError::bad(format!(
                "the manifest cannot be read ({error}); at most {MANIFEST_BYTES_MAX} bytes are"
            ))
        })?;
        importer.manifest(&repository, digest, body.to_bytes()).await.map_err(refused)?;
    } else {
        let size: u64 = value("size")?.parse().map_err(CommandError::bad)?;
        let bytes = BodyStream::new(request.into_body())
            .try_filter_map(|frame| std::future::ready(Ok(frame.into_data().ok())));
        importer.blob(&repository, digest, size, bytes).await.map_err(refused)?;
    }
    json(&Imported {}).map_err(CommandError::failed)
}

/// Gives an image its name, and lets its readers read it.
pub(super) async fn name(
    importer: &Importer,
    keychain: &Keychain,
    command: &ImportNames,
) -> Result<Response<Body>, CommandError> {
    let image: Image = command.image.parse().map_err(CommandError::bad)?;
    let digest: Digest = command.digest.parse().map_err(CommandError::bad)?;
    let tag = match &image.reference {
        Reference::Tag(tag) => Some((tag, digest)),
        Reference::Digest(_) => None,
    };
    let readers = principals(keychain, &image.repository, &command.readers).await?;
    importer.names(&image.repository, tag, &readers).await.map_err(refused)?;
    json(&Imported {}).map_err(CommandError::failed)
}

/// The principals of the readers of an image.
async fn principals(
    keychain: &Keychain,
    repository: &Repository,
    readers: &Readers,
) -> Result<Vec<Principal>, CommandError> {
    let found: Vec<Principal> = match readers {
        Readers::Public => vec![keychain.anonymous_principal()],
        Readers::Node => keychain.node_principals(repository).await,
        Readers::Secrets(secrets) => {
            let mut merged = PullSecrets::default();
            for secret in secrets {
                let added = merged.add(secret.file.as_ref(), secret.content.as_bytes());
                added.map_err(CommandError::bad)?;
            }
            let credentials = keychain.pull_secret_credentials(&merged, repository);
            credentials.into_iter().map(|presented| presented.principal).collect()
        }
    };
    if found.is_empty() {
        let why = format!("none of the credentials is for {repository}: no caller could read the image");
        return Err(CommandError::bad(why));
    }
    Ok(found)
}

fn refused(error: pull::Error) -> CommandError {
    match error.fault() {
        pull::Fault::Invalid => CommandError::bad(error),
        _ => CommandError::failed(error),
    }
}
