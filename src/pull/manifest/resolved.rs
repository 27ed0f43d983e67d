//! When each manifest was last resolved: its registry said that it is there, or a tag named it, or it is listed by an
//! index of which that holds.
//!
//! A manifest that was resolved within `grant_ttl` is served by its digest without asking upstream; any other one is
//! asked for first, so that one which was deleted upstream is not handed out for ever. What an index lists is as recent
//! as the index, so that a pull by tag asks nothing more.
//!
//! Bounded; a manifest that is forgotten, as all are at a restart, costs one question. Nothing here is a right.

use std::time::Duration;

use parking_lot::Mutex;

use crate::pull::answer::ManifestAnswer;
use crate::reference::{Digest, Document, Kind, Repository};
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::{Moment, Timestamp};

/// Manifests remembered at most.
const MANIFESTS_MAX: usize = 16_384;
/// Manifests of one index at most, so that none pushes out those of all others; images have a dozen platforms.
const LISTED_MAX: usize = 256;

#[derive(Debug, Clone, Copy)]
struct Resolved {
    at: Moment,
    /// Whether what it lists is remembered, too.
    is_spread: bool,
}

/// The manifests that were resolved.
pub(crate) struct ResolvedManifests(Mutex<BoundedMap<(Repository, Digest), Resolved>>);

impl Default for ResolvedManifests {
    fn default() -> Self {
        Self(Mutex::new(BoundedMap::new(MANIFESTS_MAX)))
    }
}

impl ResolvedManifests {
    /// Records that a manifest was resolved at `now`.
    pub(crate) fn record(&self, repository: &Repository, digest: Digest, now: Timestamp) {
        let resolved = Resolved { at: Moment::recorded(now), is_spread: false };
        self.0.lock().insert((repository.clone(), digest), resolved);
    }

    /// How long ago a manifest was resolved; `None` if that is not known.
    pub(crate) fn age(&self, repository: &Repository, digest: Digest, now: Timestamp) -> Option<Duration> {
        self.0.lock().get(&(repository.clone(), digest)).map(|resolved| resolved.at.age_at(now))
    }

    /// A manifest is handed out: those that it lists will be asked for, and are as recent as it is.
    pub(crate) fn spread(&self, repository: &Repository, answer: &ManifestAnswer, now: Timestamp) {
        let at = {
            let mut all = self.0.lock();
            match all.get(&(repository.clone(), answer.digest)) {
                Some(resolved) if !resolved.is_spread => {
                    resolved.is_spread = true;
                    resolved.at
                }
                _ => return,
            }
        };
        let Ok(document) = Document::parse(&answer.bytes, Some(&answer.media_type)) else { return };
        let Kind::Index(listed) = document.kind else { return };
        let mut all = self.0.lock();
        for child in listed.iter().take(LISTED_MAX) {
            let new = Resolved { at, is_spread: false };
            let known = all.get_or_insert_with((repository.clone(), child.digest), || new);
            if known.at.age_at(now) > at.age_at(now) {
                *known = new;
            }
        }
    }

    /// Forgets a manifest: it is gone.
    pub(crate) fn forget(&self, repository: &Repository, digest: Digest) {
        self.0.lock().remove(&(repository.clone(), digest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::answer::AnswerSource;
    use crate::reference::MediaType;

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
        assert_eq!(resolved.0.lock().len(), LISTED_MAX + 1);
    }
}
