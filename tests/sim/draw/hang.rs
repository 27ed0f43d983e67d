//! A disk that hangs, among whatever else a history is about.

use crate::plan::{Act, Plan, Step};
use crate::rng::Rng;

/// One seed in so many has such a disk. It is drawn apart from everything else, so that every other seed means what it meant.
const EVERY: u64 = 7;

/// Adds the times at which the disk hangs, and clients that pull meanwhile, at places of the plan.
pub(super) fn add(plan: &mut Plan) {
    if plan.seed % EVERY != EVERY - 2 {
        return;
    }
    let mut rng = Rng::new(plan.seed ^ 0x6861_6e67);
    for _ in 0..1 + rng.below(2) {
        let seconds = rng.pick(&[2, 8, 20, 40, 90, 200]);
        let hangs = Act::DiskHangs { gives_back: rng.chance(40), seconds };
        let first = rng.below(plan.steps.len() as u64 + 1) as usize;
        let pulls: Vec<Act> = plan.steps.iter().map(|step| step.act.clone()).filter(is_of_client).collect();
        plan.steps.insert(first, Step { after_ms: rng.below(2_000), act: hangs });
        // Beside those that come by themselves: while it is not known yet, and when it is.
        for (n, after_ms) in [0, 300, 7_000, 100].into_iter().enumerate() {
            if pulls.is_empty() {
                return;
            }
            let act = pulls[rng.below(pulls.len() as u64) as usize].clone();
            plan.steps.insert(first + 1 + n, Step { after_ms, act });
        }
    }
}

fn is_of_client(act: &Act) -> bool {
    matches!(act, Act::Pull(_) | Act::Get(_))
}
