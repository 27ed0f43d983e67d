//! The images whose last fetch failed, by an order of a command or of the list: for `larder explain`, in memory, and
//! bounded.

use parking_lot::Mutex;

use super::error::Error;
use crate::reference::Image;
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::Timestamp;
use crate::support::short_text::shortened;

/// Images at most: each a name and a sentence.
const IMAGES_MAX: usize = 512;
/// Of an error, which may name what an image says of itself.
const ERROR_CHARS_MAX: usize = 1_000;

/// A fetch that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedFetch {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub error: String,
    /// Whether a pod that pulls the image fails of it too.
    pub is_met_by_pods: bool,
}

/// The last fetch of each image that failed.
pub(super) struct Failures(Mutex<BoundedMap<String, FailedFetch>>);

impl Default for Failures {
    fn default() -> Self {
        Self(Mutex::new(BoundedMap::new(IMAGES_MAX)))
    }
}

impl Failures {
    /// Remembers how the fetch of an image ended.
    pub(super) fn note(&self, image: &Image, error: Option<&Error>, at: Timestamp) {
        let (image, mut all) = (image.to_string(), self.0.lock());
        let Some(error) = error else { return drop(all.remove(&image)) };
        let is_met_by_pods = error.is_met_by_pods();
        all.insert(image, FailedFetch { at, error: shortened(error, ERROR_CHARS_MAX), is_met_by_pods });
    }

    /// How the last fetch of `image` failed, if it did.
    pub(super) fn of(&self, image: &str) -> Option<FailedFetch> {
        self.0.lock().peek(image).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Platforms;
    use super::super::tree::TreeError;
    use super::*;
    use crate::pull;
    use crate::reference::{Child, Digest};

    #[test]
    fn a_failure_is_forgotten_once_the_image_was_fetched() {
        let failures = Failures::default();
        let (image, other): (Image, Image) =
            ("reg.test/app:v1".parse().unwrap(), "reg.test/app:v2".parse().unwrap());
        failures.note(&image, Some(&Error::Pull(pull::Error::TooManyDownloads)), Timestamp(7));
        let failed = failures.of("reg.test/app:v1").unwrap();
        assert_eq!((failed.at, failed.error.as_str()), (Timestamp(7), "too many downloads at once"));
        assert!(failed.is_met_by_pods);
        failures.note(&other, None, Timestamp(8));
        assert!(failures.of("reg.test/app:v1").is_some() && failures.of("reg.test/app:v2").is_none());
        failures.note(&image, None, Timestamp(8));
        assert_eq!(failures.of("reg.test/app:v1"), None);
    }

    #[test]
    fn an_image_that_is_not_there_for_another_platform_is_not_said_to_be_missing_for_pods() {
        let only = Platforms::of(vec!["windows/amd64".parse().unwrap()]);
        let no_platform = TreeError::from(only.choose(&[]).unwrap_err());
        for error in [
            Error::Tree(no_platform),
            Error::RateLimit,
            Error::NotStored { missing: 1, all: 2 },
            Error::Pull(pull::Error::NotStored(None)),
        ] {
            assert!(!error.is_met_by_pods(), "{error}");
        }
    }

    #[test]
    fn an_image_of_thousands_of_platforms_does_not_fill_the_memory_with_what_it_lacks() {
        let children: Vec<Child> = (0..16_384)
            .map(|n| Child {
                digest: Digest::of(&[0]),
                size: 1,
                platform: format!("os{n}/{}", "x".repeat(50)).parse().ok(),
                is_foreign: false,
                is_read_whole: true,
            })
            .collect();
        let only = Platforms::of(vec!["linux/amd64".parse().unwrap()]);
        let error = only.choose(&children).unwrap_err();
        assert!(error.to_string().len() < 1_024, "{}", error.to_string().len());
        assert!(
            error.to_string().contains("os7/") && error.to_string().ends_with(" and 16376 more"),
            "{error}"
        );
        let failures = Failures::default();
        let long = Error::Pull(pull::Error::AuthenticationRequired {
            why: pull::ChallengeReason::Refused,
            cause: "x".repeat(1 << 20),
            kind: pull::FailureKind::Refused,
        });
        failures.note(&"reg.test/app:v1".parse().unwrap(), Some(&long), Timestamp(7));
        assert!(failures.of("reg.test/app:v1").unwrap().error.len() < 1_100);
    }
}
