//! When each manifest was last resolved: its registry said that it is there, or a tag named it, or it is listed by an
//! index of which that holds.
//!
//! A manifest that was resolved within `grant_ttl` is served by its digest without asking upstream; any other one is
//! asked for first, so that one which was deleted upstream is not handed out for ever. What an index lists is as recent
//! as the index, so that a pull by tag asks nothing more.
//!
//! Bounded; a manifest that is forgotten, as all are at a restart, costs one question. Nothing here is a right.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::pull::answer::ManifestAnswer;
use crate::reference::{Digest, Document, Kind, MediaType, Repository};
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::{Moment, Timestamp};

/// Manifests remembered at most.
const MANIFESTS_MAX: usize = 16_384;
/// Manifests of one index at most, so that none pushes out those of all others; images have a dozen platforms.
const LISTED_MAX: usize = 256;
/// Documents at most whose lists are remembered: a node asks for the tags of some hundred images, and lists of the
/// greatest length take 4 MiB.
const DOCUMENTS_MAX: usize = 256;

#[derive(Debug, Clone, Copy)]
struct Resolved {
    at: Moment,
    /// Whether what it lists is remembered, too.
    is_spread: bool,
}

/// The manifests that were resolved.
pub(crate) struct ResolvedManifests(Mutex<Known>);

struct Known {
    resolved: BoundedMap<(Repository, Digest), Resolved>,
    /// What a document of a type lists: manifests if it is an index, else nothing. Remembered, since each question for
    /// a tag would read it again.
    listed: BoundedMap<(Digest, MediaType), Arc<[Digest]>>,
}

impl Default for ResolvedManifests {
    fn default() -> Self {
        let (resolved, listed) = (BoundedMap::new(MANIFESTS_MAX), BoundedMap::new(DOCUMENTS_MAX));
        Self(Mutex::new(Known { resolved, listed }))
    }
}

impl ResolvedManifests {
    /// Records that a manifest was resolved at `now`.
    pub(crate) fn record(&self, repository: &Repository, digest: Digest, now: Timestamp) {
        let resolved = Resolved { at: Moment::recorded(now), is_spread: false };
        self.0.lock().resolved.insert((repository.clone(), digest), resolved);
    }

    /// How long ago a manifest was resolved; `None` if that is not known.
    pub(crate) fn age(&self, repository: &Repository, digest: Digest, now: Timestamp) -> Option<Duration> {
        self.0.lock().resolved.get(&(repository.clone(), digest)).map(|resolved| resolved.at.age_at(now))
    }

    /// A manifest is handed out: those that it lists will be asked for, and are as recent as it is.
    pub(crate) fn spread(&self, repository: &Repository, answer: &ManifestAnswer, now: Timestamp) {
        let document = (answer.digest, answer.media_type.clone());
        let (at, listed) = {
            let mut known = self.0.lock();
            let at = match known.resolved.get(&(repository.clone(), answer.digest)) {
                Some(resolved) if !resolved.is_spread => {
                    resolved.is_spread = true;
                    resolved.at
                }
                _ => return,
            };
            (at, known.listed.get(&document).cloned())
        };
        let listed = listed.unwrap_or_else(|| {
            let listed = listed_in(answer);
            self.0.lock().listed.insert(document, Arc::clone(&listed));
            listed
        });
        if listed.is_empty() {
            return;
        }
        let mut known = self.0.lock();
        for child in &*listed {
            let new = Resolved { at, is_spread: false };
            let before = known.resolved.get_or_insert_with((repository.clone(), *child), || new);
            if before.at.age_at(now) > at.age_at(now) {
                *before = new;
            }
        }
    }

    /// Forgets a manifest: it is gone.
    pub(crate) fn forget(&self, repository: &Repository, digest: Digest) {
        self.0.lock().resolved.remove(&(repository.clone(), digest));
    }
}

