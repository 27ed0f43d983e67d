//! Which manifests of an index are fetched: pure.

use crate::reference::{Child, Digest, Platform};
use crate::support::short_text::shortened;

/// The platforms that an image is fetched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// These: for each the manifest that containerd would choose on such a machine.
    Only(Vec<Platform>),
    /// Every platform of the image.
    All,
}

/// A platform that an image does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not there for {platform}, only for {available}")]
pub struct NoPlatform {
    platform: Platform,
    available: String,
}

/// Platforms that an error names at most: an index may list thousands.
const PLATFORMS_NAMED: usize = 8;
/// Characters of each, which an index may give as it likes.
const PLATFORM_CHARS_MAX: usize = 64;

/// A manifest of an index that is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) digest: Digest,
    /// To choose again with, if the manifest is an index itself.
    pub(super) platforms: Platforms,
    /// The platform that the index gives; empty if it gives none.
    pub(super) name: String,
}

impl Platforms {
    /// The platforms that are named, or the node's own where none is.
    pub fn of(named: Vec<Platform>) -> Self {
        Self::Only(if named.is_empty() { vec![Platform::host()] } else { named })
    }

    /// The manifests to fetch of an index with these entries.
    ///
    /// # Errors
    /// The first platform that the index does not have.
    pub(super) fn choose(&self, children: &[Child]) -> Result<Vec<Choice>, NoPlatform> {
        let name = |child: &Child| child.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let platforms = match self {
            Self::All => {
                let all = children.iter().map(|child| Choice {
                    digest: child.digest,
                    platforms: Self::All,
                    name: name(child),
                });
                return Ok(all.collect());
            }
            Self::Only(platforms) => platforms,
        };
        let mut chosen: Vec<Choice> = Vec::new();
        for platform in platforms {
            let best = platform.choose(children.iter().map(|child| child.platform.as_ref()));
            let Some(child) = best.first().and_then(|at| children.get(*at)) else {
                let available = named(children.iter().map(name));
                return Err(NoPlatform { platform: platform.clone(), available });
            };
            let platforms = Self::Only(vec![platform.clone()]);
            let choice = Choice { digest: child.digest, platforms, name: name(child) };
            if !chosen.iter().any(|before| before.digest == choice.digest) {
                chosen.push(choice);
            }
        }
        Ok(chosen)
    }
}

/// The first of some platforms, and how many there are beside them.
fn named(platforms: impl ExactSizeIterator<Item = String>) -> String {
    let more = platforms.len().saturating_sub(PLATFORMS_NAMED);
    let first = platforms.take(PLATFORMS_NAMED).map(|name| shortened(&name, PLATFORM_CHARS_MAX));
    let first = first.collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_would_choose_is_chosen_and_what_is_not_there_is_named() {
        let children: Vec<Child> = ["linux/amd64", "linux/arm64", "linux/arm/v7", "unknown/unknown"]
            .iter()
            .map(|text| (Digest::of(text.as_bytes()), text.parse().ok()))
            .map(|(digest, platform)| Child {
                digest,
                size: 1,
                platform,
                is_foreign: false,
                is_read_whole: true,
            })
            .collect();
        let names = |platforms: &Platforms| {
            platforms.choose(&children).map(|all| all.into_iter().map(|c| c.name).collect::<Vec<_>>())
        };
        let only = |texts: &[&str]| Platforms::Only(texts.iter().map(|t| t.parse().unwrap()).collect());
        assert_eq!(names(&only(&["linux/arm64"])).unwrap(), ["linux/arm64"]);
        assert_eq!(
            names(&only(&["linux/arm64/v8", "linux/amd64", "linux/arm64"])).unwrap(),
            ["linux/arm64", "linux/amd64"]
        );
        assert_eq!(names(&Platforms::All).unwrap().len(), 4);
        let error = names(&only(&["linux/s390x"])).unwrap_err().to_string();
        assert!(error.contains("linux/s390x") && error.contains("linux/arm/v7"), "{error}");
        assert_eq!(Platforms::of(Vec::new()), Platforms::Only(vec![Platform::host()]));
    }
}
