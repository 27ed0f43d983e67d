//! One order: each image resolved, its manifests chosen, its parts fetched.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use super::plan::{Choice, Platforms};
use super::{BlobState, Event, Order, PinnedFor, Summary, Wanted};
use crate::credentials::Keychain;
use crate::pull::{self, Caller, Fault, ManifestAnswer, ManifestUse, PullContext, Puller};
use crate::reference::{Child, Digest, Document, Image, Kind, Reference};
use crate::store::{Pin, Store};

/// Parts of one image at a time: as many as containerd asks for.
const PARTS: usize = 3;
/// Manifests of one image at most; real ones have a few dozen.
const MANIFESTS_MAX: usize = 256;
/// Parts of one image at most.
const PARTS_MAX: usize = 4_096;

/// Why an image could not be fetched.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The pull.
    #[error(transparent)]
    Pull(#[from] pull::Error),
    /// What it is.
    #[error("{0}")]
    Image(String),
}

/// What came of one image.
struct Fetched {
    root: Digest,
    sizes: HashMap<Digest, u64>,
    fetched_bytes: u64,
}

/// Somebody who wants to know.
type Ear = mpsc::Sender<Event>;

/// What images are fetched with. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    /// Fetches manifests and blobs.
    pub puller: Puller,
    /// Holds what was fetched, and the pins.
    pub store: Store,
    /// Says as whom an image may be fetched.
    pub keychain: Keychain,
}

/// Does what is ordered and tells `ear`; ends with a summary. If nobody listens any more, it stops.
pub async fn run(fetcher: &Fetcher, order: Order, ear: Ear) -> Summary {
    let total = Mutex::new((Summary::default(), HashSet::new()));
    let Order { images, platforms, pin, concurrency } = order;
    stream::iter(images)
        .for_each_concurrent(concurrency, |wanted| {
            let (ear, platforms, total) = (&ear, &platforms, &total);
            async move {
                if ear.is_closed() {
                    return;
                }
                let event = one(fetcher, &wanted, platforms, pin, ear, total).await;
                let _ = ear.send(event).await;
            }
        })
        .await;
    let (summary, _) = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _ = ear.send(Event::Summary(summary)).await;
    summary
}

async fn one(
    fetcher: &Fetcher,
    wanted: &Wanted,
    platforms: &Platforms,
    pin: Option<PinnedFor>,
    ear: &Ear,
    total: &Mutex<(Summary, HashSet<Digest>)>,
) -> Event {
    let image = wanted.image.to_string();
    let fetched = image_of(fetcher, wanted, platforms, pin, ear).await;
    let settled =
        settle(&fetcher.store, &wanted.image, fetched.as_ref().ok().map(|fetched| fetched.root), pin).await;
    let fetched = settled.and(fetched);
    let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match fetched {
        Err(error) => {
            total.0.failed += 1;
            Event::Failed { image, error: error.to_string() }
        }
        Ok(Fetched { root, sizes, fetched_bytes }) => {
            let bytes = sizes.values().sum();
            total.0.pulled += 1;
            total.0.bytes += bytes;
            total.0.fetched_bytes += fetched_bytes;
            for (digest, size) in sizes {
                if !total.1.insert(digest) {
                    total.0.shared_bytes += size;
                }
            }
            Event::Pulled { image, digest: root.to_string(), bytes, fetched_bytes, pinned: pin.is_some() }
        }
    }
}

/// Once an image is here, what its reference meant before is let go; if it is not, the pin that was made for it is.
async fn settle(
    store: &Store,
    image: &Image,
    arrived: Option<Digest>,
    pin: Option<PinnedFor>,
) -> Result<(), Error> {
    if pin.is_none() {
        return Ok(());
    }
    let reference = image.reference.to_string();
    let of_this = |pin: &&Pin| pin.repository == image.repository && pin.reference == reference;
    let pins = store.pins();
    let known: Vec<&Pin> = pins.iter().filter(of_this).collect();
    for pin in known.iter().filter(|pin| arrived.map_or(pin.owner.is_none(), |root| pin.root != root)) {
        store.remove_pin((*pin).clone()).await.map_err(pull::Error::from)?;
    }
    let Some(here) = known.iter().find(|pin| arrived == Some(pin.root)) else { return Ok(()) };
    // What somebody pinned by hand stays his, whatever the list says.
    let owner = match (&here.owner, pin) {
        (None, Some(owner)) => owner.owner(),
        (_, Some(PinnedFor::Command)) => PinnedFor::Command.owner(),
        _ => return Ok(()),
    };
    let pin = Pin { owner: Some(owner.to_owned()), ..(*here).clone() };
    Ok(store.pin(pin).await.map_err(pull::Error::from)?)
}

/// Pins an image that is not all here yet, so that what arrives of it stays. The pin is nobody's until then, and ends
/// with us if we do not get that far.
async fn pin_early(store: &Store, image: &Image, root: Digest, digests: Vec<Digest>) -> Result<(), Error> {
    let (repository, reference) = (image.repository.clone(), image.reference.to_string());
    let same = |pin: &Pin| pin.repository == repository && pin.reference == reference && pin.root == root;
    let (mut digests, mut owner) = (digests, None);
    if let Some(before) = store.pins().into_iter().find(same) {
        // It may have been pinned for another platform.
        let more: Vec<Digest> = before.digests.into_iter().filter(|old| !digests.contains(old)).collect();
        digests.extend(more);
        owner = before.owner;
    }
    let pin = Pin { repository, reference, root, digests, owner };
    Ok(store.pin(pin).await.map_err(pull::Error::from)?)
}

