//! The clients of a history: what they ask for, and waiting for their answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::listener::memory::Dialer;
use larder::reference::Digest;
use tokio::task::JoinSet;

use super::{LAST_ANSWERS, World};
use crate::catalog::catalog;
use crate::client::{self, Ask, Reply};
use crate::plan::{Act, Get, Manner, Pull, Repo, What, Who};
use crate::time::Now;

impl World {
    pub(super) fn get(&mut self, number: usize, get: &Get) {
        let digest = self.upstreams.truth(|truth, _| truth.digest_of(get.repo, get.what));
        let ask = new_ask(get.who, get.repo, get.what, digest, get.head, get.range, &get.manner, number);
        let (now, dialer) = (self.now.clone(), self.dialer.lock().unwrap().clone());
        self.asks.spawn(async move { vec![client::ask(dialer, &now, ask).await] });
    }

    pub(super) fn pull(&mut self, number: usize, pull: &Pull) {
        let (now, dialer, pull) = (self.now.clone(), Arc::clone(&self.dialer), pull.clone());
        self.asks.spawn(async move { pull_image(&now, &dialer, &pull, number).await });
    }

    pub(super) async fn collect(&mut self, wait: Duration) -> usize {
        let all = async {
            while let Some(asks) = self.asks.join_next().await {
                match asks {
                    Ok(asks) => self.done.extend(asks),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                }
            }
        };
        let _ = tokio::time::timeout(wait, all).await;
        self.asks.len()
    }

    /// Everybody asks again for what the plan was about.
    pub(super) async fn probe(&mut self) {
        let mut repos: Vec<Repo> = self.plan.steps.iter().filter_map(|step| repo_of(&step.act)).collect();
        repos.sort();
        repos.dedup();
        for repo in repos.into_iter().filter(|repo| *repo != Repo::Evil) {
            let all: &[Who] = if repo.is_public() { &[Who::Nobody] } else { &[Who::Alice, Who::Bob] };
            for who in all {
                let pull = Pull { who: *who, repo, manner: Manner::default() };
                self.pull(usize::MAX, &pull);
            }
            self.collect(LAST_ANSWERS).await;
        }
    }
}

fn repo_of(act: &Act) -> Option<Repo> {
    match act {
        Act::Pull(pull) => Some(pull.repo),
        Act::Get(get) => Some(get.repo),
        Act::Prefetch { repo, .. } | Act::Remove(repo) => Some(*repo),
        _ => None,
    }
}

#[allow(clippy::too_many_arguments, reason = "they are the request")]
fn new_ask(
    who: Who,
    repo: Repo,
    what: What,
    digest: Option<Digest>,
    head: bool,
    range: Option<(u64, u64)>,
    manner: &Manner,
    step: usize,
) -> Ask {
    let (manner, reply) = (manner.clone(), Reply::default());
    Ask { who, repo, what, digest, head, range, manner, step, begun: 0, reply }
}

/// A whole image, as a runtime pulls it: tag, index, manifest, config and layers.
async fn pull_image(now: &Now, dialer: &Arc<Mutex<Option<Dialer>>>, pull: &Pull, number: usize) -> Vec<Ask> {
    let current = || dialer.lock().unwrap().clone();
    let ask =
        |what, digest, head| new_ask(pull.who, pull.repo, what, digest, head, None, &pull.manner, number);
    let mut done = Vec::new();
    let resolved = client::ask(current(), now, ask(What::Tag, None, true)).await;
    let top = resolved.reply.header("docker-content-digest").and_then(|d| d.parse::<Digest>().ok());
    let success = resolved.reply.is_success();
    done.push(resolved);
    let (true, Some(top)) = (success, top) else { return done };
    let Some(image) = catalog().versions(pull.repo).iter().find(|image| image.top == top) else {
        return done;
    };
    let mut manifests = vec![image.top];
    if image.manifest != image.top {
        manifests.push(image.manifest);
    }
    for digest in manifests {
        let got = client::ask(current(), now, ask(What::Manifest, Some(digest), false)).await;
        let well = got.reply.is_success() && got.reply.complete;
        done.push(got);
        if !well {
            return done;
        }
    }
    let mut parts = JoinSet::new();
    let blobs = std::iter::once(image.config).chain(image.layers.iter().copied());
    for (at, digest) in blobs.enumerate() {
        let what = What::Layer(at.saturating_sub(1) as u8);
        let (ask, now, dialer) = (ask(what, Some(digest), false), now.clone(), current());
        parts.spawn(async move { client::ask(dialer, &now, ask).await });
    }
    done.extend(parts.join_all().await);
    done
}
