//! What the fuzzers in `fuzz/` call; built for them alone.

pub use crate::credentials::fuzzing::{docker_config, glob, plugin_response, token};
pub use crate::upstream::fuzzing::challenge;
