//! A shared tier for some histories, and what happens in its bucket: added to what is drawn without it, by random numbers of
//! its own, so that a seed without a tier remains the history that it was.

use crate::plan::{
    Act, BucketAct, Damage, DamageKind, Fault, FaultKind, Host, Manner, Method, Part, Plan, Pull, Repo, Step,
    Who,
};
use crate::rng::Rng;

/// Per cent of the histories that have one.
const SHARE: u64 = 25;
/// Its faults are numbered from here on.
const FAULTS: u32 = 1_000;
/// Apart from the numbers that the rest is drawn by. No seed that `mutations.txt` names is among those with a tier.
const APART: u64 = 0x7469_65b8;

/// Adds a tier, or not.
pub(super) fn add(plan: &mut Plan) {
    let mut draw = Draw { rng: Rng::new(plan.seed ^ APART), repos: repos(plan), faults: FAULTS };
    if draw.repos.is_empty() || !draw.rng.chance(SHARE) {
        return;
    }
    plan.setup.tier = true;
    // What another node has shared before is what a tier is for.
    if draw.rng.chance(60) {
        let repo = draw.repo();
        plan.steps.insert(0, Step { after_ms: 0, act: Act::Bucket(BucketAct::Shared(repo)) });
    }
    for _ in 0..2 + draw.rng.below(5) {
        let at = draw.rng.below(plan.steps.len() as u64 + 1) as usize;
        for act in draw.acts().into_iter().rev() {
            plan.steps.insert(at, Step { after_ms: draw.rng.below(600), act });
        }
    }
}

/// The repositories that clients ask for.
fn repos(plan: &Plan) -> Vec<Repo> {
    let asked = plan.steps.iter().filter_map(|step| match &step.act {
        Act::Pull(pull) => Some(pull.repo),
        Act::Get(get) => Some(get.repo),
        _ => None,
    });
    asked.filter(|repo| *repo != Repo::Evil).collect()
}

struct Draw {
    rng: Rng,
    repos: Vec<Repo>,
    faults: u32,
}

impl Draw {
    fn repo(&mut self) -> Repo {
        let repos = self.repos.clone();
        self.rng.pick(&repos)
    }

    fn acts(&mut self) -> Vec<Act> {
        let (repo, layer) = (self.repo(), self.rng.below(2) as u8);
        let pull = Act::Pull(Pull { who: owner(repo), repo, manner: Manner::default() });
        match self.rng.below(20) {
            0..4 => vec![Act::Bucket(BucketAct::Shared(repo)), pull],
            4..9 => vec![Act::Bucket(BucketAct::Shared(repo)), self.damage(repo, layer), pull],
            9..15 => vec![self.fault(), pull],
            15 => vec![Act::Heal(self.faults)],
            16 if self.rng.chance(50) => vec![Act::Bucket(BucketAct::Junk { repo, layer }), pull],
            16 => {
                // The only layer that is large enough for a lease.
                let (repo, layer) = (Repo::Big, 0);
                let (seconds, rate) = (self.rng.pick(&[5, 60, 1_000]), self.rng.pick(&[0, 1, 1_000_000]));
                let pull = Act::Pull(Pull { who: Who::Nobody, repo, manner: Manner::default() });
                vec![Act::Bucket(BucketAct::Writing { repo, layer, seconds, rate }), pull]
            }
            17 => vec![Act::Bucket(BucketAct::Empty), pull],
            18 => {
                let seconds = self.rng.pick(&[-86_400, -600, 600, 86_400, 0]);
                vec![Act::Bucket(BucketAct::ClockOff { seconds })]
            }
            // What is read anew is read from the tier.
            _ => vec![Act::Remove(repo), pull],
        }
    }

    fn damage(&mut self, repo: Repo, layer: u8) -> Act {
        let at = self.rng.below(1_001) as u32;
        let how = self.rng.weighted(&[
            (10, DamageKind::Flip(at)),
            (3, DamageKind::Cut),
            (1, DamageKind::Remove),
            (4, DamageKind::Replace),
            (2, DamageKind::LoseChecks),
        ]);
        Act::Bucket(BucketAct::Damage(Damage { repo, layer, how }))
    }

    fn fault(&mut self) -> Act {
        self.faults += 1;
        let at = self.rng.pick(&[0, 1, 1_000, 65_536, 100_000, 300_000]);
        let kind = self.rng.weighted(&[
            (8, FaultKind::Status(503)),
            (4, FaultKind::Status(500)),
            (4, FaultKind::Status(403)),
            (1, FaultKind::Status(404)),
            (1, FaultKind::TooMany(1)),
            (6, FaultKind::Hang),
            (6, FaultKind::CutAfter(at)),
            (6, FaultKind::StallAfter(at)),
            (6, FaultKind::Corrupt),
            (1, FaultKind::Page),
            (1, FaultKind::Nothing),
            (2, FaultKind::Chunked),
            (2, FaultKind::LengthOff(-1)),
            (2, FaultKind::LengthOff(1)),
            (3, FaultKind::Slow(4_000)),
            (3, FaultKind::NoDigest),
            (3, FaultKind::Refuse),
            (2, FaultKind::ConnectHangs),
        ]);
        let part = self.rng.weighted(&[(4, Part::Any), (4, Part::Blob), (1, Part::Manifest)]);
        let method = self.rng.weighted(&[(4, Method::Any), (4, Method::Get), (4, Method::Put)]);
        let times = self.rng.chance(50).then(|| 1 + self.rng.below(3) as u32);
        Act::Fault(Fault { id: self.faults, host: Host::Bucket, part, method, repo: None, times, kind })
    }
}

fn owner(repo: Repo) -> Who {
    match repo {
        Repo::TeamA | Repo::Shared => Who::Alice,
        Repo::TeamB => Who::Bob,
        _ => Who::Nobody,
    }
}
