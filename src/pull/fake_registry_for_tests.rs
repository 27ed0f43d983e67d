//! A registry in memory that answers what the test says, for the unit tests of `pull`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::registry_client::{Answer, RegistryClient};
use crate::credentials::Credential;
use crate::reference::{Digest, Principal, Reference, Registry, Repository, Tag};
use crate::upstream::{
    Allowed, AuthContext, BlobHead, ConnectStage, DeliveryFault, Download, EndpointId, Error, Listing,
    Manifest, Page, Proof, ResolvedTag, Unknown,
};

/// A registry in memory that answers as the test set it up, and counts what it is asked.
#[derive(Default)]
pub(crate) struct FakeRegistry(Mutex<State>);

#[derive(Default)]
struct State {
    tags: HashMap<(Repository, Tag), Digest>,
    content: HashMap<(Repository, Digest), Bytes>,
    readers: HashMap<Repository, Vec<&'static str>>,
    failure: Option<Error>,
    /// What the endpoint `mirror` delivers, which is asked before the registry itself, the endpoint `registry`.
    mirrored: HashMap<(Repository, Digest), MirrorBody>,
    /// What was recorded of endpoints, by their names.
    faults: Vec<(String, Digest, DeliveryFault)>,
    /// What downloads from a repository wait for, and how they fail then.
    failing_downloads: HashMap<Repository, (Arc<Semaphore>, Error)>,
    /// After how many bytes the whole bodies of its blobs wait, and for permits of what.
    held: Option<(usize, Arc<Semaphore>)>,
    /// After how many bytes the whole bodies of its blobs break off.
    breaks_after: Option<usize>,
    /// So many bytes follow the end of a blob of which the rest was asked for.
    padding: usize,
    /// Whether each body of it begins with a piece without a byte.
    sends_empty_pieces: bool,
    /// How old the tokens are that it accepts.
    token_age: Duration,
    /// How long each manifest takes.
    delay: Duration,
    /// How long each other question about a manifest takes.
    answer_delay: Duration,
    asked: Vec<String>,
    /// Blobs that it has, and says to `HEAD` that it has not.
    denied_heads: Vec<(Repository, Digest)>,
}

/// A blob as a mirror has it.
#[derive(Debug, Clone)]
pub(crate) struct MirrorBody {
    /// Bytes of the blob, as it declares them.
    pub(crate) size: Option<u64>,
    pub(crate) bytes: Bytes,
    /// The offset at which each of its bodies breaks off.
    pub(crate) breaks_at: Option<usize>,
    /// How long each chunk of 10,000 bytes takes.
    pub(crate) chunk_takes: Duration,
}

impl MirrorBody {
    /// All of `bytes`, with their size.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self { size: Some(bytes.len() as u64), bytes, breaks_at: None, chunk_takes: Duration::ZERO }
    }

    fn download(&self, from: usize, until: usize) -> Download {
        let until = until.min(self.bytes.len()).min(self.breaks_at.unwrap_or(usize::MAX)).max(from);
        let mut chunks = chunks(&self.bytes.slice(from.min(self.bytes.len())..until));
        if self.breaks_at == Some(until) {
            let (host, stage) = ("mirror".to_owned(), ConnectStage::Body);
            chunks.push(Err(Error::Unreachable { host, stage, why: "broken off".to_owned() }));
        }
        let chunk_takes = self.chunk_takes;
        let paced = stream::iter(chunks).then(move |chunk| async move {
            tokio::time::sleep(chunk_takes).await;
            chunk
        });
        let endpoint = EndpointId::for_test("mirror");
        Download::new(self.size, from as u64, Proof::Public, endpoint, Box::pin(paced))
    }
}

