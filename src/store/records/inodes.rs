//! Whether the filesystem is short of inodes, as the records ask before a repository gets its first directory: one name
//! may take a hundred.

use std::sync::{Arc, OnceLock};

/// The answer, once there is a part that knows it; until then nothing is short. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct InodeShortage(Arc<OnceLock<Box<dyn Fn() -> bool + Send + Sync>>>);

impl InodeShortage {
    /// From now on `is_short` is asked. Only the first one counts.
    pub(super) fn ask(&self, is_short: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(is_short));
    }

    /// Whether there are too few inodes for anything new. Blocks.
    pub(super) fn is_there(&self) -> bool {
        self.0.get().is_some_and(|is_short| is_short())
    }
}

impl std::fmt::Debug for InodeShortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InodeShortage(..)")
    }
}
