//! Authentication to registries: challenges, the realms that they name, and the tokens that token servers issue.

pub(crate) mod authenticator;
pub(crate) mod authorization;
pub(crate) mod challenge;
pub(crate) mod challenge_cache;
pub(crate) mod challenge_syntax;
pub(crate) mod realm;
pub(crate) mod scope;
pub(crate) mod token_cache;
pub(crate) mod token_request;
pub(crate) mod tokens;
