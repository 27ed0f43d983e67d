//! Helpers of the tests: a registry in this process that makes faults on demand, images to put into it, a client.
//!
//! Shared by the integration tests and the demonstration. Nothing here is part of the daemon.

#![allow(unreachable_pub, missing_docs, reason = "no interface of a library")]
#![allow(dead_code, reason = "each user of this module needs a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test world that cannot be built fails the test"
)]

pub mod accounts;
pub mod api_server;
pub mod client;
pub mod fault;
pub mod image;
pub mod noise;
pub mod proxy;
pub mod registry;
pub mod runtime;
pub mod s3;
pub mod scene;
pub mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes a file that only its owner can read, as a file with a secret has to be.
pub fn secret_file(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
