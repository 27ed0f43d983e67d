//! The trait of [`super::super::objects`] over a store of the crate object_store.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    Error as StoreError, GetResult, GetResultPayload, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutOptions, PutPayload,
};

use crate::support::clock::Timestamp;
use crate::tier::error::{Error, ErrorKind};
use crate::tier::http::Trouble;
use crate::tier::objects::{Chunks, List, Listed, Multipart, Object, Objects, Replace, shareable};

/// Bytes of a file that are read at a time.
const FILE_CHUNK: usize = 256 * 1024;
/// Bytes of the text of a cause at most.
const WHY_MAX: usize = 200;

/// What stands before every key.
#[derive(Debug)]
pub(super) enum Base {
    /// Nothing.
    Root,
    /// A directory, which must be there: that of a file system that is not mounted is not made.
    Directory(PathBuf, Path),
}

/// A store.
#[derive(Debug)]
pub(super) struct Store {
    /// Sends each request once.
    store: Arc<dyn ObjectStore>,
    /// The same one; what it writes is sent again where that may help.
    writing: Arc<dyn ObjectStore>,
    base: Base,
}

impl Store {
    pub(super) fn new(store: Arc<dyn ObjectStore>, writing: Arc<dyn ObjectStore>) -> Self {
        Self { store, writing, base: Base::Root }
    }

    /// A store on this machine.
    pub(super) fn over(store: Arc<dyn ObjectStore>, base: Base) -> Self {
        Self { writing: Arc::clone(&store), store, base }
    }

    async fn path(&self, key: &str) -> Result<Path, Error> {
        let key = match &self.base {
            Base::Root => key.to_owned(),
            Base::Directory(directory, path) => {
                let directory = directory.clone();
                let is_there = tokio::task::spawn_blocking(move || directory.is_dir()).await;
                if !is_there.unwrap_or(false) {
                    return Err(Error::new(ErrorKind::Unavailable, "its directory is not there"));
                }
                format!("{path}/{key}")
            }
        };
        Path::parse(key).map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))
    }
}

impl Objects for Store {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Object, Error>> {
        Box::pin(async move {
            let path = self.path(key).await?;
            let found = self.store.get(&path).await.map_err(|error| error_of(&error))?;
            let (size, modified) = (found.meta.size, stamp(found.meta.last_modified.timestamp()));
            Ok(Object { size, modified, body: chunks(found) })
        })
    }

    fn put<'a>(&'a self, key: &'a str, content: Bytes, replace: Replace) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let path = self.path(key).await?;
            let mode = match replace {
                Replace::Anything => PutMode::Overwrite,
                Replace::Nothing => PutMode::Create,
            };
            let options = PutOptions::from(mode);
            let put = self.store.put_opts(&path, PutPayload::from_bytes(content), options).await;
            put.map(drop).map_err(|error| error_of(&error))
        })
    }

    fn begin<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Box<dyn Multipart>, Error>> {
        Box::pin(async move {
            let path = self.path(key).await?;
            let upload = self.writing.put_multipart(&path).await.map_err(|error| error_of(&error))?;
            Ok(Box::new(Parts(upload)) as Box<dyn Multipart>)
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let path = self.path(key).await?;
            self.store.delete(&path).await.map_err(|error| error_of(&error))
        })
    }

    fn list<'a>(&'a self, directory: &str) -> List<'a> {
        let directory = directory.to_owned();
        let listing = async move {
            let path = self.path(&directory).await?;
            let cut = match &self.base {
                Base::Root => 0,
                Base::Directory(_, base) => base.as_ref().len() + 1,
            };
            let listed = move |meta: ObjectMeta| Listed {
                key: meta.location.as_ref().get(cut..).unwrap_or_default().to_owned(),
                size: meta.size,
                modified: stamp(meta.last_modified.timestamp()),
            };
            Ok(self.store.list(Some(&path)).map_ok(listed).map_err(|error| error_of(&error)))
        };
        Box::pin(stream::once(listing).try_flatten())
    }
}

fn stamp(seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(seconds).unwrap_or(0))
}

struct Parts(Box<dyn MultipartUpload>);

impl Multipart for Parts {
    fn part(&mut self, content: Vec<Bytes>) -> BoxFuture<'static, Result<(), Error>> {
        let part = self.0.put_part(content.into_iter().collect());
        Box::pin(async move { part.await.map_err(|error| error_of(&error)) })
    }

    fn complete(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.0.complete().await.map(drop).map_err(|error| error_of(&error)) })
    }

    fn abort(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.0.abort().await.map_err(|error| error_of(&error)) })
    }
}

/// The body of an object. A file is read in larger chunks than the crate reads it in.
fn chunks(found: GetResult) -> Chunks {
    match found.payload {
        GetResultPayload::Stream(stream) => shareable(stream.map_err(|error| error_of(&error))),
        GetResultPayload::File(file, _) => Box::pin(stream::try_unfold(file, |mut file| async move {
            let read = move || {
                let mut chunk = Vec::with_capacity(FILE_CHUNK);
                (&mut file).take(FILE_CHUNK as u64).read_to_end(&mut chunk).map(|_| (chunk, file))
            };
            let failed = |why: String| Error::new(ErrorKind::Unavailable, why);
            let read = tokio::task::spawn_blocking(read).await.map_err(|error| failed(error.to_string()))?;
            let (chunk, file) = read.map_err(|error| failed(error.to_string()))?;
            Ok(if chunk.is_empty() { None } else { Some((Bytes::from(chunk), file)) })
        })),
    }
}

/// What an error of the crate means. Its text may hold the body of an answer, which is not passed on.
fn error_of(error: &StoreError) -> Error {
    let kind = match error {
        StoreError::NotFound { .. } => ErrorKind::NotFound,
        StoreError::AlreadyExists { .. } => ErrorKind::Exists,
        StoreError::Precondition { .. } | StoreError::NotModified { .. } => ErrorKind::Changed,
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => ErrorKind::Unsupported,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    };
    let causes =
        std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    let mut last = String::new();
    for cause in causes {
        if let Some(Trouble(status)) = cause.downcast_ref() {
            let kind =
                if matches!(status, 429 | 503) { ErrorKind::Throttled } else { ErrorKind::Unavailable };
            return Error::new(kind, format!("it answered {status}"));
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::PermissionDenied
        {
            return Error::new(ErrorKind::Denied, "permission denied");
        }
        last = cause.to_string();
    }
    // Up to where the body of an answer would begin.
    let why = last.split(['<', '{', '\n']).next().unwrap_or_default().trim();
    let why: String = why.chars().take(WHY_MAX).collect();
    Error::new(kind, why)
}
