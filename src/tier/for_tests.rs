//! A tier over an object store of the test's own, in memory.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;

use super::config::Config;
use super::error::{Error, ErrorKind};
use super::handle::Tier;
use super::metrics::Metrics;
use super::objects::{List, Listed, Multipart, Object, Objects, Replace, shareable};
use super::{Found, Lookup, Upload};
use crate::credentials::ClusterKey;
use crate::reference::{self, Digest};
use crate::support::clock::{Clock, Timestamp};
use crate::support::metrics::Registry;

/// An object store that does what the test says. Cheap to clone; clones share the objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeObjects(Arc<Mutex<State>>);

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Get,
    Put,
    Begin,
    Delete,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    /// Bodies break off after so many bytes.
    breaks_after: Option<usize>,
    /// Nothing comes of a body after so many bytes.
    stalls_after: Option<usize>,
    /// How long objects that are read and written take.
    answers_after: Duration,
    /// How long each chunk of 10,000 bytes takes.
    pause: Duration,
    /// Every request fails like this.
    fails: Option<ErrorKind>,
    /// The next requests, so many, of an operation at keys of a kind fail like this.
    fails_at: Option<(Op, &'static str, ErrorKind, usize)>,
    /// What is deleted stays, although it is answered as deleted.
    keeps_deleted: bool,
    /// Requests of an operation at keys of a kind are never answered.
    hangs_at: Option<(Op, &'static str)>,
    asked: Vec<(Op, String)>,
    /// An object that is not there is answered as refused access.
    hides_absence: bool,
    /// When objects were written that were not written at the usual time.
    times: BTreeMap<String, Timestamp>,
    now: Option<Timestamp>,
    /// It ignores that an object is to be created only if there is none.
    creates_twice: bool,
    requests: usize,
    parts: Vec<usize>,
    aborted: usize,
}

impl FakeObjects {
    /// A tier over it.
    pub(crate) fn tier(&self) -> Tier {
        self.tier_with(|_| {})
    }

    /// The same with other settings.
    pub(crate) fn tier_with(&self, change: impl FnOnce(&mut Config)) -> Tier {
        let mut config = Config::at("s3://bucket".parse().unwrap());
        change(&mut config);
        let metrics = Metrics::register(&Registry::new()).unwrap();
        Tier::over(config, Arc::new(self.clone()), None, Clock::manual(Timestamp(1_000)), metrics)
    }

    /// The same with names that are shared; all such tiers have the same key.
    pub(crate) fn sharing_tier(&self) -> Tier {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, [7; 32]).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let key = Some(ClusterKey::read(&path).unwrap());
        let (config, clock) = (Config::at("s3://bucket".parse().unwrap()), Clock::manual(Timestamp(1_000)));
        let metrics = Metrics::register(&Registry::new()).unwrap();
        Tier::over(config, Arc::new(self.clone()), key, clock, metrics)
    }

    /// The keys of the objects of a kind.
    pub(crate) fn keys(&self, kind: &str) -> Vec<String> {
        let part = format!("/{kind}/");
        self.0.lock().objects.keys().filter(|key| key.contains(&part)).cloned().collect()
    }

    pub(crate) fn content(&self, key: &str) -> Option<Bytes> {
        self.0.lock().objects.get(key).cloned()
    }

    pub(crate) fn replace(&self, key: &str, content: impl Into<Bytes>) {
        self.0.lock().objects.insert(key.to_owned(), content.into());
    }

    pub(crate) fn remove(&self, key: &str) {
        self.0.lock().objects.remove(key);
    }

    pub(crate) fn break_off_after(&self, bytes: Option<usize>) {
        self.0.lock().breaks_after = bytes;
    }

    pub(crate) fn stall_after(&self, bytes: Option<usize>) {
        self.0.lock().stalls_after = bytes;
    }

    pub(crate) fn answer_after(&self, delay: Duration) {
        self.0.lock().answers_after = delay;
    }

    /// Waits as long as an answer takes.
    async fn answers(&self) {
        let delay = self.0.lock().answers_after;
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
    }

    pub(crate) fn pause_before_chunks(&self, pause: Duration) {
        self.0.lock().pause = pause;
    }

    pub(crate) fn fail(&self, kind: Option<ErrorKind>) {
        self.0.lock().fails = kind;
    }

    pub(crate) fn hide_absence(&self) {
        self.0.lock().hides_absence = true;
    }

    /// Objects without a time of their own were written at `now`.
    pub(crate) fn set_now(&self, now: Timestamp) {
        self.0.lock().now = Some(now);
    }

    /// The object was written at `at`.
    pub(crate) fn date(&self, key: &str, at: Timestamp) {
        self.0.lock().times.insert(key.to_owned(), at);
    }

    pub(crate) fn create_twice(&self) {
        self.0.lock().creates_twice = true;
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.0.lock().requests
    }

    /// The sizes of the parts that were written.
    pub(crate) fn parts(&self) -> Vec<usize> {
        self.0.lock().parts.clone()
    }

    /// Uploads that were thrown away.
    pub(crate) fn aborted(&self) -> usize {
        self.0.lock().aborted
    }

    /// The next `times` requests of `op` at the objects of a kind fail.
    pub(crate) fn fail_at(&self, op: Op, kind: &'static str, error: ErrorKind, times: usize) {
        self.0.lock().fails_at = Some((op, kind, error, times));
    }

    /// From now on what is deleted stays, although it is answered as deleted.
    pub(crate) fn keep_deleted(&self) {
        self.0.lock().keeps_deleted = true;
    }

    /// From now on `op` at the objects of a kind is never answered: for [`Op::Put`] also one of their parts.
    pub(crate) fn hang_at(&self, op: Op, kind: &'static str) {
        self.0.lock().hangs_at = Some((op, kind));
    }

    async fn hang_if_told(&self, op: Op, key: &str) {
        let hangs = self.0.lock().hangs_at.is_some_and(|(at, kind)| at == op && key.contains(kind));
        if hangs {
            std::future::pending().await
        }
    }

    /// How often `op` was asked for of objects of a kind.
    pub(crate) fn asked(&self, op: Op, kind: &str) -> usize {
        let part = format!("/{kind}/");
        self.0.lock().asked.iter().filter(|(asked, key)| *asked == op && key.contains(&part)).count()
    }

    fn check_at(&self, op: Op, key: &str) -> Result<(), Error> {
        self.check()?;
        let mut state = self.0.lock();
        state.asked.push((op, key.to_owned()));
        match &mut state.fails_at {
            Some((at, kind, error, times)) if *at == op && key.contains(*kind) && *times > 0 => {
                *times -= 1;
                Err(Error::new(*error, "as the test says"))
            }
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let mut state = self.0.lock();
        state.requests += 1;
        state.fails.map_or(Ok(()), |kind| Err(Error::new(kind, "as the test says")))
    }
}

impl Objects for FakeObjects {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Object, Error>> {
        Box::pin(async move {
            self.check_at(Op::Get, key)?;
            self.answers().await;
            let state = self.0.lock();
            let content = state.objects.get(key).cloned();
            let absent = if state.hides_absence { ErrorKind::Denied } else { ErrorKind::NotFound };
            let content = content.ok_or_else(|| Error::new(absent, "none"))?;
            let modified = state.times.get(key).copied().or(state.now).unwrap_or(Timestamp(1_000));
            let size = content.len() as u64;
            let (pause, stalls) = (state.pause, state.stalls_after.filter(|at| *at < content.len()));
            let until = state.breaks_after.or(stalls).unwrap_or(content.len()).min(content.len());
            let mut chunks: Vec<Result<Bytes, Error>> =
                content[..until].chunks(10_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            if until < content.len() && stalls.is_none() {
                chunks.push(Err(Error::new(ErrorKind::Unavailable, "broken off")));
            }
            let chunks = stream::iter(chunks).then(move |chunk| async move {
                // Also none at all takes a tick.
                if pause > Duration::ZERO {
                    tokio::time::sleep(pause).await;
                }
                chunk
            });
            let body = match stalls {
                None => shareable(chunks),
                Some(_) => shareable(chunks.chain(stream::pending())),
            };
            Ok(Object { size, modified, body })
        })
    }

    fn put<'a>(&'a self, key: &'a str, content: Bytes, replace: Replace) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.check_at(Op::Put, key)?;
            self.hang_if_told(Op::Put, key).await;
            self.answers().await;
            let mut state = self.0.lock();
            if replace == Replace::Nothing && !state.creates_twice && state.objects.contains_key(key) {
                return Err(Error::new(ErrorKind::Exists, "there is one"));
            }
            state.objects.insert(key.to_owned(), content);
            Ok(())
        })
    }

    fn begin<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Box<dyn Multipart>, Error>> {
        Box::pin(async move {
            self.check_at(Op::Begin, key)?;
            let upload = FakeUpload { store: self.clone(), key: key.to_owned(), content: Arc::default() };
            Ok(Box::new(upload) as Box<dyn Multipart>)
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.check_at(Op::Delete, key)?;
            let mut state = self.0.lock();
            if !state.keeps_deleted {
                state.objects.remove(key);
            }
            Ok(())
        })
    }

    fn list<'a>(&'a self, directory: &str) -> List<'a> {
        let state = self.0.lock();
        let listed: Vec<_> = (state.objects.iter())
            .filter(|(key, _)| key.starts_with(directory))
            .map(|(key, content)| {
                let size = content.len() as u64;
                let modified = state.times.get(key).copied().or(state.now).unwrap_or(Timestamp(1_000));
                Ok(Listed { key: key.clone(), size, modified })
            })
            .collect();
        Box::pin(stream::iter(listed))
    }
}

