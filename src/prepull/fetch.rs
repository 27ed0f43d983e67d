//! Fetching an order: each image resolved, its manifests chosen, its blobs fetched, its pin set.
//!
//! Promises: callers are tried in kubelet's order; what runtimes wait for goes first; a pin is written before the first
//! blob is asked for, so that nothing of the image is evicted meanwhile.
//!
//! Deliberately not here: which images (`list`, `order`), and which of their manifests (`plan`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::error::Error;
use super::event::{BlobState, Event, Summary};
use super::failures::{FailedFetch, Failures};
use super::fetched::{Fetched, Totals};
use super::order::{Order, PinOwner, RequestedImage};
use super::pins::{self, PinChange};
use super::plan::Platforms;
use super::tree::Tree;
use crate::credentials::Keychain;
use crate::pull::{self, Caller, Fault, InStore, ManifestUse, Priority, PullContext, Puller};
use crate::reference::{Digest, Image, Reference};
use crate::store::Store;

/// Fetches images into the store. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    puller: Puller,
    store: Store,
    keychain: Keychain,
    failures: Arc<Failures>,
}

impl Fetcher {
    /// A fetcher that pulls with `puller`, pins in `store`, and finds credentials in `keychain`.
    pub fn new(puller: Puller, store: Store, keychain: Keychain) -> Self {
        Self { puller, store, keychain, failures: Arc::default() }
    }

    /// Fetches what is ordered; `events` end with a summary. When no one receives them any more, it ends after the
    /// images under way.
    pub async fn run(&self, order: Order, events: mpsc::Sender<Event>) -> Summary {
        let Order { images, platforms, pin, concurrency } = order;
        let totals = Mutex::new(Totals::default());
        let priority = Priority::Background;
        let (events, arrived) = (&events, &AtomicU64::new(0));
        let run = Run { fetcher: self, platforms: &platforms, pin, priority, events, arrived };
        stream::iter(images)
            .for_each_concurrent(concurrency, |requested| {
                let (run, totals) = (&run, &totals);
                async move {
                    if !run.events.is_closed() {
                        let fetched = run.fetch_and_pin(&requested).await;
                        let (image, now) = (&requested.image, self.store.clock().now());
                        self.failures.note(image, fetched.as_ref().err(), now);
                        let fetched = fetched.map_err(|error| error.to_string());
                        let event = totals.lock().add(image, fetched, pin.is_some());
                        let _ = run.events.send(event).await;
                    }
                }
            })
            .await;
        let summary = totals.into_inner().summary();
        let _ = events.send(Event::Summary(summary)).await;
        summary
    }

    /// Fetches one image ahead of a pod that will ask for it; it is not pinned. A layer that the store does not take is
    /// left out, see [`Fetched::is_whole`]. `arrived` counts the bytes as they come, which stay counted where it fails.
    ///
    /// # Errors
    /// Why it is not in the store.
    pub async fn fetch_ahead(
        &self,
        requested: &RequestedImage,
        platforms: &Platforms,
        arrived: &AtomicU64,
    ) -> Result<Fetched, Error> {
        // What happens on the way is of no interest: the events have no receiver.
        let (events, _) = mpsc::channel(1);
        let priority = Priority::Ahead;
        let run = Run { fetcher: self, platforms, pin: None, priority, events: &events, arrived };
        run.fetch(requested).await
    }

    /// How the last fetch of `image` by an order failed, if it did.
    pub fn failure_of(&self, image: &Image) -> Option<FailedFetch> {
        self.failures.of(&image.to_string())
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }
}

/// One run over an order.
struct Run<'a> {
    fetcher: &'a Fetcher,
    platforms: &'a Platforms,
    pin: Option<PinOwner>,
    priority: Priority,
    events: &'a mpsc::Sender<Event>,
    /// Bytes that came over the network.
    arrived: &'a AtomicU64,
}

