//! Receiving an image: its blobs one by one, its manifests, then its names.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::body::Incoming;

use super::commands::{ImportNames, Imported, PutOutcome, Readers};
use super::error::CommandError;
use super::writes_often;
use crate::admin::respond::json;
use crate::credentials::{Keychain, PullSecrets};
use crate::listener::Body;
use crate::pull::{self, Importer};
use crate::reference::{Digest, Image, MANIFEST_BYTES_MAX, Principal, Reference, Repository};
use crate::support::body_chunk::BodyChunk;

/// Where blobs are put: `?repository=R&digest=D&size=N`.
pub const BLOB: &str = "/v1/import/blob";
/// Where manifests are put: `?repository=R&digest=D`.
pub const MANIFEST: &str = "/v1/import/manifest";

/// What is put.
struct Put {
    repository: Repository,
    digest: Digest,
    kind: Kind,
}

enum Kind {
    Manifest,
    Blob { size: u64 },
}

/// Receives a blob or a manifest. Where it is asked for, the answer begins at once and is written to often: a client
/// need not wait for a daemon that hangs.
pub(super) async fn receive(
    importer: &Importer,
    request: Request<Incoming>,
) -> Result<Response<Body>, CommandError> {
    let put = Put::of(&request)?;
    let asks_for_signs = request.headers().contains_key(writes_often::FIELD);
    let importer = importer.clone();
    let work = async move { put.receive(&importer, request.into_body()).await };
    if !asks_for_signs {
        work.await?;
        return json(&Imported {}).map_err(CommandError::failed);
    }
    let outcome = async {
        let outcome = match work.await {
            Ok(()) => PutOutcome::Stored,
            Err(error) => PutOutcome::Refused(error.message),
        };
        serde_json::to_vec(&outcome).unwrap_or_default()
    };
    let said = writes_often::until_done(outcome).map(|bytes| Ok(BodyChunk::from(bytes)));
    let mut answer = Response::new(Body::stream(said));
    answer.headers_mut().insert(writes_often::FIELD, HeaderValue::from_static("yes"));
    Ok(answer)
}

impl Put {
    fn of(request: &Request<Incoming>) -> Result<Self, CommandError> {
        let query = request.uri().query().unwrap_or_default();
        let value = |name: &str| {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.into_owned())
                .ok_or_else(|| CommandError::bad(format!("{name} is missing")))
        };
        Ok(Self {
            repository: value("repository")?.parse().map_err(CommandError::bad)?,
            digest: value("digest")?.parse().map_err(CommandError::bad)?,
            kind: match request.uri().path() {
                MANIFEST => Kind::Manifest,
                _ => Kind::Blob { size: value("size")?.parse().map_err(CommandError::bad)? },
            },
        })
    }

    async fn receive(self, importer: &Importer, body: Incoming) -> Result<(), CommandError> {
        let Self { repository, digest, kind } = self;
        let received = match kind {
            Kind::Manifest => {
                let bytes = Limited::new(body, MANIFEST_BYTES_MAX).collect().await.map_err(|error| {
                    CommandError::bad(format!(
                        "the manifest cannot be read ({error}); at most {MANIFEST_BYTES_MAX} bytes are"
                    ))
                })?;
                importer.manifest(&repository, digest, bytes.to_bytes()).await
            }
            Kind::Blob { size } => importer.blob(&repository, digest, size, bytes_of(body)).await,
        };
        received.map_err(refused)
    }
}

fn bytes_of(body: Incoming) -> impl Stream<Item = Result<Bytes, hyper::Error>> {
    BodyStream::new(body).try_filter_map(|frame| std::future::ready(Ok(frame.into_data().ok())))
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
