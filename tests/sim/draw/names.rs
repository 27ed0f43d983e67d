//! Names that nodes share, for some of the histories with a shared tier, and outages in which they count: added to what is
//! drawn without them, by random numbers of its own.

use crate::plan::{
    Act, BucketAct, Fault, FaultKind, Manner, Method, NameKind, Part, Plan, Pull, Repo, Step, Who,
};
use crate::rng::Rng;

/// Per cent of the histories with a tier.
const SHARE: u64 = 50;
/// Its faults are numbered from here on.
const FAULTS: u32 = 2_000;
/// Apart from the numbers that the rest is drawn by.
const APART: u64 = 0x6e61_6d65;

/// Adds shared names, or not.
pub(super) fn add(plan: &mut Plan) {
    let mut rng = Rng::new(plan.seed ^ APART);
    if !plan.setup.tier || !rng.chance(SHARE) {
        return;
    }
    plan.setup.names = true;
    for id in FAULTS..FAULTS + 1 + rng.below(3) as u32 {
        let at = rng.below(plan.steps.len() as u64 + 1) as usize;
        for act in acts(&mut rng, id).into_iter().rev() {
            plan.steps.insert(at, Step { after_ms: rng.below(600), act });
        }
    }
}

/// What another node has shared of an image, or what looks like that; then its registry goes away, and clients ask.
fn acts(rng: &mut Rng, id: u32) -> Vec<Act> {
    let names = |repo, how| Act::Bucket(BucketAct::Names { repo, how });
    let (repo, mut acts) = if rng.chance(50) {
        let repo = rng.pick(&[Repo::Open, Repo::Hub, Repo::Proj]);
        (repo, vec![names(repo, NameKind::Right)])
    } else {
        let repo = rng.pick(&[Repo::TeamA, Repo::TeamB]);
        let forged = [NameKind::Old, NameKind::Future, NameKind::OtherKey, NameKind::Moved];
        let acts = match rng.chance(30) {
            // An older word that comes late.
            true => vec![names(repo, NameKind::Closed), names(repo, NameKind::Right)],
            false => vec![names(repo, rng.pick(&forged))],
        };
        (repo, acts)
    };
    acts.insert(0, Act::Bucket(BucketAct::Shared(repo)));
    let kind = rng.pick(&[FaultKind::Refuse, FaultKind::NoName, FaultKind::Status(503)]);
    let (part, method) = (Part::Any, Method::Any);
    acts.push(Act::Fault(Fault { id, host: repo.host(), part, method, repo: None, times: None, kind }));
    for who in [Who::Nobody, Who::Bob] {
        if who == Who::Nobody || repo == Repo::TeamA && rng.chance(50) {
            acts.push(Act::Pull(Pull { who, repo, manner: Manner::default() }));
        }
    }
    acts.push(Act::Wait { seconds: 1 + rng.below(40) });
    acts.push(Act::Heal(id));
    acts
}
