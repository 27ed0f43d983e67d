//! The disk under the store: calls to it away from the async threads, whether one hangs, whether writing fails, and how
//! many syncs it takes at a time.
//!
//! Not here: which files there are (`layout`).

pub(super) mod blocking;
pub(super) mod calls;
pub(super) mod calls_under_way;
pub(super) mod failpoints;
pub(super) mod file_identity;
pub(super) mod health;
pub(super) mod low_priority;
pub(super) mod sync_pace;
