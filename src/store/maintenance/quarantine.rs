//! Setting aside what failed a check, with its reason: for whoever wants to know what the disk did.

use std::fs;
use std::io::ErrorKind;

use crate::reference::Digest;
use crate::store::error::Error;
use crate::store::layout::{self, Layout};
use crate::support::clock::Timestamp;

/// Blobs kept at most; the one that was set aside first makes room. A dying disk must not fill itself up.
const KEPT_MAX: usize = 32;

/// Moves a blob out of the way; `false` if it was gone already.
pub(crate) fn set_aside(
    layout: &Layout,
    digest: &Digest,
    reason: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    layout.make_directory(&layout.quarantine())?;
    keep_few(layout);
    let name = format!("{}.{}", digest.hex(), now.0);
    let to = layout.quarantine().join(&name);
    match layout::publish(&layout.blob(digest), &to) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(false),
        moved => moved?,
    }
    let _ = fs::remove_file(layout.checks_of(digest));
    tracing::error!(%digest, reason, aside = %to.display(), "a damaged blob was set aside");
    layout.write_small(&layout.quarantine().join(format!("{name}.reason")), reason.as_bytes())?;
    Ok(true)
}

fn keep_few(layout: &Layout) {
    let Ok(entries) = fs::read_dir(layout.quarantine()) else { return };
    let mut kept: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e != "reason"))
        .collect();
    if kept.len() < KEPT_MAX {
        return;
    }
    // The extension is the time at which it was set aside.
    kept.sort_by_key(|path| path.extension().map(std::ffi::OsStr::to_owned));
    for old in &kept[..=kept.len() - KEPT_MAX] {
        let _ = fs::remove_dir_all(old).or_else(|_| fs::remove_file(old));
        let mut reason = old.clone().into_os_string();
        reason.push(".reason");
        let _ = fs::remove_file(reason);
    }
}
