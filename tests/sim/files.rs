//! The files of a history, from outside: damaged, measured, searched for secrets.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use larder::reference::Digest;

use crate::plan::{DamageKind, Host};

/// Damages a stored or growing blob from outside; whether there was one.
pub(crate) fn damaged(path: Option<&Path>, store: &Path, digest: Digest, how: DamageKind) -> bool {
    if how == DamageKind::LoseChecks {
        return fs::remove_file(store.join("checks/sha256").join(digest.hex())).is_ok();
    }
    let Some(path) = path else { return false };
    let Ok(size) = fs::metadata(path).map(|found| found.len()) else { return false };
    if size == 0 {
        return false;
    }
    match how {
        DamageKind::Flip(thousandths) => {
            let Ok(file) = fs::OpenOptions::new().read(true).write(true).open(path) else { return false };
            let at = (size - 1) * u64::from(thousandths.min(1_000)) / 1_000;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).is_ok() && file.write_all_at(&[byte[0] ^ 0x40], at).is_ok()
        }
        DamageKind::Cut => {
            let file = fs::OpenOptions::new().write(true).open(path);
            file.and_then(|file| file.set_len(size / 2)).is_ok()
        }
        DamageKind::Remove => fs::remove_file(path).is_ok(),
        DamageKind::Replace => {
            let aside = path.with_extension("aside");
            fs::write(&aside, vec![7; size as usize]).is_ok() && {
                #[allow(clippy::disallowed_methods, reason = "it is the operator's hand, not the store's")]
                let done = fs::rename(&aside, path);
                done.is_ok()
            }
        }
        DamageKind::LoseChecks => false,
    }
}

/// The files beneath a directory, relative to `root`, with their sizes.
pub(crate) fn sizes(root: &Path, directory: &Path, found: &mut BTreeMap<String, u64>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => sizes(root, &path, found),
            Ok(metadata) => {
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                found.insert(name, metadata.len());
            }
            Err(_) => {}
        }
    }
}

/// Bytes that the files beneath a directory take on disk.
pub(crate) fn taken(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => taken(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(of).sum()
}

/// Files that hold a password, a token or a user name.
pub(crate) fn leaks(state: &Path, tokens: &[(String, Host)]) -> Vec<String> {
    let mut files = BTreeMap::new();
    sizes(state, state, &mut files);
    let mut found = Vec::new();
    for (name, size) in files {
        if size > 256 * 1024 || name.contains("/blobs/") {
            continue;
        }
        let bytes = fs::read(state.join(&name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        found
            .extend(crate::referee::secrets::within(&text, tokens).map(|secret| format!("{name}: {secret}")));
    }
    found
}
