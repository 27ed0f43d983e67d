//! Which manifests of an index are wanted: pure.

use crate::reference::{Child, Digest, Platform};

/// For whom an image is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// For these, as containerd would choose on such a machine.
    Only(Vec<Platform>),
    /// For all that there are.
    All,
}

/// A manifest of an index that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) digest: Digest,
    /// For whom, to choose again if it is an index itself.
    pub(super) platforms: Platforms,
    /// As the index calls it; empty if it does not.
    pub(super) name: String,
}

impl Platforms {
    /// Those named, or the node's own where there is none.
    pub fn of(named: Vec<Platform>) -> Self {
        Self::Only(if named.is_empty() { vec![Platform::host()] } else { named })
    }

    /// The manifests to fetch of an index with these entries.
    ///
    /// # Errors
    /// The platform for which there is none, and those that there are.
    pub(super) fn choose(&self, children: &[Child]) -> Result<Vec<Choice>, String> {
        let name = |child: &Child| child.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let wanted = match self {
            Self::All => {
                let all = children.iter().map(|child| Choice {
                    digest: child.digest,
                    platforms: Self::All,
                    name: name(child),
                });
                return Ok(all.collect());
            }
            Self::Only(wanted) => wanted,
        };
        let mut chosen: Vec<Choice> = Vec::new();
        for platform in wanted {
            let best = platform.choose(children.iter().map(|child| child.platform.as_ref()));
            let Some(child) = best.first().and_then(|at| children.get(*at)) else {
                let there: Vec<String> = children.iter().map(name).collect();
                return Err(format!("it is not there for {platform}, only for {}", there.join(", ")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_would_choose_is_chosen_and_what_is_not_there_is_named() {
        let children: Vec<Child> = ["linux/amd64", "linux/arm64", "linux/arm/v7", "unknown/unknown"]
            .iter()
            .map(|text| Child { digest: Digest::of(text.as_bytes()), size: 1, platform: text.parse().ok() })
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
        let error = names(&only(&["linux/s390x"])).unwrap_err();
        assert!(error.contains("linux/s390x") && error.contains("linux/arm/v7"), "{error}");
        assert_eq!(Platforms::of(Vec::new()), Platforms::Only(vec![Platform::host()]));
    }
}
