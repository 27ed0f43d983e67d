//! Blobs: found in the store, or downloaded once and followed by every reader.

pub(crate) mod byte_range;
pub(crate) mod fill;
pub(crate) mod flight;
pub(crate) mod follow;
pub(crate) mod lookup;
pub(crate) mod passthrough;
pub(crate) mod priority;
pub(crate) mod segments;
pub(crate) mod source;
