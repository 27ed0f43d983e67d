//! The endpoints of a registry: their order, which of them fail, where `HEAD` is of no use, and their rate limits.

pub(crate) mod head_support;
pub(crate) mod health;
pub(crate) mod rate_limit;
pub(crate) mod select;