struct FakeUpload {
    store: FakeObjects,
    key: String,
    content: Arc<Mutex<BytesMut>>,
}

impl Multipart for FakeUpload {
    fn part(&mut self, content: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        let (store, key, whole) = (self.store.clone(), self.key.clone(), Arc::clone(&self.content));
        Box::pin(async move {
            store.check()?;
            store.hang_if_told(Op::Put, &key).await;
            store.0.lock().parts.push(content.len());
            whole.lock().extend_from_slice(&content);
            Ok(())
        })
    }

    fn complete(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.store.check()?;
            self.store.replace(&self.key, self.content.lock().clone().freeze());
            Ok(())
        })
    }

    fn abort(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.store.0.lock().aborted += 1;
            Ok(())
        })
    }
}

pub(crate) const MIB: usize = 1024 * 1024;

/// The registry whose content the tests write and read.
pub(crate) fn registry() -> reference::Registry {
    "reg.test".parse().unwrap()
}

/// Writes a blob as a node does that receives it in chunks.
pub(crate) async fn write(tier: &Tier, content: &[u8]) -> Digest {
    let digest = Digest::of(content);
    let upload = tier.begin_upload(&registry(), digest, content.len() as u64).await.unwrap();
    send(upload, content, true).await;
    digest
}

/// Sends the parts of a content, the last one too if it `completes`.
pub(crate) async fn send(mut upload: Upload, content: &[u8], completes: bool) {
    loop {
        let mut permit = upload.permit().await.unwrap();
        let part = upload.next_part();
        let mut bytes = permit.memory();
        bytes.extend_from_slice(&content[part.start as usize..part.end as usize]);
        match (upload.is_last_part(), completes) {
            (false, _) => upload.send(bytes, permit).await.unwrap(),
            (true, true) => return upload.complete(bytes, permit).await.unwrap(),
            (true, false) => return upload.abort(),
        }
    }
}

/// All bytes of what was found.
pub(crate) async fn read(found: Found) -> Result<Vec<u8>, ErrorKind> {
    let (mut body, mut whole) = (found.body, Vec::new());
    while let Some(chunk) = body.next().await {
        whole.extend_from_slice(&chunk.map_err(|error| error.kind)?);
    }
    Ok(whole)
}

/// What the tier gives for a blob, whole.
pub(crate) async fn look(tier: &Tier, digest: Digest) -> Option<Vec<u8>> {
    match tier.blob(&registry(), digest).await {
        Lookup::Found(found) => read(found).await.ok(),
        Lookup::Absent | Lookup::Unavailable => None,
    }
}
