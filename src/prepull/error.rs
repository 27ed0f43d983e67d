//! Why an image is not fetched ahead.

use super::tree::TreeError;
use crate::pull::{self, Fault};
use crate::store;

/// Why an image could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pull failed.
    #[error(transparent)]
    Pull(#[from] pull::Error),
    /// The pins could not be changed.
    #[error(transparent)]
    Pins(#[from] store::Error),
    /// The image itself.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// What is left of a rate limit is for pods that wait.
    #[error(
        "the rate limit of its registry is nearly used up, and what is left is kept for pods; try again later"
    )]
    RateLimit,
    /// What came first may have been evicted for what came last, or a disk may have refused it.
    #[error(
        "{missing} of its {all} manifests and blobs are not in the store: it has no room for all of them, or its disk failed"
    )]
    NotStored {
        /// Manifests and blobs that are not there.
        missing: usize,
        /// Of so many.
        all: usize,
    },
    /// Nothing that is fetched ahead would be stored.
    #[error("the store has no room, or its disk failed a moment ago")]
    NoRoom,
    /// None of the callers was let in, and none was refused either.
    #[error("no credential may be used for it")]
    NoCaller,
}

impl Error {
    /// Whether the registry says that these callers may not have it, or that it does not have it: asking again a moment
    /// later leads to the same.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Pull(error) => {
                matches!(error.fault(), Fault::Refused(_) | Fault::NotFound | Fault::AuthenticationRequired)
            }
            Self::Tree(_) | Self::NoCaller => true,
            Self::Pins(_) | Self::RateLimit | Self::NotStored { .. } | Self::NoRoom => false,
        }
    }

    /// Whether a pod that pulls the image now fails of the same: not where only a fetch ahead does, which leaves the
    /// rest of a rate limit to pods, needs all of an image in the store, and may be asked for a platform of no pod.
    pub fn is_met_by_pods(&self) -> bool {
        use pull::Error::{NoClient, NotStored, RateLimitReserved};
        matches!(self, Self::Pull(error) if !matches!(error, NoClient | NotStored(_) | RateLimitReserved { .. }))
    }

    /// Whether the store does not take it: asking again a moment later costs the registry the same and leads to the
    /// same.
    pub fn is_not_stored(&self) -> bool {
        matches!(self, Self::NotStored { .. } | Self::NoRoom | Self::Pull(pull::Error::NotStored(_)))
    }
}