impl Run<'_> {
    async fn fetch_and_pin(&self, requested: &RequestedImage) -> Result<Fetched, Error> {
        let fetched = self.fetch(requested).await;
        if let Some(owner) = self.pin {
            let arrived = fetched.as_ref().ok().map(|fetched| fetched.root);
            let store = &self.fetcher.store;
            for change in pins::afterwards(&store.pins(), &requested.image, arrived, owner) {
                match change {
                    PinChange::Remove(pin) => store.remove_pin(pin).await?,
                    PinChange::Write(pin) => store.pin(pin).await?,
                }
            }
        }
        fetched
    }

    /// Fetches an image as the first caller, of those that may be used, that its registry lets in.
    async fn fetch(&self, requested: &RequestedImage) -> Result<Fetched, Error> {
        let RequestedImage { image, secrets } = requested;
        if self.priority == Priority::Ahead
            && !self.fetcher.puller.has_room(image.repository.registry()).await
        {
            return Err(Error::NoRoom);
        }
        let credentials = self.fetcher.keychain.pull_secret_credentials(secrets, &image.repository);
        let mut callers: Vec<Caller> = credentials.into_iter().map(Caller::Presented).collect();
        // Kubelet's order: the pod's secrets, the node's docker config, plugins (`makeLookupPullCredentialsFunc`). The
        // first caller brings the node's with it.
        let keychain = &self.fetcher.keychain;
        let of_account = keychain.account_credentials_in(secrets);
        let is_nodes_first =
            of_account.is_empty() || !keychain.node_principals(&image.repository).await.is_empty();
        if callers.is_empty() && is_nodes_first {
            callers.push(Caller::Anonymous);
        }
        callers.extend(of_account.into_iter().map(Caller::Presented));
        let mut refused = None;
        for caller in callers {
            let reference = Some(image.reference.clone());
            let context = PullContext::new(image.repository.clone(), reference, caller);
            let context = context.with_priority(self.priority);
            if self.fetcher.puller.is_budget_low(&context).await {
                return Err(Error::RateLimit);
            }
            match self.fetch_as(&context, image).await {
                Err(Error::Pull(error)) if is_next_asked(error.fault()) => {
                    refused = refused.or(Some(error));
                }
                done => return done,
            }
        }
        Err(refused.map_or(Error::NoCaller, Error::Pull))
    }

    async fn fetch_as(&self, context: &PullContext, image: &Image) -> Result<Fetched, Error> {
        let (root, mut tree) = self.manifests(context, image).await?;
        tree.platforms.sort();
        let resolved = Event::Resolved {
            image: image.to_string(),
            digest: root.to_string(),
            platforms: std::mem::take(&mut tree.platforms),
            foreign_layers: tree.foreign.len(),
        };
        let _ = self.events.send(resolved).await;
        if self.pin.is_some() {
            let store = &self.fetcher.store;
            store.pin(pins::while_fetching(store.pins(), image, root, tree.digests())).await?;
        }
        let Tree { manifests: mut sizes, blobs, mut fetched_bytes, .. } = tree;
        let coming = stream::iter(blobs)
            .map(|(digest, size)| self.blob_if_taken(context, image, digest, size))
            .buffer_unordered(pull::BLOBS_AT_ONCE);
        let arrived: Vec<Option<(Digest, InStore)>> = coming.try_collect().await?;
        let is_whole = arrived.iter().all(Option::is_some);
        for (digest, InStore { size, was_downloaded }) in arrived.into_iter().flatten() {
            fetched_bytes += if was_downloaded { size } else { 0 };
            sizes.insert(digest, size);
        }
        match self.fetcher.puller.missing(&image.repository, sizes.keys().copied()).await {
            0 => Ok(Fetched { root, sizes, fetched_bytes, is_whole }),
            missing => Err(Error::NotStored { missing, all: sizes.len() }),
        }
    }

    async fn manifests(&self, context: &PullContext, image: &Image) -> Result<(Digest, Tree), Error> {
        let puller = &self.fetcher.puller;
        let first = puller.manifest(context, &image.reference, ManifestUse::Pull).await?;
        if let Some(stale) = &first.stale {
            return Err(stale.error.clone().into());
        }
        let root = first.digest;
        let mut tree = Tree::default();
        let mut waiting = vec![(first, self.platforms.clone(), String::new())];
        while let Some((answer, platforms, name)) = waiting.pop() {
            for choice in tree.add(&answer, &platforms, name)? {
                let reference = Reference::Digest(choice.digest);
                let answer = puller.manifest(context, &reference, ManifestUse::Pull).await?;
                waiting.push((answer, choice.platforms, choice.name));
            }
        }
        self.arrived.fetch_add(tree.fetched_bytes, Ordering::Relaxed);
        Ok((root, tree))
    }

    /// As [`Self::blob`]; `None` for one that is fetched ahead and that the store does not take: the others are of use
    /// without it, and it would not be taken at the next try either. Where its manifest shows that, it is not asked
    /// for.
    async fn blob_if_taken(
        &self,
        context: &PullContext,
        image: &Image,
        digest: Digest,
        size_bytes: u64,
    ) -> Result<Option<(Digest, InStore)>, Error> {
        let registry = image.repository.registry();
        if self.priority == Priority::Ahead
            && !self.fetcher.puller.would_have(registry, digest, size_bytes).await
        {
            return Ok(None);
        }
        match self.blob(context, image, digest, size_bytes).await {
            Err(Error::Pull(pull::Error::NotStored(_))) if self.priority == Priority::Ahead => Ok(None),
            done => Ok(Some((digest, done?))),
        }
    }

    /// Fetches one blob, one of the background after runtimes have what they wait for. `size_bytes` is what its
    /// manifest says.
    async fn blob(
        &self,
        context: &PullContext,
        image: &Image,
        digest: Digest,
        size_bytes: u64,
    ) -> Result<InStore, Error> {
        if self.priority == Priority::Background {
            self.fetcher.puller.yield_to_foreground().await;
        }
        let event = |done_bytes: u64, size_bytes: Option<u64>, state| Event::Blob {
            image: image.to_string(),
            digest: digest.to_string(),
            done_bytes,
            size_bytes,
            state,
        };
        let counted = AtomicU64::new(0);
        // What is wrong and begun anew came over the network all the same.
        let count = |done_bytes: u64| {
            let before = counted.swap(done_bytes, Ordering::Relaxed);
            self.arrived.fetch_add(done_bytes.saturating_sub(before), Ordering::Relaxed);
        };
        let progress = |done_bytes, known: Option<u64>| {
            count(done_bytes);
            // A slow receiver misses an event in between, and nothing else.
            let _ = self.events.try_send(event(done_bytes, known.or(Some(size_bytes)), BlobState::Fetching));
        };
        let stored = self.fetcher.puller.fetch_into_store(context, digest, progress).await?;
        let InStore { size, was_downloaded } = stored;
        if was_downloaded {
            count(size);
        } else {
            // Another download brought it.
            self.arrived.fetch_sub(counted.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let state = if was_downloaded { BlobState::Fetched } else { BlobState::Present };
        let _ = self.events.send(event(size, Some(size), state)).await;
        Ok(stored)
    }
}

/// Whether the next credential is tried after this.
fn is_next_asked(fault: Fault) -> bool {
    matches!(fault, Fault::Refused(_) | Fault::NotFound | Fault::AuthenticationRequired)
}
