#![no_main]

use std::sync::LazyLock;

use larder::credentials::Keys;

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::ephemeral().expect("random bytes"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| larder::fuzzing::token(&KEYS, bytes));
