//! Records: small files beside the blobs that say what a repository may hand out, to whom, and what its tags mean.

pub(crate) mod access;
pub(crate) mod aliases;
pub(crate) mod expire;
pub(crate) mod grants;
pub(crate) mod tags;
pub(crate) mod walk;
