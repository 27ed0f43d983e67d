//! What is really so, and since when: what the referee judges by. Times are milliseconds of simulated time.

use std::collections::BTreeSet;

use larder::reference::Digest;

use crate::catalog::catalog;
use crate::plan::{
    Damage, DiskFault, Fault, FaultKind, Host, Method, NameKind, NodeLogin, Part, PodSecret, Repo, What, Who,
};

/// Everything that the acts of the plan have changed, with when.
#[derive(Default)]
pub(crate) struct Truth {
    rights: Vec<(u64, Who, Repo, bool)>,
    tags: Vec<(u64, Repo, u8)>,
    pub(crate) faults: Vec<Span<Fault>>,
    pub(crate) disk: Vec<Span<DiskFault>>,
    /// When others had filled the filesystem.
    pub(crate) full: Vec<Full>,
    pub(crate) damage: Vec<(u64, Damage)>,
    /// Restarts and kills, from when until when.
    pub(crate) stops: Vec<(u64, u64, bool)>,
    /// `larder rm`, `larder revoke`.
    pub(crate) removed: Vec<(u64, Repo)>,
    pub(crate) revoked: Vec<(u64, Option<Repo>)>,
    pub(crate) jumps: Vec<(u64, u64)>,
    /// When the wall clock was set back.
    pub(crate) set_back: Vec<u64>,
    /// What the node's docker config said, from when on.
    pub(crate) logins: Vec<(u64, NodeLogin)>,
    /// Pods that were bound to the node.
    pub(crate) pods: Vec<BoundPod>,
    /// What tenants' pull secrets became.
    pub(crate) secrets: Vec<(u64, Who, PodSecret)>,
    /// Keys of objects of the bucket that others have damaged.
    pub(crate) bucket_damage: BTreeSet<String>,
    /// Records about names that others have written into the bucket.
    pub(crate) names: Vec<(u64, Repo, NameKind)>,
}

/// A pod, from when on it was bound.
#[derive(Debug, Clone)]
pub(crate) struct BoundPod {
    pub(crate) at: u64,
    pub(crate) who: Who,
    pub(crate) repos: Vec<Repo>,
}

/// Others have filled the filesystem.
#[derive(Debug, Clone)]
pub(crate) struct Full {
    pub(crate) from: u64,
    pub(crate) until: Option<u64>,
    /// Bytes that were free at its end, and that blobs took.
    pub(crate) free: u64,
    pub(crate) blobs: u64,
}

impl Full {
    pub(crate) fn overlaps(&self, from: u64, until: u64) -> bool {
        self.from <= until && self.until.is_none_or(|end| end >= from)
    }
}

/// Something that held for a while.
#[derive(Debug, Clone)]
pub(crate) struct Span<T> {
    pub(crate) what: T,
    pub(crate) from: u64,
    pub(crate) until: Option<u64>,
    /// When it last made a difference.
    pub(crate) hit: Option<u64>,
}

impl<T> Span<T> {
    pub(crate) fn overlaps(&self, from: u64, until: u64) -> bool {
        self.from <= until && self.until.is_none_or(|end| end >= from)
    }
}

impl Who {
    pub(crate) fn credential(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Nobody => None,
            Self::Alice => Some(("alice-user-7c1", "alice-secret-90d2")),
            Self::Bob => Some(("bob-user-55e", "bob-secret-1f77")),
            Self::Mallory => Some(("alice-user-7c1", "wrong-secret-ab34")),
            Self::Node => Some(("node-user-3f0", "node-secret-62be")),
        }
    }

    pub(crate) fn of(user: &str, password: &str) -> Option<Self> {
        [Self::Alice, Self::Bob, Self::Node]
            .into_iter()
            .find(|who| who.credential() == Some((user, password)))
    }
}

impl Repo {
    pub(crate) fn is_public(self) -> bool {
        !matches!(self, Self::TeamA | Self::TeamB | Self::Shared)
    }
}

