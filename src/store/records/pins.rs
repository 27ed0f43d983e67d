//! Pins: images of which nothing is evicted, however long they are not pulled.
//!
//! A pin is a file in the repository that it was made for: one for each reference and the digest it had, with every
//! digest that belongs to the image. All pins are in memory: there are no [`Pins`] before their files have been read,
//! so that nothing is evicted, listed or unpinned without those of an earlier process. A pin retains bytes and gives no
//! right to read them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{file, walk};
use crate::reference::{Digest, Repository};
use crate::store::error::Error;
use crate::store::layout::{self, Layout};
use crate::support::live::Live;

/// Digests of one pin at most, so that its file stays within what is read of it: an index with 80 platforms of 10
/// layers.
const DIGESTS_MAX: usize = 800;

/// An image of which nothing is evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The repository of the image.
    pub repository: Repository,
    /// The tag or the digest that it was pinned by.
    pub reference: String,
    /// The digest of its manifest or index.
    pub root: Digest,
    /// All digests that belong to it, the root included.
    pub digests: Vec<Digest>,
    /// What pinned it: the command or the list of images, by a name of their own. A pin without an owner is made while
    /// its image is still being downloaded, and ends with the process.
    pub owner: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct PinFile {
    reference: String,
    root: String,
    digests: Vec<String>,
    owner: Option<String>,
}

/// All pins, by the path of their file. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::store) struct Pins {
    layout: Layout,
    all: Arc<Mutex<All>>,
    /// Blobs of images that run on this node: evicted after all others. In memory alone.
    protected: Live<HashSet<Digest>>,
}

/// The pins, and how many of them each digest is in: eviction asks for each blob.
#[derive(Debug, Default)]
struct All {
    pins: HashMap<PathBuf, Pin>,
    counts: HashMap<Digest, u32>,
}

impl All {
    fn insert(&mut self, path: PathBuf, pin: Pin) {
        self.remove(&path);
        for digest in &pin.digests {
            *self.counts.entry(*digest).or_default() += 1;
        }
        self.pins.insert(path, pin);
    }

