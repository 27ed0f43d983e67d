//! Where a registry is asked: the endpoints in order, their health, and their rate limits.

pub(crate) mod health;
pub(crate) mod rate_limit;
pub(crate) mod select;
