//! The images whose last fetch failed, by an order of a command or of the list: for `larder explain`, in memory, and
//! bounded.

use parking_lot::Mutex;

use super::event::Event;
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::Timestamp;

/// Images at most: each a name and a sentence.
const IMAGES_MAX: usize = 512;

/// A fetch that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedFetch {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub error: String,
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
    pub(super) fn note(&self, event: &Event, at: Timestamp) {
        match event {
            Event::Failed { image, error } => {
                self.0.lock().insert(image.clone(), FailedFetch { at, error: error.clone() });
            }
            Event::Pulled { image, .. } => drop(self.0.lock().remove(image)),
            _ => {}
        }
    }

    /// How the last fetch of `image` failed, if it did.
    pub(super) fn of(&self, image: &str) -> Option<FailedFetch> {
        self.0.lock().peek(image).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_forgotten_once_the_image_was_fetched() {
        let failures = Failures::default();
        let (image, error) = ("reg.test/app:v1".to_owned(), "refused".to_owned());
        failures.note(&Event::Failed { image: image.clone(), error: error.clone() }, Timestamp(7));
        assert_eq!(failures.of(&image), Some(FailedFetch { at: Timestamp(7), error }));
        assert_eq!(failures.of("reg.test/app:v2"), None);
        let digest = String::new();
        let pulled =
            Event::Pulled { image: image.clone(), digest, bytes: 1, fetched_bytes: 1, pinned: false };
        failures.note(&pulled, Timestamp(8));
        assert_eq!(failures.of(&image), None);
    }
}
