//! Image names as people write them, normalised as containerd's CRI and kubelet do.
//!
//! The rules are those of distribution/reference `ParseDockerRef`: a default registry, `library/`, the tag
//! `latest`, and a digest that drops the tag beside it. The vectors in the tests were taken from running it.

use std::fmt;
use std::str::FromStr;

use super::name::{DOCKER_HUB, NameError, Registry, Repository};
use super::{Algorithm, Digest, DigestError, Tag, TagError};

/// What a request asks of a repository: a movable name or fixed content.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reference {
    /// By tag: what it means is upstream's to say.
    Tag(Tag),
    /// By digest: what it means never changes.
    Digest(Digest),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => fmt::Display::fmt(tag, f),
            Self::Digest(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl From<Tag> for Reference {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    /// Reads the last segment of a manifest URL: with a colon it must be a digest, without one a tag.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        Ok(if text.contains(':') { Self::Digest(text.parse()?) } else { Self::Tag(text.parse()?) })
    }
}

/// A complete image name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Image {
    /// Where it lives.
    pub repository: Repository,
    /// Which of its manifests.
    pub reference: Reference,
}

/// Why a text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The registry or the repository.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The tag.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// 64 hex digits alone would be read as an image identifier by every client.
    #[error("64 hex digits are an image identifier, not a name")]
    Identifier,
}

impl FromStr for Image {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        if Digest::from_hex(text).is_ok_and(|digest| digest.algorithm() == Algorithm::Sha256) {
            return Err(ImageError::Identifier);
        }
        let (registry, rest) = match text.split_once('/') {
            Some((first, rest)) if Registry::looks_like_one(first) => (first, rest),
            _ => (DOCKER_HUB, text),
        };
        let registry = registry.parse::<Registry>()?.canonical();
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (rest, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag.parse::<Tag>()?)),
            None => (rest, None),
        };
        let reference = match (digest, tag) {
            (Some(digest), _) => Reference::Digest(digest),
            (None, Some(tag)) => Reference::Tag(tag),
            (None, None) => Reference::Tag(Tag::latest()),
        };
        Ok(Self { repository: Repository::new(registry, path.parse()?)?, reference })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(f, "{}{separator}{}", self.repository, self.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_as_containerd_does_it() {
        let digest = format!("sha256:{HEX}");
        for (input, expected) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("library/nginx", "docker.io/library/nginx:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx:x", "docker.io/library/nginx:x"),
            ("registry-1.docker.io/library/nginx", "registry-1.docker.io/library/nginx:latest"),
            ("acme/app", "docker.io/acme/app:latest"),
            ("acme/team/app", "docker.io/acme/team/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("quay.io", "docker.io/library/quay.io:latest"),
            ("docker.io", "docker.io/library/docker.io:latest"),
            ("library", "docker.io/library/library:latest"),
            ("myhost/app", "docker.io/myhost/app:latest"),
            ("my.host:5000/team/app:1.0", "my.host:5000/team/app:1.0"),
            ("Foo/bar", "foo/bar:latest"),
            ("LOCALDOMAIN/app", "localdomain/app:latest"),
            ("Reg.Test:5000/app", "reg.test:5000/app:latest"),
            ("Index.Docker.IO/nginx", "docker.io/library/nginx:latest"),
            ("nginx:Latest", "docker.io/library/nginx:Latest"),
            ("127.0.0.1/app", "127.0.0.1/app:latest"),
            ("[::1]:5000/app:t", "[::1]:5000/app:t"),
            ("quay.io:443/x", "quay.io:443/x:latest"),
            ("my_host/app", "docker.io/my_host/app:latest"),
            ("x__y/z", "docker.io/x__y/z:latest"),
            ("x--y/z", "docker.io/x--y/z:latest"),
            (&format!("docker.io/{HEX}"), &format!("docker.io/library/{HEX}:latest")),
            (&format!("nginx:1.25@{digest}"), &format!("docker.io/library/nginx@{digest}")),
            (&format!("my.host:5000/app:v1@{digest}"), &format!("my.host:5000/app@{digest}")),
        ] {
            assert_eq!(input.parse::<Image>().map(|i| i.to_string()).as_deref(), Ok(expected), "{input}");
        }
    }

    #[test]
    fn what_no_client_accepts_is_refused() {
        for input in [
            "",
            "foo/Bar",
            "FOO",
            "[fe80::1%eth0]:5000/x",
            "[fc00::1]",
            "my_host.com:5000/app",
            "https://quay.io/x",
            "x//y",
            "x/",
            "-x/y",
            "x..y/z",
            "x___y/z",
            HEX,
            &format!("nginx:{}", "x".repeat(129)),
            &format!("nginx@sha256:{}", HEX.to_uppercase()),
            &format!("nginx@sha512:{HEX}"),
            "nginx:",
            "nginx@",
            &format!("quay.io/{}", "a".repeat(250)),
        ] {
            assert!(input.parse::<Image>().is_err(), "{input:?}");
        }
    }
}
