//! Which endpoints were asked on behalf of one request: for the log, and for nothing else.

use std::sync::Arc;

use parking_lot::Mutex;

/// Endpoints remembered of one request: those of a registry with mirrors. A further one is left out.
const ENDPOINTS_MAX: usize = 4;

/// The endpoints that a request led to, each once, in the order in which they were asked first. Cheap to clone; clones
/// share the list.
#[derive(Debug, Clone, Default)]
pub struct AskedEndpoints(Arc<Mutex<Vec<String>>>);

impl AskedEndpoints {
    /// Records that the endpoint with this URL is asked.
    pub(super) fn record(&self, url: &str) {
        let mut asked = self.0.lock();
        if asked.len() < ENDPOINTS_MAX && !asked.iter().any(|known| known == url) {
            asked.push(url.to_owned());
        }
    }

    /// Records the endpoints that another request led to, whose answer is this one's too.
    pub fn add(&self, other: &Self) {
        if !Arc::ptr_eq(&self.0, &other.0) {
            other.urls().iter().for_each(|url| self.record(url));
        }
    }

    /// Their URLs, without any query.
    pub fn urls(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_named_once_and_a_list_of_them_does_not_grow() {
        let asked = AskedEndpoints::default();
        for n in [1, 1, 2, 1, 3, 4, 5, 6] {
            asked.record(&format!("https://m{n}/v2/"));
        }
        let joined = AskedEndpoints::default();
        joined.add(&asked);
        joined.add(&joined.clone());
        assert_eq!(joined.urls(), ["https://m1/v2/", "https://m2/v2/", "https://m3/v2/", "https://m4/v2/"]);
    }
}