/// The chunks, each of which waits for a permit where more bytes have come than is said.
fn held_back(
    chunks: Vec<Result<Bytes, Error>>,
    held: Option<(usize, Arc<Semaphore>)>,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + Sync + 'static {
    let mut sent = 0;
    stream::iter(chunks).then(move |chunk| {
        sent += chunk.as_ref().map_or(0, Bytes::len);
        let gate = held.clone().filter(|(after, _)| sent > *after).map(|(_, gate)| gate);
        async move {
            if let Some(gate) = gate
                && let Ok(permit) = gate.acquire().await
            {
                permit.forget();
            }
            chunk
        }
    })
}

fn chunks(bytes: &Bytes) -> Vec<Result<Bytes, Error>> {
    bytes.chunks(10_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect()
}

impl FakeRegistry {
    /// Puts a mirror before the registry, which has `body` under `digest`.
    pub(crate) fn mirror(&self, repository: &Repository, digest: Digest, body: MirrorBody) {
        self.0.lock().mirrored.insert((repository.clone(), digest), body);
    }

    /// From now on downloads from a repository fail, each after a permit of what is returned.
    pub(crate) fn fail_download(&self, repository: &Repository, failure: Error) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.0.lock().failing_downloads.insert(repository.clone(), (Arc::clone(&gate), failure));
        gate
    }

    /// From now on whole bodies of blobs wait before each chunk after so many bytes, for a permit of what is returned.
    pub(crate) fn hold_after(&self, bytes: usize) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.0.lock().held = Some((bytes, Arc::clone(&gate)));
        gate
    }

    /// From now on whole bodies of blobs break off after so many bytes.
    pub(crate) fn break_off_after(&self, bytes: usize) {
        self.0.lock().breaks_after = Some(bytes);
    }

    /// From now on a repository does not have a digest.
    pub(crate) fn delete(&self, repository: &Repository, digest: Digest) {
        self.0.lock().content.remove(&(repository.clone(), digest));
    }

    /// From now on so many bytes follow the end of a blob of which the rest was asked for.
    pub(crate) fn pad(&self, bytes: usize) {
        self.0.lock().padding = bytes;
    }

    /// From now on each body of a blob begins with a piece without a byte.
    pub(crate) fn send_empty_pieces(&self) {
        self.0.lock().sends_empty_pieces = true;
    }

    /// Waits until a question that begins like this has been asked.
    pub(crate) async fn is_asked(&self, question: &str) {
        while !self.0.lock().asked.iter().any(|asked| asked.starts_with(question)) {
            tokio::task::yield_now().await;
        }
    }

    /// The faults of endpoints that were recorded: the endpoint's name, and what it did.
    pub(crate) fn faults(&self) -> Vec<(String, DeliveryFault)> {
        self.0.lock().faults.iter().map(|(host, _, fault)| (host.clone(), *fault)).collect()
    }

    /// Pushes content to a repository, and a tag if one is given.
    pub(crate) fn push(&self, repository: &Repository, tag: Option<&str>, bytes: &'static [u8]) -> Digest {
        let mut state = self.0.lock();
        let digest = Digest::of(bytes);
        state.content.insert((repository.clone(), digest), Bytes::from_static(bytes));
        if let Some(tag) = tag {
            state.tags.insert((repository.clone(), tag.parse().unwrap()), digest);
        }
        digest
    }

    /// Serves other bytes under a digest.
    pub(crate) fn damage(&self, repository: &Repository, digest: Digest, bytes: &'static [u8]) {
        self.0.lock().content.insert((repository.clone(), digest), Bytes::from_static(bytes));
    }

    /// It says to `HEAD` that it has not a blob that it has.
    pub(crate) fn deny_head(&self, repository: &Repository, digest: Digest) {
        self.0.lock().denied_heads.push((repository.clone(), digest));
    }

    /// From now on only these users read a repository.
    pub(crate) fn allow(&self, repository: &Repository, users: &[&'static str]) {
        self.0.lock().readers.insert(repository.clone(), users.to_vec());
    }

    /// From now on every question fails like this, or none does.
    pub(crate) fn fail(&self, failure: Option<Error>) {
        self.0.lock().failure = failure;
    }

    /// From now on it accepts tokens of this age.
    pub(crate) fn accept_tokens_of(&self, age: Duration) {
        self.0.lock().token_age = age;
    }

    /// From now on manifests take this long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.0.lock().delay = delay;
    }

    /// From now on the other questions about manifests take this long.
    pub(crate) fn delay_answers(&self, delay: Duration) {
        self.0.lock().answer_delay = delay;
    }

    /// The questions since the last call, each with the user that was asked as (`-` without a credential).
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().asked)
    }

    /// Whether the user may read the repository; returns what that proves.
    fn check(&self, what: &str, repository: &Repository, auth: &AuthContext) -> Result<Proof, Error> {
        let mut state = self.0.lock();
        let user = auth.presented.credential.as_ref().map_or("-", Credential::username).to_owned();
        state.asked.push(format!("{what} as {user}"));
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        match state.readers.get(repository) {
            None => Ok(Proof::Public),
            Some(users) if users.contains(&user.as_str()) => {
                Ok(Proof::Principal { token_age: state.token_age })
            }
            Some(_) => Err(Error::Refused {
                host: "reg.test".to_owned(),
                status: 401,
                why: "denied".to_owned(),
                public: false,
            }),
        }
    }

    fn content(&self, repository: &Repository, digest: Digest) -> Result<Bytes, Error> {
        let found = self.0.lock().content.get(&(repository.clone(), digest)).cloned();
        found.ok_or_else(not_found)
    }

    fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Digest, Error> {
        self.0.lock().tags.get(&(repository.clone(), tag.clone())).copied().ok_or_else(not_found)
    }
}

