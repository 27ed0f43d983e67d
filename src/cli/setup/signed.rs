//! What setup says of images that must be signed, for podman and CRI-O: they get no mirror.

use std::collections::BTreeSet;

use crate::cli::runtimes::signature_policy::{SignaturePolicies, Signed};

/// With `--strict` what has no mirror could be pulled around this cache, and with one not at all.
pub(super) fn nothing_signed(
    registries: &BTreeSet<String>,
    policies: &SignaturePolicies,
) -> Result<(), String> {
    let signed = registries.iter().flat_map(|registry| policies.signed_in(registry)).collect();
    match of_signed(&signed) {
        Some(what) => Err(format!(
            "{what}; with --strict it could not be pulled. Nothing was written. Leave --strict out, or name the other registries with --registry"
        )),
        None => Ok(()),
    }
}

/// What must be signed, as the notes say it.
pub(super) fn of_signed(signed: &Signed) -> Option<String> {
    let (_, file) = signed.first_key_value()?;
    let names: Vec<&str> = signed.keys().map(String::as_str).collect();
    let names = names.join(", ");
    Some(format!("{file} demands signatures of {names}, which podman and CRI-O do not find through a mirror"))
}

/// What follows for an entry from what must be signed: that `is_all` of it, or parts of it.
pub(super) fn of_entry(prefix: &str, path: &str, is_all: bool, is_located_here: bool) -> String {
    const OWN_ENTRY: &str = "Give that an entry of its own there, then run this again";
    match (is_located_here, is_all) {
        (false, true) => format!("{prefix} of {path} is pulled without this cache"),
        (false, false) => format!("{prefix} of {path} is pulled without this cache. {OWN_ENTRY}"),
        (true, true) => {
            format!(
                "{prefix} of {path} has its location here, and is not pulled at all. Name the registry's own there"
            )
        }
        (true, false) => {
            format!("that is not pulled at all, since {prefix} of {path} has its location here. {OWN_ENTRY}")
        }
    }
}
