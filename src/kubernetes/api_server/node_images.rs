//! What the runtime has, as the node's status says it: the largest 50 images, minutes old. Only a yes counts.
//!
//! Promises: the API server is asked once at a time, and once in half a minute, also where it does not answer; an API
//! server that is slow holds up the images that begin while it is asked for [`WAIT`] together, and none after that.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::client::ApiServer;
use crate::kubernetes::kept_answers::KeptAnswers;
use crate::kubernetes::source::ImagePresence;
use crate::reference::Image;

/// How long an answer counts: kubelet writes the status every few minutes.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// How long an answer is waited for, from the moment at which it is asked for: images begin to be fetched meanwhile.
const WAIT: Duration = Duration::from_secs(2);
/// Names of images that are kept at most: 50 images, of a few names each.
const NAMES_MAX: usize = 1_024;

/// The node as JSON; `None`: there was no answer.
type ReadNode = dyn Fn() -> BoxFuture<'static, Option<String>> + Send + Sync;

/// The images in the status of the node.
pub struct NodeImages {
    read: Arc<ReadNode>,
    kept: KeptAnswers<(), Arc<HashSet<Image>>>,
    /// When the node was asked for last.
    asked_at: Arc<Mutex<Instant>>,
}

impl NodeImages {
    /// Of the node that `server` is asked about.
    pub fn new(server: &Arc<ApiServer>) -> Self {
        let server = Arc::clone(server);
        Self::through(Arc::new(move || {
            let server = Arc::clone(&server);
            async move { server.get(format!("/api/v1/nodes/{}", server.node)).await.ok() }.boxed()
        }))
    }

    fn through(read: Arc<ReadNode>) -> Self {
        Self { read, kept: KeptAnswers::new(1), asked_at: Arc::new(Mutex::new(Instant::now())) }
    }

    async fn images(&self) -> Option<Arc<HashSet<Image>>> {
        let (read, asked_at) = (Arc::clone(&self.read), Arc::clone(&self.asked_at));
        let ask = move || {
            *asked_at.lock() = Instant::now();
            async move { Arc::new(read().await.map(|node| images_of(&node)).unwrap_or_default()) }
        };
        let mut answer = std::pin::pin!(self.kept.get((), |_| KEPT_FOR, ask));
        // Where none is kept, this begins to ask, or joins who asks.
        if let Some(images) = answer.as_mut().now_or_never() {
            return images;
        }
        let until = *self.asked_at.lock() + WAIT;
        timeout_at(until, answer).await.ok().flatten()
    }
}

/// What is read of a node. A list without entries is `null` in the API server's JSON, as `names` is of an image that
/// the runtime has without a tag and a digest.
#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    images: Option<Vec<ContainerImage>>,
}

#[derive(Deserialize)]
struct ContainerImage {
    #[serde(default)]
    names: Option<Vec<String>>,
}

impl ImagePresence for NodeImages {
    fn has<'a>(&'a self, image: &'a Image) -> BoxFuture<'a, bool> {
        async move { self.images().await.is_some_and(|images| images.contains(image)) }.boxed()
    }
}

fn images_of(node: &str) -> HashSet<Image> {
    let node = match serde_json::from_str::<Node>(node) {
        Ok(node) => node,
        Err(error) => {
            tracing::debug!(%error, "the images in the node's status are not understood: each counts as absent");
            return HashSet::new();
        }
    };
    let images = node.status.unwrap_or_default().images.unwrap_or_default();
    let names = images.into_iter().flat_map(|image| image.names.unwrap_or_default());
    names.take(NAMES_MAX).filter_map(|name| name.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    /// A node with `here:v1` whose status comes after `delay`, and how often it was asked for.
    fn node(delay: Duration) -> (NodeImages, Arc<AtomicUsize>) {
        let asked = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&asked);
        let read = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                sleep(delay).await;
                Some(r#"{"status":{"images":[{"names":["docker.io/library/here:v1"]}]}}"#.to_owned())
            }
            .boxed()
        };
        (NodeImages::through(Arc::new(read)), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn images_that_begin_together_ask_for_the_node_once_and_all_know_what_it_has() {
        let (images, asked) = node(Duration::from_secs(1));
        let (here, other) = ("here:v1".parse().unwrap(), "other:v1".parse().unwrap());
        let found = join_all([images.has(&here), images.has(&here), images.has(&other)]).await;
        assert_eq!((found, asked.load(Ordering::SeqCst)), (vec![true, true, false], 1));
        tokio::time::advance(KEPT_FOR).await;
        assert!(images.has(&here).await && asked.load(Ordering::SeqCst) == 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_api_server_costs_the_images_of_a_node_one_wait_together_and_its_answer_counts() {
        let (images, asked) = node(Duration::from_secs(9));
        let (here, begun) = ("here:v1".parse().unwrap(), Instant::now());
        for _ in 0..10 {
            assert!(!images.has(&here).await);
        }
        assert_eq!((begun.elapsed(), asked.load(Ordering::SeqCst)), (WAIT, 1));
        sleep(Duration::from_secs(8)).await;
        assert!(images.has(&here).await, "it came after all");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn images_of_a_node_are_known_by_all_their_names_and_a_broken_status_says_nothing() {
        let node = r#"{"status":{"images":[{"names":["docker.io/library/app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","docker.io/library/app:v1"],"sizeBytes":7},{"sizeBytes":1}]}}"#;
        let images = images_of(node);
        assert!(images.contains(&"app:v1".parse().unwrap()) && !images.contains(&"app:v2".parse().unwrap()));
        assert_eq!(images.len(), 2);
        for nothing in ["{", "{}", r#"{"status":null}"#, r#"{"status":{"images":null}}"#] {
            assert!(images_of(nothing).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn an_image_without_a_name_does_not_hide_those_that_have_one() {
        let node = r#"{"status":{"images":[{"names":null,"sizeBytes":9},{"names":["a:v1"]}]}}"#;
        assert!(images_of(node).contains(&"a:v1".parse().unwrap()));
    }
}
