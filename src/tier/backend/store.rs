//! The trait of [`super::super::objects`] over a store of the crate object_store.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    GetResult, GetResultPayload, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload,
};
use tokio::sync::Mutex;

use super::failure::{error_of, error_of_create};
use super::file_threads::FileThreads;
use super::kept_credential::AtHand;
use crate::support::clock::Timestamp;
use crate::tier::error::{Error, ErrorKind};
use crate::tier::objects::{Chunks, List, Listed, Multipart, Object, Objects, Replace, shareable};

/// Bytes of a file that are read at a time.
const FILE_CHUNK: usize = 256 * 1024;

/// What stands before every key.
#[derive(Debug)]
pub(super) enum Base {
    /// Nothing.
    Root,
    /// A directory, which must be there: that of a file system that is not mounted is not made.
    Directory(PathBuf, Path, Arc<FileThreads>),
}

/// A store. Its requests hold what they need, so that those to a file system may go on after their caller gave up.
#[derive(Debug, Clone)]
pub(super) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Sends each request once.
    store: Arc<dyn ObjectStore>,
    /// The same one; what it writes is sent again where that may help.
    writing: Arc<dyn ObjectStore>,
    /// The credential that both use, where it has to be fetched.
    credential: Option<Arc<dyn AtHand>>,
    base: Base,
}

impl Store {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        writing: Arc<dyn ObjectStore>,
        credential: Option<Arc<dyn AtHand>>,
    ) -> Self {
        Self(Arc::new(Inner { store, writing, credential, base: Base::Root }))
    }

    /// A store on this machine.
    pub(super) fn over(store: Arc<dyn ObjectStore>, base: Base) -> Self {
        Self(Arc::new(Inner { writing: Arc::clone(&store), store, credential: None, base }))
    }

    /// Carries out a request where it blocks no thread of the daemon.
    async fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        match &self.0.base {
            Base::Root => request.await,
            Base::Directory(.., threads) => threads.run(request).await,
        }
    }

    fn threads(&self) -> Option<Arc<FileThreads>> {
        match &self.0.base {
            Base::Root => None,
            Base::Directory(.., threads) => Some(Arc::clone(threads)),
        }
    }
}

impl Inner {
    async fn path(&self, key: &str) -> Result<Path, Error> {
        let key = match &self.base {
            Base::Root => key.to_owned(),
            Base::Directory(directory, path, _) => {
                let (directory, object) = (directory.clone(), directory.join(key));
                let looking = move || (directory.is_dir(), is_file_or_new(object.symlink_metadata()));
                let (is_there, is_usable) =
                    tokio::task::spawn_blocking(looking).await.unwrap_or((false, false));
                if !is_there {
                    return Err(Error::new(ErrorKind::Unavailable, "its directory is not there"));
                }
                if !is_usable {
                    return Err(Error::new(ErrorKind::NotFound, "what is there is no file"));
                }
                format!("{path}/{key}")
            }
        };
        Path::parse(key).map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))
    }
}

/// Whether an object can be at a place: to open a pipe would wait for its other end. Directories are listed.
fn is_file_or_new(found: io::Result<std::fs::Metadata>) -> bool {
    found.map_or(true, |found| found.is_file() || found.is_dir())
}

impl Objects for Store {
    fn credential(&self) -> Option<BoxFuture<'_, Result<(), Error>>> {
        self.0.credential.as_ref().map(|credential| credential.fetched())
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Object, Error>> {
        Box::pin(async move {
            let (inner, key) = (Arc::clone(&self.0), key.to_owned());
            let getting = async move {
                let path = inner.path(&key).await?;
                inner.store.get(&path).await.map_err(|error| error_of(&error))
            };
            let found = self.run(getting).await?;
            let (size, modified) = (found.meta.size, stamp(found.meta.last_modified.timestamp()));
            Ok(Object { size, modified, body: chunks(found, self.threads()) })
        })
    }

