//! The servers that are compared: their names, their groups, and which of them a run measures.

use std::env;

/// The servers that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Larder,
    /// An earlier build, from `BENCH_BEFORE`.
    LarderBefore,
    NginxSendfile,
    NginxBuffers,
    NginxCache,
    Registry,
    RegistryCache,
    Varnish,
    TrafficServer,
    Drayage,
    /// The upstream itself, without a cache before it.
    Direct,
}

impl Kind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Larder,
        Self::LarderBefore,
        Self::NginxSendfile,
        Self::NginxBuffers,
        Self::NginxCache,
        Self::Registry,
        Self::RegistryCache,
        Self::Varnish,
        Self::TrafficServer,
        Self::Drayage,
        Self::Direct,
    ];
    /// The servers that serve files and cannot fetch them.
    pub(crate) const STATIC: [Self; 2] = [Self::NginxSendfile, Self::NginxBuffers];
    /// The servers that fetch what they do not have.
    pub(crate) const CACHES: [Self; 7] = [
        Self::Larder,
        Self::LarderBefore,
        Self::NginxCache,
        Self::RegistryCache,
        Self::Varnish,
        Self::TrafficServer,
        Self::Drayage,
    ];
    /// The builds of Larder.
    pub(crate) const LARDERS: [Self; 2] = [Self::Larder, Self::LarderBefore];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Larder => "Larder",
            Self::LarderBefore => "Larder before",
            Self::NginxSendfile => "nginx, sendfile on",
            Self::NginxBuffers => "nginx, sendfile off",
            Self::NginxCache => "nginx, proxy_cache",
            Self::Registry => "docker-registry",
            Self::RegistryCache => "docker-registry, pull-through",
            Self::Varnish => "Varnish",
            Self::TrafficServer => "Traffic Server",
            Self::Drayage => "drayage",
            Self::Direct => "direct",
        }
    }

    /// A peer: neither a build of Larder nor the upstream itself. A peer that fails is left out of a row; the others end the
    /// run.
    pub(crate) fn is_peer(self) -> bool {
        !Self::LARDERS.contains(&self) && self != Self::Direct
    }

    /// Whether this run measures it. Two builds of Larder are compared with each other alone (`BENCH_COMPARE`);
    /// `BENCH_PEERS` is a list of the beginnings of peers' names, in lower case with hyphens: `nginx-proxy_cache,varnish`, or
    /// `none`.
    pub(crate) fn is_chosen(self) -> bool {
        let is_compared = env::var_os("BENCH_COMPARE").is_some();
        match self {
            Self::Larder => true,
            Self::LarderBefore => env::var_os("BENCH_BEFORE").is_some(),
            _ if is_compared => false,
            Self::Direct => true,
            peer => {
                let name = peer.name().to_lowercase().replace(", ", "-").replace(' ', "-");
                let chosen = env::var("BENCH_PEERS").unwrap_or_default();
                chosen.is_empty() || chosen.split(',').any(|one| name.starts_with(one))
            }
        }
    }
}