/// What is listed in a manifest, if it is an index.
fn listed_in(answer: &ManifestAnswer) -> Arc<[Digest]> {
    match Document::parse(&answer.bytes, Some(&answer.media_type)) {
        Ok(Document { kind: Kind::Index(listed), .. }) => {
            listed.iter().take(LISTED_MAX).map(|child| child.digest).collect()
        }
        _ => Arc::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::answer::AnswerSource;

    fn index(listed: impl Iterator<Item = Digest>) -> ManifestAnswer {
        let media_type: MediaType = MediaType::OCI_INDEX.parse().unwrap();
        let manifests: Vec<_> = listed
            .map(|digest| serde_json::json!({"mediaType": MediaType::OCI_MANIFEST, "digest": digest.to_string(), "size": 1}))
            .collect();
        let bytes = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": manifests
        }));
        let bytes = bytes::Bytes::from(bytes.unwrap());
        let digest = Digest::of(&bytes);
        ManifestAnswer { digest, media_type, bytes, source: AnswerSource::Hit, stale: None }
    }

    #[test]
    fn what_an_index_lists_is_as_recent_as_the_index_and_no_more_recent() {
        let (resolved, app) = (ResolvedManifests::default(), "reg.test/app".parse().unwrap());
        let [platform, other] = [b"platform".as_slice(), b"other"].map(Digest::of);
        let answer = index([platform].into_iter());
        let age = |digest, now| resolved.age(&app, digest, Timestamp(now)).map(|age| age.as_secs());
        resolved.spread(&app, &answer, Timestamp(100));
        assert_eq!(age(platform, 100), None, "the index was not resolved");
        resolved.record(&app, answer.digest, Timestamp(100));
        resolved.spread(&app, &answer, Timestamp(160));
        assert_eq!((age(platform, 160), age(other, 160)), (Some(60), None));
        resolved.record(&app, platform, Timestamp(200));
        resolved.record(&app, answer.digest, Timestamp(190));
        resolved.spread(&app, &answer, Timestamp(210));
        assert_eq!(age(platform, 210), Some(10), "an older word replaced a younger one");
        resolved.forget(&app, platform);
        assert_eq!(age(platform, 210), None);
    }

    #[test]
    fn an_index_with_a_thousand_manifests_pushes_out_no_others() {
        let (resolved, app) = (ResolvedManifests::default(), "reg.test/app".parse().unwrap());
        let answer = index((0..1_000_u32).map(|n| Digest::of(&n.to_be_bytes())));
        resolved.record(&app, answer.digest, Timestamp(1));
        resolved.spread(&app, &answer, Timestamp(1));
        assert_eq!(resolved.0.lock().resolved.len(), LISTED_MAX + 1);
    }

    #[test]
    fn a_tag_that_is_asked_for_again_and_again_costs_no_more_reading_of_its_manifest() {
        let (resolved, app) = (ResolvedManifests::default(), "reg.test/app".parse().unwrap());
        let platform = Digest::of(b"platform");
        let answer = index([platform].into_iter());
        // Of bytes that are read a second time, nothing would be found.
        let unreadable = ManifestAnswer { bytes: bytes::Bytes::new(), ..answer.clone() };
        let asked = |answer: &ManifestAnswer, now| {
            resolved.record(&app, answer.digest, Timestamp(now));
            resolved.spread(&app, answer, Timestamp(now));
            resolved.age(&app, platform, Timestamp(now)).map(|age| age.as_secs())
        };
        assert_eq!([asked(&answer, 100), asked(&unreadable, 200), asked(&unreadable, 300)], [Some(0); 3]);
        let of_another_type =
            ManifestAnswer { media_type: MediaType::OCTET_STREAM.parse().unwrap(), ..unreadable };
        assert_eq!(asked(&of_another_type, 400), Some(100), "what it lists under another type is not known");
    }

    #[test]
    fn ever_new_documents_do_not_grow_it() {
        let (resolved, app) = (ResolvedManifests::default(), "reg.test/app".parse().unwrap());
        for n in 0..2 * DOCUMENTS_MAX as u64 {
            let answer = index(std::iter::once(Digest::of(&n.to_be_bytes())));
            resolved.record(&app, answer.digest, Timestamp(1));
            resolved.spread(&app, &answer, Timestamp(1));
        }
        assert_eq!(resolved.0.lock().listed.len(), DOCUMENTS_MAX);
    }
}
