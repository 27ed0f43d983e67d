//! The endpoints of a registry: their order, which of them fail, and their rate limits.

pub(crate) mod health;
pub(crate) mod rate_limit;
pub(crate) mod select;