/// Fetches an image as whoever of those that may be used is let in.
async fn image_of(
    fetcher: &Fetcher,
    wanted: &Wanted,
    platforms: &Platforms,
    pin: Option<PinnedFor>,
    ear: &Ear,
) -> Result<Fetched, Error> {
    let repository = &wanted.image.repository;
    let mut callers: Vec<Caller> = fetcher
        .keychain
        .pull_secret_credentials(&wanted.secrets, repository)
        .into_iter()
        .map(Caller::Presented)
        .collect();
    if callers.is_empty() {
        callers.push(Caller::Anonymous);
    }
    let mut no = None;
    for caller in callers {
        let reference = Some(wanted.image.reference.clone());
        let context = PullContext::new(repository.clone(), reference, caller).in_background();
        // What is left of a rate limit is for pods that wait.
        if fetcher.puller.is_budget_low(&context).await {
            let why = "the rate limit of its registry is nearly used up, and what is left is kept for pods; try again later";
            return Err(Error::Image(why.to_owned()));
        }
        match as_caller(fetcher, &wanted.image, platforms, &context, pin, ear).await {
            Err(Error::Pull(error)) if matches!(error.fault(), Fault::Refused(_) | Fault::NotFound) => {
                no = no.or(Some(error));
            }
            done => return done,
        }
    }
    Err(no.map_or_else(|| Error::Image("nobody may read it".to_owned()), Error::Pull))
}

async fn as_caller(
    fetcher: &Fetcher,
    image: &Image,
    platforms: &Platforms,
    context: &PullContext,
    pin: Option<PinnedFor>,
    ear: &Ear,
) -> Result<Fetched, Error> {
    let (puller, Image { repository, reference }) = (&fetcher.puller, image);
    let root = puller.manifest(context, reference, ManifestUse::Pull).await?;
    if let Some(stale) = &root.stale {
        return Err(stale.error.clone().into());
    }
    let mut sizes = HashMap::from([(root.digest, root.bytes.len() as u64)]);
    let mut parts: HashMap<Digest, u64> = HashMap::new();
    let mut names = Vec::new();
    let (mut fetched_bytes, mut seen) = (new_bytes(&root), HashSet::from([root.digest]));
    let (digest, mut manifests) = (root.digest, vec![(root, platforms.clone(), String::new())]);
    while let Some((answer, platforms, name)) = manifests.pop() {
        match kind_of(&answer)? {
            Kind::Index(children) => {
                for Choice { digest, platforms, name } in platforms.choose(&children).map_err(Error::Image)? {
                    if !seen.insert(digest) {
                        continue;
                    }
                    if seen.len() > MANIFESTS_MAX {
                        return Err(Error::Image(format!("it lists more than {MANIFESTS_MAX} manifests")));
                    }
                    let reference = Reference::Digest(digest);
                    let answer = puller.manifest(context, &reference, ManifestUse::Pull).await?;
                    fetched_bytes += new_bytes(&answer);
                    sizes.insert(digest, answer.bytes.len() as u64);
                    manifests.push((answer, platforms, name));
                }
            }
            Kind::Image(children) => {
                names.push(name);
                parts.extend(children.iter().map(|Child { digest, size, .. }| (*digest, *size)));
            }
            Kind::Other => names.push(name),
        }
    }
    if parts.len() > PARTS_MAX {
        return Err(Error::Image(format!("it has more than {PARTS_MAX} parts")));
    }
    names.sort();
    let _ = ear
        .send(Event::Resolved { image: image.to_string(), digest: digest.to_string(), platforms: names })
        .await;
    if pin.is_some() {
        let digests = sizes.keys().chain(parts.keys()).copied().collect();
        pin_early(&fetcher.store, image, digest, digests).await?;
    }
    let coming = stream::iter(parts)
        .map(|(digest, size)| part(puller, context, image, digest, size, ear))
        .buffer_unordered(PARTS);
    let arrived: Vec<(Digest, u64, bool)> = coming.try_collect().await?;
    for (digest, size, fetched) in arrived {
        fetched_bytes += if fetched { size } else { 0 };
        sizes.insert(digest, size);
    }
    // What came first may have made room for what came last, and a disk may have refused what was handed on.
    match puller.missing(repository, sizes.keys().copied()).await? {
        0 => Ok(Fetched { root: digest, sizes, fetched_bytes }),
        missing => Err(Error::Image(format!(
            "{missing} of its {} parts are not here any more: the store has no room for all of it, or its disk failed",
            sizes.len()
        ))),
    }
}

/// Bytes of a manifest that were not here before.
fn new_bytes(answer: &ManifestAnswer) -> u64 {
    if answer.source == pull::AnswerSource::Fill { answer.bytes.len() as u64 } else { 0 }
}

fn kind_of(answer: &ManifestAnswer) -> Result<Kind, Error> {
    let document = Document::parse(&answer.bytes, Some(&answer.media_type));
    document.map(|document| document.kind).map_err(|error| Error::Image(error.to_string()))
}

/// Fetches one part, after pods have what they wait for.
async fn part(
    puller: &Puller,
    context: &PullContext,
    image: &Image,
    digest: Digest,
    claimed: u64,
    ear: &Ear,
) -> Result<(Digest, u64, bool), Error> {
    puller.yield_to_foreground().await;
    let told = |done: u64, size: Option<u64>, state| Event::Blob {
        image: image.to_string(),
        digest: digest.to_string(),
        done,
        size,
        state,
    };
    let progress = |done, size: Option<u64>| {
        // Who is slow to listen misses a step, and nothing else.
        let _ = ear.try_send(told(done, size.or(Some(claimed)), BlobState::Fetching));
    };
    let (size, fetched) = puller.fetch_into_store(context, digest, progress).await?;
    let state = if fetched { BlobState::Fetched } else { BlobState::Present };
    let _ = ear.send(told(size, Some(size), state)).await;
    Ok((digest, size, fetched))
}
