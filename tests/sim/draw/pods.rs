//! Pods of several tenants, among whatever else a history is about.

use crate::plan::{Act, Manner, Plan, PodSecret, Pull, Repo, Step, Who};
use crate::rng::Rng;

/// One seed in so many has pods. They are drawn apart from everything else, so that every other seed means what it meant.
const EVERY: u64 = 10;

/// Whether the history of this seed has pods.
pub(super) fn has_pods(seed: u64) -> bool {
    seed % EVERY == EVERY - 1
}

/// Adds pods, and what goes wrong around them, at places of the plan.
pub(super) fn add(plan: &mut Plan) {
    let mut rng = Rng::new(plan.seed ^ 0x706f_6473);
    plan.setup.pods = true;
    let (mut bound, mut away) = (0, false);
    for _ in 0..3 + rng.below(6) {
        let acts = acts(&mut rng, &mut bound, &mut away);
        let first = rng.below(plan.steps.len() as u64 + 1) as usize;
        for (n, act) in acts.into_iter().enumerate() {
            let after_ms = rng.pick(&[0, 5, 100, 900, 5_000]);
            plan.steps.insert(first + n, Step { after_ms, act });
        }
    }
}

fn acts(rng: &mut Rng, bound: &mut u32, away: &mut bool) -> Vec<Act> {
    let repo = rng.pick(&[Repo::TeamA, Repo::TeamA, Repo::TeamB, Repo::Shared, Repo::Open, Repo::Hub]);
    let owner = match repo {
        Repo::TeamA => Who::Alice,
        Repo::TeamB => Who::Bob,
        Repo::Shared => rng.pick(&[Who::Alice, Who::Bob]),
        _ => Who::Nobody,
    };
    let other = rng.pick(&[Who::Nobody, Who::Alice, Who::Bob, Who::Mallory]);
    *bound += 1;
    let id = *bound;
    let pull = |who| Act::Pull(Pull { who, repo, manner: Manner { mirror: true, ..Manner::default() } });
    let also = rng.pick(&[None, None, Some(Repo::TeamA), Some(Repo::Shared), Some(Repo::Open)]);
    let pod = |who| Act::Pod { id, who, repo, also };
    let secret = |is| Act::Secret { who: owner, is };
    let wait = Act::Wait { seconds: rng.pick(&[1, 3, 30]) };
    match rng.below(11) {
        // kubelet asks a moment later, and then a neighbour.
        0 | 1 => vec![pod(owner), wait, pull(owner), pull(other)],
        // The neighbour asks first, and for a pod of its own, too.
        2 => vec![pod(owner), wait, pull(other)],
        3 => vec![pod(other), wait, pull(other), pull(owner)],
        // The secret is no longer right between bind and pull.
        4 if owner != Who::Nobody => {
            let ends = Act::Right { who: owner, repo, may: false };
            vec![pod(owner), wait, ends, Act::Wait { seconds: 320 }, pull(owner)]
        }
        5 => vec![pod(owner), Act::PodGone(id), pull(owner)],
        6 => {
            *away = !*away;
            vec![Act::ApiServer { away: *away }, pod(owner), pull(owner)]
        }
        // The secret is none that opens it, at the bind or from then on.
        7 | 8 if owner != Who::Nobody => {
            let is = rng.pick(&[
                PodSecret::Wrong,
                PodSecret::Wrong,
                PodSecret::Gone,
                PodSecret::Malformed,
                PodSecret::Unanswered,
            ]);
            vec![secret(is), pod(owner), wait, pull(owner), pull(other), secret(PodSecret::Right)]
        }
        9 if owner != Who::Nobody => {
            let right = |may| Act::Right { who: owner, repo, may };
            let revoked = [secret(PodSecret::Wrong), right(false)];
            [pod(owner), wait]
                .into_iter()
                .chain(revoked)
                .chain([pull(owner), secret(PodSecret::Right)])
                .collect()
        }
        _ => vec![pod(owner), pull(owner)],
    }
}
