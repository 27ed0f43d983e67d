//! The referee: knows what must never happen, looks at a whole history, and names each violation by its kind.
//!
//! A kind is `rule/what`, made of what was going on around it, so that a fault that is known does not hide another one.
//! Each rule errs on the side of the daemon: what it cannot be sure of is no violation.

mod bytes;
mod cost;
mod memory;
mod pods;
mod rights;
pub(crate) mod secrets;
mod service;
mod space;
mod tier;

use crate::client::Ask;
use crate::plan::{Fault, FaultKind, Host, Method, Part, What, Who};
use crate::truth::{Span, is_of_the_host};
use crate::world::History;

/// Something that must never happen, and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) kind: String,
    pub(crate) at: u64,
    pub(crate) what: String,
}

type Rule = fn(&Judge<'_>) -> Vec<Violation>;

/// The rules, each with its sentence.
pub(crate) const RULES: [(&str, &str, Rule); 9] = [
    ("bytes", bytes::SENTENCE, bytes::judge),
    ("rights", rights::SENTENCE, rights::judge),
    ("secrets", secrets::SENTENCE, secrets::judge),
    ("service", service::SENTENCE, service::judge),
    ("cost", cost::SENTENCE, cost::judge),
    ("space", space::SENTENCE, space::judge),
    ("memory", memory::SENTENCE, memory::judge),
    ("tier", tier::SENTENCE, tier::judge),
    ("pods", pods::SENTENCE, pods::judge),
];

/// All violations of a history, the earliest first.
pub(crate) fn judge(history: &History) -> Vec<Violation> {
    let judge = Judge { history };
    let mut all: Vec<Violation> = RULES.iter().flat_map(|(_, _, rule)| rule(&judge)).collect();
    all.sort_by(|a, b| (a.at, &a.kind).cmp(&(b.at, &b.kind)));
    all
}

pub(crate) fn violation(kind: impl Into<String>, at: u64, what: impl Into<String>) -> Violation {
    Violation { kind: kind.into(), at, what: what.into() }
}

/// A history, and what all rules ask about it.
pub(crate) struct Judge<'a> {
    pub(crate) history: &'a History,
}

/// For so long after its end a fault may still be felt.
const RECOVERY_MS: u64 = 30_000;
/// The same after a 429.
const LIMIT_RECOVERY_MS: u64 = 310_000;

