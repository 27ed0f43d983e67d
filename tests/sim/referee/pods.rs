//! What is fetched ahead for pods.

use super::{Judge, Violation, violation};
use crate::plan::{Act, Host, Part, PodSecret, Repo, Who};
use crate::registry::Seen;
use crate::truth::BoundPod;

pub(crate) const SENTENCE: &str = "For a pod that is bound the registry is asked as kubelet will ask: with the pod's own pull \
    secret where it has one, with no other pod's, and not at all where its secret cannot be read or used.";

pub(crate) fn judge(judge: &Judge<'_>) -> Vec<Violation> {
    if !judge.history.plan.setup.pods {
        return Vec::new();
    }
    judge.history.seen.iter().filter_map(|seen| look_at(judge, seen)).collect()
}

fn look_at(judge: &Judge<'_>, seen: &Seen) -> Option<Violation> {
    let is_answer = seen.host == Host::Reg && seen.status < 300;
    let repo = seen.repo.filter(|_| is_answer && matches!(seen.part, Part::Manifest | Part::Blob))?;
    let token = seen.shown.as_deref()?.strip_prefix("Bearer ")?;
    let owner = *judge.history.token_owners.get(token)?;
    if is_asked_for(judge, owner, repo, seen.at) {
        return None;
    }
    let pods = &judge.history.truth.pods;
    let mut bound = pods.iter().filter(|pod| pod.at <= seen.at && pod.repos.contains(&repo));
    let (kind, is_well) = match owner {
        Who::Nobody | Who::Node => {
            ("pods/not-as-the-pod", bound.any(|pod| comes_to_others(judge, pod, repo, seen.at)))
        }
        owner => ("pods/as-another", bound.any(|pod| pod.who == owner)),
    };
    let what = || format!("{} was asked for {} as {owner:?}, without a client", seen.host.name(), seen.path);
    (!is_well).then(|| violation(kind, seen.at, what()))
}

/// Whether a client, or the operator, has asked for what may be asked for as `owner`.
fn is_asked_for(judge: &Judge<'_>, owner: Who, repo: Repo, at: u64) -> bool {
    let is_own = |who: Who| matches!(owner, Who::Nobody | Who::Node) || who == owner;
    let by_client =
        judge.history.asks.iter().any(|ask| ask.repo == repo && ask.begun <= at && is_own(ask.who));
    let ordered = |act: &Act| matches!(act, Act::Prefetch { repo: ordered, .. } if *ordered == repo);
    by_client || is_own(Who::Node) && judge.history.plan.steps.iter().any(|step| ordered(&step.act))
}

/// Whether kubelet may come to other credentials than the pod's: it has none, or the registry has refused it until then.
fn comes_to_others(judge: &Judge<'_>, pod: &BoundPod, repo: Repo, at: u64) -> bool {
    let truth = &judge.history.truth;
    let opens_nothing = |is: PodSecret| matches!(is, PodSecret::Wrong | PodSecret::Gone);
    matches!(pod.who, Who::Nobody | Who::Mallory)
        || truth.secrets.iter().any(|(t, who, is)| *t <= at && *who == pod.who && opens_nothing(*is))
        || !truth.may_throughout(pod.who, repo, 0, at)
        || truth.faults.iter().any(|span| span.what.host == Host::Reg && span.overlaps(pod.at, at))
}
