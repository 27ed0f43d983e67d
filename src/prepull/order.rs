//! What images are fetched, with which pull secrets, for which platforms.

use super::plan::Platforms;
use crate::credentials::PullSecrets;
use crate::reference::Image;

/// An image to fetch, and the pull secrets that may be used for it.
#[derive(Debug, Clone)]
pub struct RequestedImage {
    /// The image.
    pub image: Image,
    /// Pull secrets, merged as kubelet merges those of a pod.
    pub secrets: PullSecrets,
}

/// Each image once, with the secrets of all its mentions.
pub fn merge_duplicates(all: Vec<RequestedImage>) -> Vec<RequestedImage> {
    let mut each: Vec<RequestedImage> = Vec::new();
    for requested in all {
        match each.iter_mut().find(|before| before.image == requested.image) {
            Some(before) => before.secrets.merge(&requested.secrets),
            None => each.push(requested),
        }
    }
    each
}

/// Images to fetch together.
#[derive(Debug, Clone)]
pub struct Order {
    /// The images, each once.
    pub images: Vec<RequestedImage>,
    /// The platforms to fetch them for.
    pub platforms: Platforms,
    /// The owner of their pins; `None`: they are not pinned.
    pub pin: Option<PinOwner>,
    /// Images at a time.
    pub concurrency: usize,
}

/// The owner of a pin: the list ends the pins that it owns when it names their image no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinOwner {
    /// A command: the pin stays until `larder unpin`.
    Command,
    /// `[prepull]`.
    List,
}

impl PinOwner {
    /// The name that is written into the pin.
    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::List => "list",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_named_twice_is_fetched_once() {
        let requested =
            |name: &str| RequestedImage { image: name.parse().unwrap(), secrets: PullSecrets::default() };
        let all =
            vec![requested("nginx"), requested("quay.io/a:1"), requested("docker.io/library/nginx:latest")];
        let names: Vec<String> = merge_duplicates(all).iter().map(|each| each.image.to_string()).collect();
        assert_eq!(names, ["docker.io/library/nginx:latest", "quay.io/a:1"]);
    }
}
