//! One record in one small JSON file. A file that cannot be read or understood counts as absent, with a line in the log:
//! upstream is asked again.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::store::error::Error;
use crate::store::layout::{self, Layout};

pub(crate) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    let unreadable = |error: &dyn std::error::Error| {
        tracing::warn!(path = %path.display(), %error, "a record is unreadable and counts as absent");
    };
    let content = layout::read_small(path).inspect_err(|error| unreadable(error)).ok()??;
    serde_json::from_slice(&content).inspect_err(|error| unreadable(error)).ok()
}

pub(crate) fn write<T: Serialize>(layout: &Layout, path: &Path, record: &T) -> Result<(), Error> {
    let content = serde_json::to_vec(record).map_err(|e| Error::io("encode", path)(e.into()))?;
    layout.write_small(path, &content)
}

/// Whether there is a record; its content does not matter.
pub(crate) fn exists(path: &Path) -> bool {
    matches!(layout::open_regular(path), Ok(Some(_)))
}
