//! Who may read what: grants, the questions to upstream that prove a right, and the challenge to callers.

pub(crate) mod authorize;
pub(crate) mod challenge;
pub(crate) mod grants;
pub(crate) mod rights;
