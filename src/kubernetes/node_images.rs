//! What the runtime has, as the node's status says it: the largest 50 images, minutes old. Only a yes counts.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::time::Instant;

use super::api_server::ApiServer;
use super::source::ImagePresence;
use crate::reference::Image;

/// How long an answer counts: kubelet writes the status every few minutes.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// Names of images that are kept at most: 50 images, of a few names each.
const NAMES_MAX: usize = 1_024;

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    images: Vec<ContainerImage>,
}

#[derive(Deserialize)]
struct ContainerImage {
    #[serde(default)]
    names: Vec<String>,
}

impl ImagePresence for ApiServer {
    fn has<'a>(&'a self, image: &'a Image) -> BoxFuture<'a, bool> {
        async move {
            let known = |kept: &Option<(Instant, HashSet<Image>)>| {
                let (read_at, images) = kept.as_ref()?;
                (read_at.elapsed() < KEPT_FOR).then(|| images.contains(image))
            };
            let found = known(&self.node_images.lock());
            if let Some(found) = found {
                return found;
            }
            let answer = self.get(format!("/api/v1/nodes/{}", self.node)).await;
            let images = answer.map(|text| images_of(&text)).unwrap_or_default();
            let found = images.contains(image);
            *self.node_images.lock() = Some((Instant::now(), images));
            found
        }
        .boxed()
    }
}

fn images_of(node: &str) -> HashSet<Image> {
    let Ok(node) = serde_json::from_str::<Node>(node) else { return HashSet::new() };
    let names = node.status.images.into_iter().flat_map(|image| image.names);
    names.take(NAMES_MAX).filter_map(|name| name.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_a_node_are_known_by_all_their_names_and_a_broken_status_says_nothing() {
        let node = r#"{"status":{"images":[{"names":["docker.io/library/app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","docker.io/library/app:v1"],"sizeBytes":7},{"sizeBytes":1}]}}"#;
        let images = images_of(node);
        assert!(images.contains(&"app:v1".parse().unwrap()) && !images.contains(&"app:v2".parse().unwrap()));
        assert_eq!(images.len(), 2);
        assert!(images_of("{").is_empty() && images_of("{}").is_empty());
    }
}