impl Judge<'_> {
    /// Whether the daemon was being stopped, killed or started while this was asked.
    pub(crate) fn was_stopped(&self, ask: &Ask) -> bool {
        let (from, until) = (ask.begun, ask.reply.ended_at);
        self.history.truth.stops.iter().any(|(begun, ended, _)| *begun <= until && *ended + 1_000 >= from)
    }

    /// The faults that the caller would have met by asking the registry itself, recovery included.
    pub(crate) fn faults_met(&self, ask: &Ask) -> Vec<&Span<Fault>> {
        let until = ask.reply.ended_at;
        let met = |span: &&Span<Fault>| {
            let recovery = match span.what.kind {
                FaultKind::TooMany(_) => LIMIT_RECOVERY_MS,
                _ => RECOVERY_MS,
            };
            span.overlaps(ask.begun.saturating_sub(recovery), until) && self.meets(ask, &span.what)
        };
        self.history.truth.faults.iter().filter(met).collect()
    }

    /// Whether the registry itself would have answered this caller with this fault.
    pub(crate) fn meets(&self, ask: &Ask, fault: &Fault) -> bool {
        let home = ask.repo.host();
        let stored_elsewhere =
            ask.is_blob() && (home == Host::Store || home == Host::Reg && self.history.plan.setup.redirects);
        if fault.host != home && !(stored_elsewhere && fault.host == Host::Objects) {
            return false;
        }
        if is_of_the_host(fault.kind) {
            return true;
        }
        let own = match ask.what {
            What::Tag | What::Manifest => Part::Manifest,
            What::Layer(_) | What::Others(..) => Part::Blob,
            What::Tags | What::Referrers => Part::Tags,
        };
        let part = matches!(fault.part, Part::Any | Part::Token) || fault.part == own;
        // Tokens are fetched for HEAD, too; and who asks for a tag by HEAD is given what GET brings next.
        let method = match fault.method {
            Method::Any => true,
            Method::Head => ask.head,
            Method::Put => false,
            Method::Get => {
                !ask.head || ask.what == What::Tag || matches!(fault.part, Part::Any | Part::Token)
            }
        };
        // A question for a token names no repository to the faults: they meet those of all.
        let repo = fault.repo.is_none_or(|repo| repo == ask.repo)
            || fault.host == Host::Objects
            || fault.part == Part::Token;
        part && method && repo
    }

    /// What was going on around a request that should have been answered: the most telling first.
    pub(crate) fn circumstances(&self, ask: &Ask) -> String {
        let truth = &self.history.truth;
        let until = ask.reply.ended_at;
        let damaged = truth.damage.iter().any(|(at, damage)| {
            *at <= until
                && crate::catalog::catalog().image(damage.repo, 0).layers.get(usize::from(damage.layer))
                    == ask.digest.as_ref()
        });
        let disk = truth.disk.iter().find(|span| span.overlaps(ask.begun.saturating_sub(15_000), until));
        let recent = |span: &&Span<Fault>| span.overlaps(ask.begun.saturating_sub(LIMIT_RECOVERY_MS), until);
        let faults: Vec<&Span<Fault>> = truth.faults.iter().filter(recent).collect();
        let home = ask.repo.host();
        let near = |host: Host| host == home || host == Host::Objects;
        match disk {
            Some(_) if damaged => "damaged-disk".to_owned(),
            Some(span) => format!("disk-{}", named(span.what.call)),
            None if damaged => "damaged".to_owned(),
            None if self.history.plan.setup.no_room => "no-room".to_owned(),
            None if truth.full.iter().any(|full| full.overlaps(ask.begun.saturating_sub(15_000), until)) => {
                "full".to_owned()
            }
            None if faults.iter().any(|s| near(s.what.host) && s.what.method == Method::Head) => {
                "head".to_owned()
            }
            None if home == Host::Reg && faults.iter().any(|s| s.what.host == Host::Mirror) => {
                "mirror".to_owned()
            }
            None => match faults.iter().find(|span| near(span.what.host)) {
                Some(span) if span.what.repo.is_some_and(|repo| repo != ask.repo) => "neighbour".to_owned(),
                Some(span) => format!("beside-{}", named(span.what.part)),
                None if !faults.is_empty() => "elsewhere".to_owned(),
                None => "plain".to_owned(),
            },
        }
    }

    /// With which names the registry may be asked for this caller.
    pub(crate) fn principals(&self, who: Who) -> Vec<Who> {
        let mut all = match who {
            Who::Nobody | Who::Mallory | Who::Node => vec![Who::Nobody],
            who => vec![who, Who::Nobody],
        };
        if self.history.plan.setup.node {
            all.push(Who::Node);
        }
        all
    }

    /// Whether the registry would give this to this caller at every moment of the request and a little before.
    pub(crate) fn is_entitled(&self, ask: &Ask) -> bool {
        let truth = &self.history.truth;
        let since = ask.begun.saturating_sub(10_000);
        // A login that the registry does not know is refused, whatever is public there.
        let strange = ask.who == Who::Mallory || ask.who != Who::Nobody && ask.repo.host() != Host::Reg;
        let has = match (ask.what, ask.digest) {
            (What::Layer(_) | What::Manifest | What::Others(..), Some(digest)) => {
                digest != crate::catalog::catalog().claimed && crate::catalog::catalog().has(ask.repo, digest)
            }
            (What::Referrers, _) => false,
            _ => true,
        };
        let moved = ask.what == What::Tag
            && truth.moved_at(ask.repo, ask.reply.ended_at).is_some_and(|at| at + 1_000 >= ask.begun);
        has && !strange
            && !moved
            // As whom its runtime asks the registry: with its login where it has one. What is open to those without a
            // login may be closed to it; the registry refuses that caller, and so may Larder. The node's login does not
            // count: its docker config is read again a moment after it changes.
            && truth.may_throughout(ask.who, ask.repo, since, ask.reply.ended_at)
    }

    pub(crate) fn shown(&self, ask: &Ask) -> String {
        format!("{:?} {} {}", ask.who, if ask.head { "HEAD" } else { "GET" }, ask.path())
    }

    pub(crate) fn is_calm(&self) -> bool {
        let History { truth, .. } = self.history;
        truth.faults.is_empty() && truth.disk.is_empty() && truth.damage.is_empty()
    }
}

/// A variant's name as a word.
pub(crate) fn named(of: impl std::fmt::Debug) -> String {
    let text = format!("{of:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase()
}

/// Whether a host is in an outage for everybody with this.
pub(crate) fn is_whole_outage(fault: &Fault) -> bool {
    use FaultKind::{ConnectHangs, Hang, NameHangs, NoName, Refuse, Status};
    match fault.kind {
        Refuse | NoName | NameHangs | ConnectHangs => fault.times.is_none(),
        Status(500..) | Hang => {
            fault.part == Part::Any
                && fault.method == Method::Any
                && fault.repo.is_none()
                && fault.times.is_none()
        }
        _ => false,
    }
}

/// Whether a fault is one for which the registry cannot be asked.
pub(crate) fn is_outage(kind: FaultKind) -> bool {
    use FaultKind::{CutAfter, Hang, LengthOff, Slow, StallAfter, Status};
    is_of_the_host(kind)
        || matches!(kind, Status(500..) | Hang | CutAfter(_) | StallAfter(_) | LengthOff(_) | Slow(_))
}
