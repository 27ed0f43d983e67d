//! The endpoints of a registry: their order, which of them fail or deliver wrong content, where `HEAD` is of no use,
//! and their rate limits.

pub(crate) mod account_limit;
pub(crate) mod avoided;
pub(crate) mod failure_record;
pub(crate) mod head_support;
pub(crate) mod health;
pub(crate) mod key;
pub(crate) mod known;
pub(crate) mod limits;
pub(crate) mod rate_limit;
pub(crate) mod select;
pub(crate) mod too_many_requests;
pub(crate) mod tracked;