impl State {
    fn is_avoided(&self, endpoint: &str, digest: Digest) -> bool {
        self.faults.iter().any(|(host, wrong, _)| host == endpoint && *wrong == digest)
    }

    /// What the mirror delivers, if it is asked.
    fn mirror_of(&self, repository: &Repository, digest: Digest) -> Option<MirrorBody> {
        let body = self.mirrored.get(&(repository.clone(), digest))?;
        (!self.is_avoided("mirror", digest)).then(|| body.clone())
    }
}

fn not_found() -> Error {
    Error::NotFound { host: "reg.test".to_owned(), unknown: Unknown::Unsaid, public: false }
}

impl RegistryClient for FakeRegistry {
    fn resolve<'a>(
        &'a self,
        repository: &'a Repository,
        tag: &'a Tag,
        auth: &'a AuthContext,
    ) -> Answer<'a, ResolvedTag> {
        Box::pin(async move {
            let proof = self.check(&format!("resolve {tag}"), repository, auth)?;
            let delay = self.0.lock().answer_delay;
            tokio::time::sleep(delay).await;
            let value = ResolvedTag { digest: self.tag(repository, tag)?, manifest: None };
            Ok(Allowed { value, proof })
        })
    }

    fn manifest<'a>(
        &'a self,
        repository: &'a Repository,
        reference: &'a Reference,
        auth: &'a AuthContext,
    ) -> Answer<'a, Manifest> {
        Box::pin(async move {
            let proof = self.check("manifest", repository, auth)?;
            let delay = self.0.lock().delay;
            tokio::time::sleep(delay).await;
            let digest = match reference {
                Reference::Digest(digest) => *digest,
                Reference::Tag(tag) => self.tag(repository, tag)?,
            };
            let mirrored = match reference {
                Reference::Digest(_) if !auth.need.is_proof() => self.0.lock().mirror_of(repository, digest),
                _ => None,
            };
            let is_authoritative = mirrored.is_none();
            let bytes = match mirrored {
                Some(body) => body.bytes,
                None => self.content(repository, digest)?,
            };
            let host = "reg.test".to_owned();
            let value = Manifest { bytes, media_type: None, host, is_authoritative };
            Ok(Allowed { value, proof })
        })
    }

    fn confirm_manifest<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        auth: &'a AuthContext,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let proof = self.check("confirm manifest", repository, auth)?;
            let delay = self.0.lock().answer_delay;
            tokio::time::sleep(delay).await;
            self.content(repository, digest)?;
            Ok(Allowed { value: (), proof })
        })
    }

    fn confirm_blob<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        auth: &'a AuthContext,
    ) -> Answer<'a, BlobHead> {
        Box::pin(async move {
            let proof = self.check("confirm blob", repository, auth)?;
            if self.0.lock().denied_heads.contains(&(repository.clone(), digest)) {
                return Err(not_found());
            }
            let size = self.content(repository, digest)?.len() as u64;
            Ok(Allowed { value: BlobHead { size: Some(size), has_digest: true }, proof })
        })
    }

    fn download<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        from: u64,
        until: Option<u64>,
        auth: &'a AuthContext,
    ) -> Answer<'a, Download> {
        Box::pin(async move {
            let proof = self.check("download", repository, auth)?;
            let mirrored = self.0.lock().mirror_of(repository, digest);
            if let Some(body) = mirrored {
                let value = body.download(from as usize, until.map_or(usize::MAX, |until| until as usize));
                return Ok(Allowed { value, proof });
            }
            let failing = self.0.lock().failing_downloads.get(repository).cloned();
            if let Some((gate, failure)) = failing {
                drop(gate.acquire().await);
                return Err(failure);
            }
            let bytes = self.content(repository, digest)?;
            let size = bytes.len();
            if from > 0 && from >= size as u64 {
                let host = "reg.test".to_owned();
                return Err(Error::RangeNotSatisfiable { host, size: Some(size as u64) });
            }
            let body = bytes.slice(from as usize..until.map_or(size, |until| size.min(until as usize)));
            let padding = if from > 0 && until.is_none() { self.0.lock().padding } else { 0 };
            let body: Bytes = [&body[..], &vec![0; padding][..]].concat().into();
            let is_whole = from == 0 && until.is_none();
            let (held, breaks_after) = {
                let state = self.0.lock();
                (state.held.clone().filter(|_| is_whole), state.breaks_after.filter(|_| is_whole))
            };
            let mut chunks = chunks(&body);
            if let Some(bytes) = breaks_after {
                let (host, stage) = ("reg.test".to_owned(), ConnectStage::Body);
                chunks.truncate(bytes / 10_000);
                chunks.push(Err(Error::Unreachable { host, stage, why: "broken off".to_owned() }));
            }
            if self.0.lock().sends_empty_pieces {
                chunks.insert(0, Ok(Bytes::new()));
            }
            let (endpoint, chunks) = (EndpointId::for_test("registry"), held_back(chunks, held));
            let value = Download::new(Some(size as u64), from, proof, endpoint, chunks);
            Ok(Allowed { value, proof })
        })
    }

    fn record_wrong_content(
        &self,
        _registry: &Registry,
        digest: Digest,
        endpoint: &EndpointId,
        fault: DeliveryFault,
    ) -> bool {
        let mut state = self.0.lock();
        state.faults.push((endpoint.host().to_owned(), digest, fault));
        let has_mirror = state.mirrored.keys().any(|(_, mirrored)| *mirrored == digest);
        has_mirror && !state.is_avoided("mirror", digest) || !state.is_avoided("registry", digest)
    }

    fn list<'a>(
        &'a self,
        repository: &'a Repository,
        _listing: &'a Listing,
        _query: Option<String>,
        auth: &'a AuthContext,
    ) -> Answer<'a, Page> {
        Box::pin(async move {
            let proof = self.check("list", repository, auth)?;
            Ok(Allowed { value: Page::whole(b"{}"), proof })
        })
    }

    fn is_budget_low(&self, _repository: &Repository, _principal: Principal) -> bool {
        false
    }

    fn is_in_outage(&self, _registry: &Registry) -> bool {
        matches!(self.0.lock().failure, Some(Error::Unreachable { .. }))
    }

    fn forget_tokens(&self, _repository: Option<&Repository>) {
        self.0.lock().token_age = Duration::ZERO;
    }
}
