//! Outages: since when a registry has been unreachable, so that a restart during an outage does not begin it anew.

use std::path::Path;

use super::file;
use crate::reference::Registry;
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::support::clock::Timestamp;

pub(crate) fn find(layout: &Layout, registry: &Registry) -> Option<Timestamp> {
    file::read(&layout.outage(registry))
}

/// Whether the registry ever delivered something that is recorded.
pub(crate) fn has_delivered(layout: &Layout, registry: &Registry) -> bool {
    layout.outage(registry).parent().is_some_and(Path::is_dir)
}

/// Records the start of an outage, or its end with `None`.
pub(crate) fn set(layout: &Layout, registry: &Registry, since: Option<Timestamp>) -> Result<(), Error> {
    let path = layout.outage(registry);
    match since {
        // A registry that never delivered anything has no directory and gets none: nothing of it can be served during
        // an outage, and clients may ask for ever new registries.
        Some(_) if !has_delivered(layout, registry) => Ok(()),
        Some(since) => file::write(layout, &path, &since),
        // Nearly always: nothing is written then.
        None if !path.try_exists().unwrap_or(true) => Ok(()),
        None => layout.remove(&path).map(drop),
    }
}
