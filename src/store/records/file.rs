//! One record in one small JSON file. A file that cannot be read or understood counts as absent, with a line in the
//! log: upstream is asked again.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::store::error::Error;
use crate::store::layout::{self, Directory, Layout};

pub(crate) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    parse(layout::read_small(path), &|| path.display().to_string())
}

/// As [`read`], by its name in a directory that is open.
pub(crate) fn read_in<T: for<'a> Deserialize<'a>>(directory: &Directory, name: &str) -> Option<T> {
    parse(directory.read_small(name), &|| name.to_owned())
}

fn parse<T: for<'a> Deserialize<'a>>(
    content: std::io::Result<Option<Vec<u8>>>,
    path: &dyn Fn() -> String,
) -> Option<T> {
    let unreadable = |error: &dyn std::error::Error| {
        tracing::warn!(path = path(), %error, "a record is unreadable and counts as absent");
    };
    let content = content.inspect_err(|error| unreadable(error)).ok()??;
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
