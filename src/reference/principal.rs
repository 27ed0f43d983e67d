//! Principals: whom a right belongs to, known by a keyed hash and never by a secret.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a request brings: the kind decides how a right of this principal ends and who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    /// A credential that came with the request: this caller's alone.
    Caller,
    /// A credential of the node's docker config: every pod's.
    Node,
    /// A credential that a kubelet credential-provider plugin gave: every pod's.
    Provider,
    /// No credential: that of every caller.
    Anonymous,
}

impl PrincipalKind {
    /// The value of the `principal` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Node => "node",
            Self::Provider => "provider",
            Self::Anonymous => "anonymous",
        }
    }

    /// Whether every pod of the node may use what this principal may read.
    pub fn is_shared(self) -> bool {
        self != Self::Caller
    }
}

/// A principal. Its fingerprint is made with a key of this node, so that it says nothing elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    /// What it is.
    pub kind: PrincipalKind,
    fingerprint: [u8; 16],
}

impl Principal {
    /// A principal with this fingerprint.
    pub fn new(kind: PrincipalKind, fingerprint: [u8; 16]) -> Self {
        Self { kind, fingerprint }
    }
}

impl fmt::Display for Principal {
    /// `kind-<32 hex digits>`: a file name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:032x}", self.kind.label(), u128::from_be_bytes(self.fingerprint))
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that names no principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a principal")]
pub struct PrincipalError;

impl FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, PrincipalError> {
        let (kind, hex) = text.split_once('-').ok_or(PrincipalError)?;
        let kinds =
            [PrincipalKind::Caller, PrincipalKind::Node, PrincipalKind::Provider, PrincipalKind::Anonymous];
        let kind = kinds.into_iter().find(|k| k.label() == kind).ok_or(PrincipalError)?;
        if hex.len() != 32 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(PrincipalError);
        }
        let number = u128::from_str_radix(hex, 16).map_err(|_| PrincipalError)?;
        Ok(Self { kind, fingerprint: number.to_be_bytes() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_and_nothing_else_is_one() {
        let principal = Principal::new(PrincipalKind::Caller, [7; 16]);
        assert_eq!(principal.to_string().parse(), Ok(principal));
        let hex = "0".repeat(32);
        for bad in [
            "",
            "caller",
            "caller-",
            &format!("king-{hex}"),
            &format!("caller-{hex}0"),
            &format!("caller-+{}", &hex[1..]),
        ] {
            assert_eq!(bad.parse::<Principal>(), Err(PrincipalError), "{bad}");
        }
    }
}
