//! What the registry has: every blob and manifest that the store was filled with, and endless others.
//!
//! It answers from the digest alone: what content a digest has is computed from its number, which a cold request carries
//! in the name of its repository.

use std::sync::Arc;

use crate::fixture::{LARGE_BYTES, LARGE_REPOSITORY, MEDIA_TYPE, cold_blob};
use crate::support::content::{Bytes, Content, Found};

/// `/v2/<repository>/blobs/<digest>`, where a cold blob's repository is `cold/<number>`. Every HEAD is a yes.
pub(crate) struct Endless;

impl Content for Endless {
    fn find(&self, path: &str) -> Option<Found> {
        let number = path.strip_prefix("/v2/cold/").and_then(|rest| rest.split('/').next()?.parse().ok());
        let media_type = if path.contains("/manifests/") { MEDIA_TYPE } else { "application/octet-stream" };
        let digest = path.rsplit('/').next().unwrap_or_default().to_owned();
        let is_large = path.strip_prefix("/v2/").is_some_and(|path| path.starts_with(LARGE_REPOSITORY));
        let bytes = if is_large {
            Bytes::Computed(LARGE_BYTES, Arc::new(|range| vec![0; range.len()]))
        } else {
            number.map(cold_blob).unwrap_or_default().into()
        };
        Some(Found { media_type, digest, bytes })
    }
}
