//! What the store does by itself while it is open: its budget, checking every blob again, `index.json`, quarantine.

pub(crate) mod oci_index;
pub(crate) mod quarantine;
pub(crate) mod run;
pub(crate) mod scrub;
