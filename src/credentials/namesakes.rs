//! The principals of credentials that have the same key and user name.

use std::collections::HashMap;

use super::keys::Keys;
use crate::reference::{Principal, PrincipalKind};

/// Distinguishes credentials with the same key and user name and with different passwords: each is a principal of its
/// own, so that the denial of one, or the token of one, is not taken for the other's. The first is known by key and
/// user name alone, and so keeps its rights when its password is changed.
#[derive(Default)]
pub(super) struct Namesakes(HashMap<Vec<String>, usize>);

impl Namesakes {
    pub(super) fn principal(&mut self, keys: &Keys, kind: PrincipalKind, parts: &[&str]) -> Principal {
        let name = [kind.label()].iter().chain(parts).map(|part| (*part).to_owned()).collect();
        let before = self.0.entry(name).or_default();
        *before += 1;
        match *before {
            1 => keys.principal(kind, parts),
            nth => keys.principal(kind, &[parts, &[nth.to_string().as_str()]].concat()),
        }
    }
}
