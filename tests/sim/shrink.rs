//! From a plan that fails to the shortest one that still fails the same way: acts are left out (delta debugging), then
//! what is left is made plainer.

use std::time::{Duration, Instant};

use crate::plan::{Act, Manner, Plan, Setup};

/// Shrinks `plan`; `fails` says whether a plan still fails the same way. No longer than `wait`.
pub(crate) fn shrink(plan: &Plan, wait: Duration, mut fails: impl FnMut(&Plan) -> bool) -> Plan {
    let until = Instant::now() + wait;
    let mut best = plan.clone();
    let mut size = best.steps.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut less = false;
        while at < best.steps.len() && Instant::now() < until {
            let mut shorter = best.clone();
            let end = (at + size).min(shorter.steps.len());
            let skipped: u64 = shorter.steps[at..end].iter().map(|step| step.after_ms).sum();
            shorter.steps.drain(at..end);
            // What follows stays at its time, first.
            if let Some(next) = shorter.steps.get_mut(at) {
                next.after_ms += skipped;
            }
            if fails(&shorter) {
                (best, less) = (shorter, true);
            } else {
                at += size;
            }
        }
        if Instant::now() >= until || size == 1 && !less {
            break;
        }
        if !less {
            size = size.div_ceil(2).max(1);
        }
    }
    for plainer in plainer(&best) {
        if Instant::now() < until {
            let mut tried = best.clone();
            plainer(&mut tried);
            if tried != best && fails(&tried) {
                best = tried;
            }
        }
    }
    best
}

type Change = Box<dyn Fn(&mut Plan)>;

fn plainer(plan: &Plan) -> Vec<Change> {
    let mut all: Vec<Change> = vec![
        Box::new(|plan| plan.setup.mirror = false),
        Box::new(|plan| plan.setup.redirects = false),
        Box::new(|plan| (plan.setup.tier, plan.setup.names) = (false, false)),
        Box::new(|plan| plan.setup.names = false),
        Box::new(|plan| plan.setup = Setup { no_negative: true, ..plan.setup.clone() }),
        Box::new(|plan| plan.setup.no_room = false),
        Box::new(|plan| plan.setup.budget_mib = None),
    ];
    for at in 0..plan.steps.len() {
        all.push(Box::new(move |plan| {
            if let Some(manner) = manner(&mut plan.steps[at].act) {
                *manner = Manner::default();
            }
        }));
        for field in 0..5 {
            all.push(Box::new(move |plan| {
                if let Some(manner) = manner(&mut plan.steps[at].act) {
                    let plain = Manner::default();
                    match field {
                        0 => manner.mirror = plain.mirror,
                        1 => manner.old = plain.old,
                        2 => manner.pace = plain.pace,
                        3 => manner.pause_ms = plain.pause_ms,
                        _ => manner.leaves_after = plain.leaves_after,
                    }
                }
            }));
        }
        for ms in [0, 1_000, 10_000] {
            all.push(Box::new(move |plan| {
                let step = &mut plan.steps[at];
                step.after_ms = step.after_ms.min(ms);
            }));
        }
        all.push(Box::new(move |plan| {
            if let Act::Fault(fault) = &mut plan.steps[at].act {
                fault.repo = None;
            }
        }));
    }
    all
}

fn manner(act: &mut Act) -> Option<&mut Manner> {
    match act {
        Act::Pull(pull) => Some(&mut pull.manner),
        Act::Get(get) => Some(&mut get.manner),
        _ => None,
    }
}