impl Truth {
    pub(crate) fn set_right(&mut self, at: u64, who: Who, repo: Repo, may: bool) {
        self.rights.push((at, who, repo, may));
    }

    pub(crate) fn move_tag(&mut self, at: u64, repo: Repo, version: u8) {
        self.tags.push((at, repo, version));
    }

    /// Whether the registry lets `who` read `repo` at that time.
    pub(crate) fn may(&self, who: Who, repo: Repo, at: u64) -> bool {
        if repo.is_public() {
            return true;
        }
        if who == Who::Node {
            let login = self.logins.iter().rev().find(|(t, _)| *t <= at);
            return repo == Repo::Shared && login.is_some_and(|(_, login)| *login == NodeLogin::Right);
        }
        let first = matches!(
            (who, repo),
            (Who::Alice, Repo::TeamA | Repo::Shared) | (Who::Bob, Repo::TeamB | Repo::Shared)
        );
        let last = self.rights.iter().rev().find(|(t, w, r, _)| *t <= at && *w == who && *r == repo);
        last.map_or(first, |(_, _, _, may)| *may)
    }

    /// When the right that `who` has not at that time ended; `None` if there never was one.
    pub(crate) fn ended_at(&self, who: Who, repo: Repo, at: u64) -> Option<u64> {
        if who == Who::Node {
            let changed = self.logins.iter().map(|(t, _)| *t).filter(|t| *t <= at);
            return changed.rev().find(|t| *t > 0 && self.may(who, repo, t - 1) && !self.may(who, repo, *t));
        }
        let ended = self.rights.iter().filter(|(t, w, r, may)| *t <= at && *w == who && *r == repo && !may);
        ended.map(|(t, ..)| *t).rfind(|t| *t == 0 || self.may(who, repo, t - 1))
    }

    /// Whether the registry let `who` read `repo` at every moment in between.
    pub(crate) fn may_throughout(&self, who: Who, repo: Repo, from: u64, until: u64) -> bool {
        self.may(who, repo, from)
            && !self
                .rights
                .iter()
                .any(|(t, w, r, may)| *w == who && *r == repo && !may && (from..=until).contains(t))
    }

    /// The version that the tag means at that time.
    pub(crate) fn version(&self, repo: Repo, at: u64) -> u8 {
        self.tags.iter().rev().find(|(t, r, _)| *t <= at && *r == repo).map_or(0, |(_, _, version)| *version)
    }

    /// When the tag last moved before that time.
    pub(crate) fn moved_at(&self, repo: Repo, at: u64) -> Option<u64> {
        self.tags.iter().rev().find(|(t, r, _)| *t <= at && *r == repo).map(|(t, ..)| *t)
    }

    pub(crate) fn digest_of(&self, repo: Repo, what: What) -> Option<Digest> {
        let image = catalog().image(repo, 0);
        match what {
            What::Manifest | What::Referrers => Some(image.manifest),
            What::Layer(at) => Some(image.layers[usize::from(at) % image.layers.len()]),
            What::Others(other, at) => {
                let other = catalog().image(other, 0);
                Some(other.layers[usize::from(at) % other.layers.len()])
            }
            What::Tag | What::Tags => None,
        }
    }
}

/// Whether a fault can touch an answer of this kind.
pub(crate) fn matches(fault: &Fault, host: Host, part: Part, head: bool, repo: Option<Repo>) -> bool {
    fault.host == host
        && (fault.part == Part::Any || fault.part == part || is_of_the_host(fault.kind))
        && match fault.method {
            Method::Any => true,
            Method::Head => head,
            Method::Get => !head,
            Method::Put => false,
        }
        && (fault.repo.is_none() || repo.is_none() || fault.repo == repo)
}

/// Faults of the machine and not of an answer.
pub(crate) fn is_of_the_host(kind: FaultKind) -> bool {
    use FaultKind::{ConnectHangs, NameHangs, NoName, Refuse};
    matches!(kind, Refuse | NoName | NameHangs | ConnectHangs)
}
