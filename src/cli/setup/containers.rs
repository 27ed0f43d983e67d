//! podman and CRI-O: a file in `registries.conf.d` with this cache as the first mirror of each registry, by path prefix.
//!
//! containers/image shows no credential for a registry to a mirror of another host: through it this cache serves what the
//! node's credentials or anonymous callers may read.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::change::Files;
use super::plan::{SetupPlan, SetupRequest};

/// A file of our own; later ones win, so that an operator's can.
const FILE: &str = "/etc/containers/registries.conf.d/010-larder.conf";
/// Registries that every cluster pulls from; mirrors cannot be named for all at once.
const BEST_KNOWN: [&str; 7] =
    ["docker.io", "gcr.io", "ghcr.io", "mcr.microsoft.com", "public.ecr.aws", "quay.io", "registry.k8s.io"];

pub(super) fn plan(files: &Files, request: &SetupRequest) -> Result<SetupPlan, String> {
    let mut plan = SetupPlan::default();
    let mut change = files.read(FILE)?;
    if request.undo {
        change.after = None;
        plan.changes.push(change);
        return Ok(plan);
    }
    let registries: BTreeSet<String> = if request.registries.is_empty() {
        let configured = request.configured.iter().cloned();
        BEST_KNOWN.iter().map(|name| (*name).to_owned()).chain(configured).collect()
    } else {
        request.registries.iter().cloned().collect()
    };
    let mut text = "# Written by `larder setup`, removed by `larder setup podman --undo`.\n".to_owned();
    for registry in &registries {
        // Writing to a String cannot fail.
        let _ = if request.strict {
            write!(
                text,
                "\n[[registry]]\nprefix = \"{registry}\"\nlocation = \"{}/{registry}\"\ninsecure = true\n",
                request.authority
            )
        } else {
            write!(
                text,
                "\n[[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\n\n[[registry.mirror]]\nlocation = \"{}/{registry}\"\ninsecure = true\n",
                request.authority
            )
        };
    }
    let _: toml_edit::DocumentMut = text.parse().map_err(|error| format!("{FILE}: {error}"))?;
    change.after = Some(text);
    plan.changes.push(change);
    plan.notes.push("CRI-O reads it again with: systemctl reload crio".to_owned());
    plan.notes.push("podman and CRI-O show no credential to a mirror: private images are served from here only where the node's own docker config may read them".to_owned());
    Ok(plan)
}