    fn remove(&mut self, path: &Path) {
        let Some(pin) = self.pins.remove(path) else { return };
        for digest in &pin.digests {
            if let Entry::Occupied(mut count) = self.counts.entry(*digest) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

impl Pins {
    /// The pins that an earlier process made, read from their files. Blocks.
    pub(in crate::store) fn restore(layout: Layout) -> Self {
        let mut all = All::default();
        for repository in walk::repositories_with(&layout, layout::PINS) {
            for name in walk::files(&layout.pins(&repository)) {
                let path = layout.pins(&repository).join(name);
                let Some(PinFile { reference, root, digests, owner }) = file::read(&path) else { continue };
                let Ok(root) = root.parse() else { continue };
                if owner.is_none() {
                    if let Err(error) = layout.remove(&path) {
                        tracing::debug!(%error, cause = error.cause(), "an unfinished pin stays on disk");
                    }
                    continue;
                }
                let digests = digests.iter().filter_map(|text| text.parse().ok()).collect();
                let pin = Pin { repository: repository.clone(), reference, root, digests, owner };
                // A file under another name than its content gives was not written by this store.
                if path_of(&layout, &pin) == path {
                    all.insert(path, pin);
                }
            }
        }
        Self { layout, all: Arc::new(Mutex::new(all)), protected: Live::default() }
    }

    /// Pins an image, beside the digest that the same reference had before. Blocks.
    ///
    /// # Errors
    /// The disk; more than [`DIGESTS_MAX`] digests.
    pub(in crate::store) fn add(&self, pin: Pin) -> Result<(), Error> {
        let path = path_of(&self.layout, &pin);
        if pin.digests.len() > DIGESTS_MAX {
            let many =
                std::io::Error::other(format!("the image has more than {DIGESTS_MAX} manifests and blobs"));
            return Err(Error::io("pin", &path)(many));
        }
        let record = PinFile {
            reference: pin.reference.clone(),
            root: pin.root.to_string(),
            digests: pin.digests.iter().map(ToString::to_string).collect(),
            owner: pin.owner.clone(),
        };
        file::write(&self.layout, &path, &record)?;
        self.all.lock().insert(path, pin);
        Ok(())
    }

    /// Ends a pin. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub(in crate::store) fn remove(&self, pin: &Pin) -> Result<(), Error> {
        let path = path_of(&self.layout, pin);
        self.layout.remove(&path)?;
        self.all.lock().remove(&path);
        Ok(())
    }

    /// Ends the pins of a repository that were made for a reference or for the digest it had; returns how many. Blocks.
    ///
    /// # Errors
    /// The disk; some pins may have ended before.
    pub(in crate::store) fn remove_matching(
        &self,
        repository: &Repository,
        reference: &str,
    ) -> Result<usize, Error> {
        let pins = self.matching(repository, reference);
        pins.iter().try_for_each(|pin| self.remove(pin))?;
        Ok(pins.len())
    }

    /// All pins, in the order of their names.
    pub(in crate::store) fn list(&self) -> Vec<Pin> {
        let mut all: Vec<Pin> = self.all.lock().pins.values().cloned().collect();
        all.sort_by(|a, b| (&a.repository, &a.reference).cmp(&(&b.repository, &b.reference)));
        all
    }

    /// From now on these are evicted after all that is neither pinned nor protected.
    pub(in crate::store) fn protect(&self, digests: HashSet<Digest>) {
        self.protected.replace(digests);
    }

    /// The blobs that are evicted after all others.
    pub(in crate::store) fn protected(&self) -> Arc<HashSet<Digest>> {
        self.protected.current()
    }

    /// Whether a blob belongs to an image that is pinned.
    pub(in crate::store) fn contains(&self, digest: &Digest) -> bool {
        self.all.lock().counts.contains_key(digest)
    }

    /// Every digest that must not be evicted.
    pub(in crate::store) fn digests(&self) -> HashSet<Digest> {
        self.all.lock().counts.keys().copied().collect()
    }

    fn matching(&self, repository: &Repository, reference: &str) -> Vec<Pin> {
        let matches = |pin: &&Pin| {
            pin.repository == *repository && (pin.reference == reference || pin.root.to_string() == reference)
        };
        self.all.lock().pins.values().filter(matches).cloned().collect()
    }
}

/// Named by a hash, because a reference may be longer than a file name and contains colons.
fn path_of(layout: &Layout, pin: &Pin) -> PathBuf {
    let name = Digest::of(format!("{} {}", pin.reference, pin.root).as_bytes());
    layout.pin(&pin.repository, &name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn restored(layout: &Layout) -> Pins {
        Pins::restore(layout.clone())
    }

    #[test]
    fn a_pin_survives_a_restart_unless_its_image_was_unfinished() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.make_directory(&layout.ingest()).unwrap();
        let repository: Repository = "reg.test/team/app".parse().unwrap();
        let pin = |root: &[u8], reference: &str| Pin {
            repository: repository.clone(),
            reference: reference.to_owned(),
            root: Digest::of(root),
            digests: vec![Digest::of(root), Digest::of(b"shared")],
            owner: Some("command".to_owned()),
        };
        let pins = restored(&layout);
        pins.add(pin(b"old", "v1")).unwrap();
        pins.add(pin(b"other", "v2")).unwrap();
        pins.add(pin(b"other", "v3")).unwrap();
        pins.add(pin(b"new", "v1")).unwrap();
        assert_eq!(pins.matching(&repository, "v1").len(), 2, "until the new image is complete");
        pins.remove(&pin(b"old", "v1")).unwrap();
        let unfinished = Pin { owner: None, ..pin(b"unfinished", "v4") };
        pins.add(unfinished.clone()).unwrap();
        fs::write(layout.pins(&repository).join("rubbish"), "x").unwrap();
        fs::write(layout.pin(&repository, &Digest::of(b"broken")), "{").unwrap();
        let again = restored(&layout);
        assert!(pins.list().contains(&unfinished) && !path_of(&layout, &unfinished).exists());
        assert_eq!(again.list(), [pin(b"new", "v1"), pin(b"other", "v2"), pin(b"other", "v3")]);
        let other = Digest::of(b"other").to_string();
        assert_eq!(again.matching(&repository, &other).len(), 2, "by the digest of the root too");
        assert!(
            again.digests().contains(&Digest::of(b"shared"))
                && !again.digests().contains(&Digest::of(b"old"))
        );
        again.remove(&pin(b"other", "v2")).unwrap();
        again.remove(&pin(b"other", "v2")).unwrap();
        assert_eq!(restored(&layout).list(), [pin(b"new", "v1"), pin(b"other", "v3")]);
        assert_eq!(again.remove_matching(&repository, "v1").unwrap(), 1);
        assert_eq!(restored(&layout).list(), [pin(b"other", "v3")]);
        assert!(pins.add(Pin { digests: vec![Digest::of(b"x"); 801], ..pin(b"huge", "v3") }).is_err());
    }
}
