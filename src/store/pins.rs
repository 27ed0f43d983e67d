//! Pins: images of which nothing is evicted, however long nobody pulls them.
//!
//! A pin is a file of the repository it was made for, one for each reference and what it meant, with every digest that
//! belongs to it. What is pinned is known in memory once the files have been read, before anything is
//! evicted. Bytes alone are kept: a pin opens nothing to anybody.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::layout::{self, Layout};
use super::{records::tags, records::walk};
use crate::reference::{Digest, Repository};

/// Digests of one pin at most, so that its file stays one that is read: an index with 80 platforms of 10 layers.
const DIGESTS_MAX: usize = 800;

/// An image that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Whose.
    pub repository: Repository,
    /// As it was asked for: a tag or a digest.
    pub reference: String,
    /// What that meant.
    pub root: Digest,
    /// All that belongs to it, itself included.
    pub digests: Vec<Digest>,
    /// Who pinned it: a word that means something to whoever did. A pin that is nobody's is made while its image is still
    /// coming, and does not outlive a restart.
    pub owner: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct PinFile {
    reference: String,
    root: String,
    digests: Vec<String>,
    owner: Option<String>,
}

/// What is pinned.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<HashMap<PathBuf, Pin>>);

impl Pins {
    /// Reads all that were made before.
    pub(super) fn load(&self, layout: &Layout) {
        let mut all = self.lock();
        for repository in walk::repositories_with(layout, layout::PINS) {
            for name in walk::files(&layout.pins(&repository)) {
                let path = layout.pins(&repository).join(name);
                let Some(PinFile { reference, root, digests, owner }) = tags::read(&path) else { continue };
                let Ok(root) = root.parse() else { continue };
                if owner.is_none() {
                    let _ = fs::remove_file(&path);
                    continue;
                }
                let digests = digests.iter().filter_map(|text| text.parse().ok()).collect();
                let pin = Pin { repository: repository.clone(), reference, root, digests, owner };
                // A file under another name is none of ours.
                if path_of(layout, &pin) == path {
                    all.entry(path).or_insert(pin);
                }
            }
        }
    }

    /// Pins an image, beside what the same reference meant before.
    pub(super) fn add(&self, layout: &Layout, pin: Pin) -> Result<(), Error> {
        let path = path_of(layout, &pin);
        if pin.digests.len() > DIGESTS_MAX {
            let many = std::io::Error::other(format!("an image with more than {DIGESTS_MAX} parts"));
            return Err(Error::io("pin", &path)(many));
        }
        let digests = pin.digests.iter().map(ToString::to_string).collect();
        let (reference, root, owner) = (pin.reference.clone(), pin.root.to_string(), pin.owner.clone());
        tags::write(layout, &path, &PinFile { reference, root, digests, owner })?;
        self.lock().insert(path, pin);
        Ok(())
    }

    /// Lets an image go.
    pub(super) fn remove(&self, layout: &Layout, pin: &Pin) -> Result<(), Error> {
        let path = path_of(layout, pin);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &path)(e)),
            _ => {}
        }
        self.lock().remove(&path);
        Ok(())
    }

    /// The pins of a repository that were made for a reference, or for what it means.
    pub(super) fn matching(&self, repository: &Repository, reference: &str) -> Vec<Pin> {
        let fits = |pin: &&Pin| {
            pin.repository == *repository && (pin.reference == reference || pin.root.to_string() == reference)
        };
        self.lock().values().filter(fits).cloned().collect()
    }

    /// All of them, in the order of their names.
    pub(super) fn all(&self) -> Vec<Pin> {
        let mut all: Vec<Pin> = self.lock().values().cloned().collect();
        all.sort_by(|a, b| (&a.repository, &a.reference).cmp(&(&b.repository, &b.reference)));
        all
    }

    /// Every digest that must stay.
    pub(super) fn digests(&self) -> HashSet<Digest> {
        self.lock().values().flat_map(|pin| pin.digests.iter().copied()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Pin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reference may be longer than a file name, and hold a colon.
fn path_of(layout: &Layout, pin: &Pin) -> PathBuf {
    let name = Digest::of(format!("{} {}", pin.reference, pin.root).as_bytes());
    layout.pin(&pin.repository, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_outlives_a_restart() {
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
        let pins = Pins::default();
        pins.add(&layout, pin(b"old", "v1")).unwrap();
        pins.add(&layout, pin(b"other", "v2")).unwrap();
        pins.add(&layout, pin(b"other", "v3")).unwrap();
        pins.add(&layout, pin(b"new", "v1")).unwrap();
        assert_eq!(pins.matching(&repository, "v1").len(), 2, "until the new one is all there");
        pins.remove(&layout, &pin(b"old", "v1")).unwrap();
        let unfinished = Pin { owner: None, ..pin(b"unfinished", "v4") };
        pins.add(&layout, unfinished.clone()).unwrap();
        fs::write(layout.pins(&repository).join("rubbish"), "x").unwrap();
        fs::write(layout.pin(&repository, &Digest::of(b"broken")), "{").unwrap();
        let again = Pins::default();
        again.load(&layout);
        assert!(pins.all().contains(&unfinished) && !path_of(&layout, &unfinished).exists());
        assert_eq!(again.all(), [pin(b"new", "v1"), pin(b"other", "v2"), pin(b"other", "v3")]);
        let other = Digest::of(b"other").to_string();
        assert_eq!(again.matching(&repository, &other).len(), 2, "by what it means too");
        assert!(
            again.digests().contains(&Digest::of(b"shared"))
                && !again.digests().contains(&Digest::of(b"old"))
        );
        again.remove(&layout, &pin(b"other", "v2")).unwrap();
        again.remove(&layout, &pin(b"other", "v2")).unwrap();
        let left = Pins::default();
        left.load(&layout);
        assert_eq!(left.all(), [pin(b"new", "v1"), pin(b"other", "v3")]);
        assert!(
            pins.add(&layout, Pin { digests: vec![Digest::of(b"x"); 801], ..pin(b"huge", "v3") }).is_err()
        );
    }
}
