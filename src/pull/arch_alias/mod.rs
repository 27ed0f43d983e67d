//! Arch aliases: `kube-proxy-arm64:v1` answered from the index `kube-proxy:v1`, and the other way round.

pub(crate) mod records;
pub(crate) mod resolve;
