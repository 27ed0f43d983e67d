//! Answering a registry's challenge: reading it, judging its realm, fetching and keeping tokens.

pub(crate) mod challenge;
pub(crate) mod realm;
pub(crate) mod token;