    fn put<'a>(&'a self, key: &'a str, content: Bytes, replace: Replace) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mode = match replace {
                Replace::Anything => PutMode::Overwrite,
                Replace::Nothing => PutMode::Create,
            };
            let (inner, key) = (Arc::clone(&self.0), key.to_owned());
            let putting = async move {
                let (path, options) = (inner.path(&key).await?, PutOptions::from(mode));
                let put = inner.store.put_opts(&path, PutPayload::from_bytes(content), options).await;
                put.map(drop).map_err(|error| match replace {
                    Replace::Anything => error_of(&error),
                    Replace::Nothing => error_of_create(&error),
                })
            };
            self.run(putting).await
        })
    }

    fn begin<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Box<dyn Multipart>, Error>> {
        Box::pin(async move {
            let (inner, key) = (Arc::clone(&self.0), key.to_owned());
            let beginning = async move {
                let path = inner.path(&key).await?;
                inner.writing.put_multipart(&path).await.map_err(|error| error_of(&error))
            };
            let upload = self.run(beginning).await?;
            Ok(Box::new(Parts { upload: Arc::new(Mutex::new(upload)), store: self.clone() })
                as Box<dyn Multipart>)
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let (inner, key) = (Arc::clone(&self.0), key.to_owned());
            let deleting = async move {
                let path = inner.path(&key).await?;
                inner.store.delete(&path).await.map_err(|error| error_of(&error))
            };
            self.run(deleting).await
        })
    }

    fn list<'a>(&'a self, directory: &str) -> List<'a> {
        let directory = directory.to_owned();
        let listing = async move {
            let path = self.0.path(&directory).await?;
            let cut = match &self.0.base {
                Base::Root => 0,
                Base::Directory(_, base, _) => base.as_ref().len() + 1,
            };
            let listed = move |meta: ObjectMeta| Listed {
                key: meta.location.as_ref().get(cut..).unwrap_or_default().to_owned(),
                size: meta.size,
                modified: stamp(meta.last_modified.timestamp()),
            };
            Ok(self.0.store.list(Some(&path)).map_ok(listed).map_err(|error| error_of(&error)))
        };
        Box::pin(stream::once(listing).try_flatten())
    }
}

fn stamp(seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(seconds).unwrap_or(0))
}

struct Parts {
    upload: Arc<Mutex<Box<dyn MultipartUpload>>>,
    store: Store,
}

impl Multipart for Parts {
    fn part(&mut self, content: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        let (upload, store) = (Arc::clone(&self.upload), self.store.clone());
        Box::pin(async move {
            let sending = async move {
                let part = upload.lock().await.put_part(content.into());
                part.await.map_err(|error| error_of(&error))
            };
            store.run(sending).await
        })
    }

    fn complete(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        let upload = Arc::clone(&self.upload);
        let completing =
            async move { upload.lock().await.complete().await.map(drop).map_err(|error| error_of(&error)) };
        Box::pin(self.store.run(completing))
    }

    fn abort(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        let upload = Arc::clone(&self.upload);
        let aborting = async move { upload.lock().await.abort().await.map_err(|error| error_of(&error)) };
        Box::pin(self.store.run(aborting))
    }
}

/// The body of an object. A file is read in larger chunks than the crate reads it in.
fn chunks(found: GetResult, threads: Option<Arc<FileThreads>>) -> Chunks {
    match (found.payload, threads) {
        (GetResultPayload::Stream(stream), _) => shareable(stream.map_err(|error| error_of(&error))),
        (GetResultPayload::File(file, _), Some(threads)) => {
            shareable(stream::try_unfold((file, threads), |(mut file, threads)| async move {
                let read = move || {
                    let mut chunk = Vec::with_capacity(FILE_CHUNK);
                    (&mut file).take(FILE_CHUNK as u64).read_to_end(&mut chunk).map(|_| (chunk, file))
                };
                let (chunk, file) = threads.call(read).await?;
                Ok(if chunk.is_empty() { None } else { Some((Bytes::from(chunk), (file, threads))) })
            }))
        }
        (GetResultPayload::File(..), None) => {
            let why = "a file, of a store that is no directory";
            shareable(stream::once(async move { Err(Error::new(ErrorKind::Unavailable, why)) }))
        }
    }
}
