//! Prefetch: a client that reads the first layer of an image as a whole asks for its config and other layers next.
//!
//! A manifest alone says nothing about that: scanners and snapshotters that pull lazily read a manifest and a little of
//! what it lists. What a manifest lists is therefore remembered, and fetched once one of its layers is asked for whole.
//!
//! Promises: blobs are fetched as the same caller, so that nothing is fetched that it could not ask for itself; a few
//! at a time; never in the background, never what the store has no room for, and never while the rate limit of the
//! principal that would be asked as is nearly used up. No request waits for a prefetch, and none fails by one.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;

use super::access::Access;
use super::answer::{AnswerSource, ManifestAnswer};
use super::blob::Blobs;
use super::blob::places::{Places, Shares};
use super::config::Config;
use super::context::PullContext;
use crate::reference::{Digest, Document, Kind, Repository};
use crate::support::bounded_map::BoundedMap;
use crate::support::live::Live;
use crate::support::tasks::Tasks;

/// Blobs of one image at a time: as many as containerd asks for.
pub const BLOBS_AT_ONCE: usize = 3;
/// Images at a time, with a share for each registry; the next one is not prefetched.
const IMAGES_MAX: usize = 8;
/// Blobs of one image at most; runtimes mount 128 layers at most.
const BLOBS_MAX: usize = 512;
/// Layers of which it is remembered what belongs to them: those of some fifty images. A client asks for its first layer
/// within a second of the manifest.
const LAYERS_MAX: usize = 1_024;

/// By layer, what is listed in the manifest that was read last of those that list it.
type Lists = BoundedMap<(Repository, Digest), Arc<[Listed]>>;

/// Prefetches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Prefetch {
    config: Live<Config>,
    access: Access,
    blobs: Blobs,
    listed: Arc<Mutex<Lists>>,
    places: Places,
    tasks: Tasks,
}

/// A blob of an image.
#[derive(Debug, Clone, Copy)]
struct Listed {
    digest: Digest,
    /// As its manifest claims it.
    size: u64,
}

impl Prefetch {
    pub(crate) fn new(config: Live<Config>, access: Access, blobs: Blobs, tasks: Tasks) -> Self {
        let listed = Arc::new(Mutex::new(BoundedMap::new(LAYERS_MAX)));
        let places = Places::new(Shares::of_few(IMAGES_MAX), config.clone());
        Self { config, access, blobs, listed, places, tasks }
    }

    /// Remembers what an image manifest lists, if the manifest was fetched from upstream just now.
    pub(crate) fn remember(&self, context: &PullContext, answer: &ManifestAnswer) {
        // A manifest from the store was pulled before, and its blobs with it.
        if answer.source != AnswerSource::Fill || !self.config.current().fetch_ahead {
            return;
        }
        let Ok(Document { kind: Kind::Image(children), .. }) =
            Document::parse(&answer.bytes, Some(&answer.media_type))
        else {
            return;
        };
        if children.len() > BLOBS_MAX {
            return;
        }
        // What runtimes fetch from elsewhere, the registry need not have; what they do not unpack, nobody may read, or
        // only a little of it: containerd downloads the small layer of a nydus image, and never its data.
        let children = children.iter().filter(|child| !child.is_foreign && child.is_read_whole);
        let all = children.map(|child| Listed { digest: child.digest, size: child.size });
        let all: Arc<[Listed]> = all.collect();
        let mut listed = self.listed.lock();
        // The config comes first, and is read by those as well who want no layer.
        for layer in all.iter().skip(1) {
            listed.insert((context.repository().clone(), layer.digest), Arc::clone(&all));
        }
    }

    /// Begins to fetch what belongs to a layer that is read as a whole, unless that has begun. Without a place the next
    /// layer of the image that is read tries again.
    pub(crate) fn begin(&self, context: &PullContext, layer: Digest) {
        let registry = context.repository().registry();
        let Some(place) = self.places.take(registry) else { return };
        let Some(all) = self.take(context.repository(), layer) else { return };
        let (prefetch, context) = (self.clone(), context.after_the_answer());
        self.tasks.spawn(async move {
            if prefetch.access.is_budget_low(&context).await {
                return;
            }
            let others = all.iter().copied().filter(|listed| listed.digest != layer);
            let fetch = |listed: Listed| prefetch.blobs.prefetch(&context, listed.digest, listed.size);
            stream::iter(others).for_each_concurrent(BLOBS_AT_ONCE, fetch).await;
            drop(place);
        });
    }

    /// What belongs to a layer; forgotten for all layers of that image.
    fn take(&self, repository: &Repository, layer: Digest) -> Option<Arc<[Listed]>> {
        let mut listed = self.listed.lock();
        let all = listed.remove(&(repository.clone(), layer))?;
        for other in all.iter() {
            listed.remove(&(repository.clone(), other.digest));
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::pull::for_tests::{self, MirrorBody, Parts};
    use crate::reference::{MediaType, manifest_digest};

    /// An image of two layers in a repository; its manifest was just fetched. Returns the layers.
    fn image(parts: &Parts, prefetch: &Prefetch, name: &str, n: u8) -> (PullContext, [Digest; 2]) {
        let repository: Repository = name.parse().unwrap();
        let context = for_tests::pull(&repository);
        let push = |what: u8| parts.registry.push(&repository, None, vec![n, what].leak());
        let [config, first, second] = [0, 1, 2].map(push);
        let layer = |digest| format!(r#"{{"digest":"{digest}","size":2}}"#);
        let (config, layers) = (layer(config), [first, second].map(layer).join(","));
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{layers}]}}"#,
            MediaType::OCI_MANIFEST
        );
        let bytes = Bytes::from(manifest);
        let (media_type, source) = (MediaType::OCI_MANIFEST.parse().unwrap(), AnswerSource::Fill);
        let digest = manifest_digest(&bytes);
        prefetch.remember(&context, &ManifestAnswer { digest, media_type, bytes, source, stale: None });
        (context, [first, second])
    }

    #[tokio::test]
    async fn however_many_images_of_a_stranger_dribble_those_of_another_registry_are_prefetched() {
        let parts = Parts::new();
        let config = Live::<Config>::default();
        let prefetch = Prefetch::new(config, parts.access.clone(), parts.blobs.clone(), Tasks::default());
        for n in 0..=u8::try_from(IMAGES_MAX).unwrap() {
            let (context, [first, second]) = image(&parts, &prefetch, &format!("evil{n}.evil.test/app"), n);
            // It comes an hour later.
            let chunk_takes = Duration::from_secs(3_600);
            let never = MirrorBody { chunk_takes, ..MirrorBody::whole(Bytes::from_static(b"xx")) };
            parts.registry.mirror(context.repository(), second, never);
            prefetch.begin(&context, first);
        }
        let (context, [first, second]) = image(&parts, &prefetch, "reg.test/app", 100);
        prefetch.begin(&context, first);
        while !parts.blobs.has(second).await {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_image_that_finds_no_place_is_prefetched_with_the_next_of_its_layers() {
        let parts = Parts::new();
        let config = Live::<Config>::default();
        let prefetch = Prefetch::new(config, parts.access.clone(), parts.blobs.clone(), Tasks::default());
        let (context, [first, second]) = image(&parts, &prefetch, "reg.test/app", 100);
        let registry = context.repository().registry();
        let taken: Vec<_> = std::iter::from_fn(|| prefetch.places.take(registry)).collect();
        prefetch.begin(&context, first);
        drop(taken);
        prefetch.begin(&context, second);
        while !parts.blobs.has(first).await {
            tokio::task::yield_now().await;
        }
    }
}
