//! The endpoints of registries, made once from the settings in effect: every question and every answer asks for them.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::select::{self, Endpoint};
use crate::reference::Registry;
use crate::support::bounded_map::BoundedMap;
use crate::support::live::Live;
use crate::upstream::error::Error;
use crate::upstream::transport::configured::Configured;

/// Registries at most whose endpoints are kept; those of another one are made again.
const REGISTRIES_MAX: usize = 1_024;

/// Endpoints, and the settings that they were made from.
type Made = (Weak<Configured>, Arc<[Arc<Endpoint>]>);

/// The endpoints of all registries. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Endpoints {
    configured: Live<Configured>,
    made: Arc<Mutex<BoundedMap<Registry, Made>>>,
}

impl Endpoints {
    /// Endpoints as `configured` says.
    pub(crate) fn new(configured: Live<Configured>) -> Self {
        Self { configured, made: Arc::new(Mutex::new(BoundedMap::new(REGISTRIES_MAX))) }
    }

    /// The endpoints of `registry`, in the order in which they are tried.
    ///
    /// # Errors
    /// [`Error::Declined`], with the setting that would permit the registry.
    pub(crate) fn of(&self, registry: &Registry) -> Result<Arc<[Arc<Endpoint>]>, Error> {
        let configured = self.configured.current();
        if let Some((from, endpoints)) = self.made.lock().get(registry)
            && Weak::as_ptr(from) == Arc::as_ptr(&configured)
        {
            return Ok(Arc::clone(endpoints));
        }
        let endpoints = select::endpoints(&configured.config, registry)?.into_iter().map(Arc::new).collect();
        // A weak one: it keeps no connections of former settings, and its address is not given to others.
        let made: Made = (Arc::downgrade(&configured), endpoints);
        let endpoints = Arc::clone(&made.1);
        self.made.lock().insert(registry.clone(), made);
        Ok(endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::config::{Config, RegistryConfig};
    use crate::upstream::transport::scripted::{Scripted, status};

    #[test]
    fn an_endpoint_that_a_reload_took_out_is_not_asked_any_more() {
        let registry: Registry = "reg.test".parse().unwrap();
        let at = |url: &str| {
            let url: url::Url = url.parse().unwrap();
            let entry = RegistryConfig { endpoints: vec![url.into()], ..RegistryConfig::default() };
            let registries = [(registry.clone(), entry)].into();
            Scripted::new(Config { registries, ..Config::default() }, |_| status(200)).1
        };
        let configured = Live::new(at("http://first.test"));
        let endpoints = Endpoints::new(configured.clone());
        let urls =
            || endpoints.of(&registry).unwrap().iter().map(|e| e.base_url().to_owned()).collect::<Vec<_>>();
        assert_eq!([urls(), urls()], [["http://first.test/v2"], ["http://first.test/v2"]]);
        configured.replace(at("http://second.test"));
        assert_eq!(urls(), ["http://second.test/v2"]);
    }
}
