//! What plugins returned, for as long as it counts.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::response::{CacheKeyType, Response};
use crate::reference::Digest;
use crate::support::bounded_map::BoundedMap;

/// Responses at most; a plugin whose response is forgotten is run again.
const RESPONSES_MAX: usize = 1_024;
/// Plugins whose kind of response is remembered at most: a configuration has a few.
const PLUGINS_MAX: usize = 64;
/// A plugin that failed is not run again for the same image before this: one pull needs a credential many times.
const FAILURE_LIFETIME: Duration = Duration::from_secs(10);

/// A plugin failed; the cause is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProviderFailed;

/// Which plugin, by its position in the configuration, for whom it was run, and for which images the response counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    provider: usize,
    /// Of a service account; `None`: of the node.
    account: Option<Digest>,
    images: Images,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Images {
    One(String),
    Registry(String),
    All,
}

struct CachedResponse {
    result: Result<Response, ProviderFailed>,
    expires: Instant,
}

/// The responses of all plugins.
pub(super) struct ResponseCache {
    responses: Mutex<BoundedMap<CacheKey, CachedResponse>>,
    /// For which images the last response of each plugin counted, by its position.
    kinds: Mutex<BoundedMap<usize, CacheKeyType>>,
}

impl Default for ResponseCache {
    fn default() -> Self {
        let responses = Mutex::new(BoundedMap::new(RESPONSES_MAX));
        Self { responses, kinds: Mutex::new(BoundedMap::new(PLUGINS_MAX)) }
    }
}

impl ResponseCache {
    /// What a plugin returned for `image` and an account or the node, if that still counts.
    pub(super) fn lookup(
        &self,
        provider: usize,
        image: &str,
        account: Option<Digest>,
    ) -> Option<Result<Response, ProviderFailed>> {
        let (now, mut responses) = (Instant::now(), self.responses.lock());
        keys(provider, image, account).iter().find_map(|key| {
            let cached = responses.get(key).filter(|cached| cached.expires > now)?;
            Some(cached.result.clone())
        })
    }

    /// Keeps a response for as long as it says, else for `default_lifetime`.
    pub(super) fn store(
        &self,
        provider: usize,
        image: &str,
        account: Option<Digest>,
        result: Result<Response, ProviderFailed>,
        default_lifetime: Duration,
    ) {
        let [by_image, by_registry, global] = keys(provider, image, account);
        let (key, lifetime) = match &result {
            Err(ProviderFailed) => (by_image, FAILURE_LIFETIME),
            Ok(response) => {
                self.kinds.lock().insert(provider, response.cache_key_type);
                let key = match response.cache_key_type {
                    CacheKeyType::Image => by_image,
                    CacheKeyType::Registry => by_registry,
                    CacheKeyType::Global => global,
                };
                (key, response.cache_duration.unwrap_or(default_lifetime))
            }
        };
        if !lifetime.is_zero() {
            self.responses.lock().insert(key, CachedResponse { result, expires: Instant::now() + lifetime });
        }
    }

    /// The images that will have one response with `image`, if the plugin answers as it did last: the same text for all
    /// of them.
    pub(super) fn alike(&self, provider: usize, image: &str) -> String {
        match self.kinds.lock().get(&provider) {
            None | Some(CacheKeyType::Image) => image.to_owned(),
            Some(CacheKeyType::Registry) => registry_of(image),
            Some(CacheKeyType::Global) => String::new(),
        }
    }

    /// Forgets what a plugin returned for `image` and the node.
    pub(super) fn forget(&self, provider: usize, image: &str) {
        let mut responses = self.responses.lock();
        for key in &keys(provider, image, None) {
            responses.remove(key);
        }
    }
}

/// The keys under which a response for `image` may be, in kubelet's order.
fn keys(provider: usize, image: &str, account: Option<Digest>) -> [CacheKey; 3] {
    [Images::One(image.to_owned()), Images::Registry(registry_of(image)), Images::All]
        .map(|images| CacheKey { provider, account, images })
}

fn registry_of(image: &str) -> String {
    image.split('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_expired_response_and_that_of_another_plugin_do_not_count() {
        let (cache, hour) = (ResponseCache::default(), Duration::from_secs(3_600));
        let response = |cache_key_type| Response { cache_key_type, cache_duration: None, auth: Vec::new() };
        cache.store(0, "a.test/x", None, Ok(response(CacheKeyType::Registry)), hour);
        assert!(cache.lookup(0, "a.test/y", None).is_some());
        assert!(cache.lookup(0, "b.test/x", None).is_none() && cache.lookup(1, "a.test/x", None).is_none());
        tokio::time::advance(hour).await;
        assert!(cache.lookup(0, "a.test/y", None).is_none());

        cache.store(0, "a.test/x", None, Err(ProviderFailed), hour);
        assert_eq!(cache.lookup(0, "a.test/x", None), Some(Err(ProviderFailed)));
        assert_eq!(
            cache.lookup(0, "a.test/y", None),
            None,
            "a failure for one image says nothing of another"
        );
        tokio::time::advance(FAILURE_LIFETIME).await;
        assert_eq!(cache.lookup(0, "a.test/x", None), None);
    }
}
