//! The keys of all objects, and the tree that they make.
//!
//! ```text
//! <prefix>/larder/v1/blobs/sha256/ab/<hex>/<origin>        the bytes of a blob
//!                    manifests/sha256/ab/<hex>/<origin>    the bytes of a manifest
//!                    used/sha256/ab/<hex>/<origin>         empty: written again now and then while the object is used
//!                    leases/sha256/ab/<hex>/<origin>       who is writing the blob
//!                    names/ab/<name>                       sealed records, with `share_names`; the name needs the
//!                                                          cluster's key
//!                    probe/<random>                        what a round trip writes and deletes
//! ```
//!
//! `<origin>` is a hash of the registry and the digest together. It keeps apart what came from different registries: a
//! registry that claims to have a digest must not be given bytes that only another registry delivered. No name of a
//! registry, repository or tag is in a key; one who guesses a registry can check whether a digest came from it.
//!
//! A change of this tree, or of what an object holds, is a new version: objects of other versions are ignored.

use crate::reference::{Digest, Registry};

/// The version of the tree.
const VERSION: &str = "v1";
/// Hexadecimal digits of an origin: 128 bits.
const ORIGIN_DIGITS: usize = 32;

/// Builds keys.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: String,
}

impl Layout {
    /// A tree under `prefix`, which may be empty.
    pub(super) fn new(prefix: &str) -> Self {
        let slash = if prefix.is_empty() { "" } else { "/" };
        Self { root: format!("{prefix}{slash}larder/{VERSION}") }
    }

    pub(super) fn blob(&self, registry: &Registry, digest: Digest) -> String {
        self.key("blobs", registry, digest)
    }

    pub(super) fn manifest(&self, registry: &Registry, digest: Digest) -> String {
        self.key("manifests", registry, digest)
    }

    pub(super) fn lease(&self, registry: &Registry, digest: Digest) -> String {
        self.key("leases", registry, digest)
    }

    /// The object that says when another one was last used, by when it was written.
    pub(super) fn used(&self, registry: &Registry, digest: Digest) -> String {
        self.key("used", registry, digest)
    }

    /// A record about names, by the name that the cluster's key gives it.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}/names/{}/{name}", self.root, name.get(..2).unwrap_or_default())
    }

    /// The directory of a kind, `below` its algorithm and first digits; with a slash at its end.
    pub(super) fn directory(&self, kind: &str, below: &str) -> String {
        format!("{}/{kind}/{below}/", self.root)
    }

    /// The directory of the objects of no use; with a slash at its end.
    pub(super) fn probes(&self) -> String {
        format!("{}/probe/", self.root)
    }

    /// An object of no use, with a name that no other has.
    pub(super) fn probe(&self) -> String {
        format!("{}/probe/{:032x}", self.root, fastrand::u128(..))
    }

    fn key(&self, kind: &str, registry: &Registry, digest: Digest) -> String {
        let (hex, algorithm) = (digest.hex(), digest.algorithm().name());
        let origin = origin(registry, digest);
        format!("{}/{kind}/{algorithm}/{}/{hex}/{origin}", self.root, &hex[..2])
    }
}

/// Tells apart by which registry a digest was delivered.
fn origin(registry: &Registry, digest: Digest) -> String {
    let text = format!("larder tier origin\0{registry}\0{digest}");
    let mut hex = Digest::of(text.as_bytes()).hex();
    hex.truncate(ORIGIN_DIGITS);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_registry_delivered_is_not_found_under_another_one() {
        let (layout, digest) = (Layout::new("a/b"), Digest::of(b"x"));
        let [one, other]: [Registry; 2] = ["reg.test", "evil.test"].map(|name| name.parse().unwrap());
        let key = layout.blob(&one, digest);
        assert_ne!(key, layout.blob(&other, digest));
        assert_ne!(key, layout.manifest(&one, digest));
        let hex = digest.hex();
        assert!(key.starts_with(&format!("a/b/larder/v1/blobs/sha256/{}/{hex}/", &hex[..2])), "{key}");
        assert!(!key.contains("reg.test"));
        assert!(Layout::new("").blob(&one, digest).starts_with("larder/v1/"));
        assert_ne!(origin(&one, digest), origin(&one, Digest::of(b"y")), "tells nothing of other digests");
    }
}
