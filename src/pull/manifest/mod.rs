//! Manifests: what a tag means now, and the document of a digest.

pub(crate) mod confirmed;
pub(crate) mod fetch;
pub(crate) mod freshness;
pub(crate) mod memory_cache;
pub(crate) mod resolve;
