//! `[store]`: where blobs are kept, and how much of the filesystem they may take.

use std::path::PathBuf;

use crate::config::schema::section;
use crate::config::value::{Text, path};
use crate::store::{self, Amount, Budget};
use crate::support::size;

section! {
    /// Where blobs are kept, and how much of the filesystem they may take.
    Store = "store";

    /// The directory of blobs: an OCI image layout. This is the default as root; otherwise it is <state>/store.
    restart path: PathBuf = path(), |context| context.state.join("store");

    /// How large it may get: a size such as "50GiB", or a part of its filesystem. What has been idle longest makes
    /// room.
    restart max_bytes: Amount = amount(), |_| Budget::default().max;

    /// What stays free on its filesystem, whichever program fills it. With the default, kubelet collects no image (from
    /// 85 % in use on) and evicts no pod (below 15 % free) because of this cache, which still has room on a node of
    /// which 80 % are in use. What the cache has is evicted as other files grow.
    restart min_free: Amount = amount(), |_| Budget::default().min_free;
}

impl Store {
    /// What the store is built from.
    pub(crate) fn config(&self) -> store::Config {
        let budget = Budget { max: self.max_bytes, min_free: self.min_free };
        store::Config { path: self.path.clone(), budget }
    }
}

fn amount() -> Text<Amount> {
    let write = |amount: &Amount| match amount {
        Amount::Percent(part) => format!("{part}%"),
        Amount::Bytes(bytes) => size::exact(*bytes),
    };
    Text { what: "size or percentage", examples: &["20%", "50GiB", "5000B", "0B"], read: amount_of, write }
}

/// `20%`, `50GiB`, `1048576`.
fn amount_of(text: &str) -> Result<Amount, String> {
    let expected = || "expected a size such as 50GiB, or a part of the filesystem such as 20%".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_not_a_number| expected())?;
    let shift = match unit.trim() {
        "%" if number <= 100 => {
            return u8::try_from(number).map(Amount::Percent).map_err(|_above_100| expected());
        }
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(expected()),
    };
    number.checked_mul(1 << shift).map(Amount::Bytes).ok_or_else(expected)
}
