//! Rights that end and come back, and what happens meanwhile.

use super::Draw;
use crate::plan::{Act, FaultKind, Get, Host, Manner, Method, Part, Pull, Repo, What, Who};

impl Draw {
    pub(super) fn rights(&mut self) -> Vec<Act> {
        let repo = self.rng.pick(&[Repo::TeamA, Repo::TeamA, Repo::Shared, Repo::TeamB]);
        let who = self.who(repo);
        match self.rng.below(12) {
            10 => self.outage_of_another(),
            11 => self.ended_for_good(repo, who),
            0..4 => vec![Act::Right { who, repo, may: false }],
            4..6 => vec![Act::Right { who, repo, may: true }],
            6 => vec![Act::Revoke(self.rng.chance(60).then_some(repo))],
            7 => {
                let kind =
                    self.rng.pick(&[FaultKind::Hang, FaultKind::Status(502), FaultKind::StallAfter(0)]);
                let part = self.rng.pick(&[Part::Tags, Part::Blob, Part::Manifest]);
                let mut fault = self.fault(Host::Reg, part, Method::Any, kind);
                fault.repo = Some(self.rng.pick(&[Repo::Open, Repo::Shared, Repo::TeamB]));
                let other = fault.repo.unwrap_or(Repo::Open);
                let what = if part == Part::Tags { What::Tags } else { What::Layer(0) };
                let get = Get {
                    who: self.who(other),
                    repo: other,
                    what,
                    head: false,
                    range: None,
                    manner: Manner::default(),
                };
                vec![Act::Fault(fault), Act::Get(get)]
            }
            _ => vec![Act::Wait { seconds: self.rng.pick(&[30, 200, 320, 700]) }],
        }
    }

    /// A right ends, by the registry's word or the operator's, and then something happens in which it might come back.
    fn ended_for_good(&mut self, repo: Repo, who: Who) -> Vec<Act> {
        let pull = || Act::Pull(Pull { who, repo, manner: Manner::default() });
        let ends = Act::Right { who, repo, may: false };
        if self.rng.chance(50) {
            return vec![pull(), ends, Act::Revoke(Some(repo)), Act::Restart, pull()];
        }
        let mut fault = self.fault(Host::Reg, Part::Any, Method::Any, FaultKind::Refuse);
        (fault.repo, fault.times) = (None, None);
        vec![pull(), ends, Act::Wait { seconds: 320 }, pull(), Act::Fault(fault), pull()]
    }

    /// A right has long ended when something of another repository is slow.
    fn outage_of_another(&mut self) -> Vec<Act> {
        let get = |who, repo, what| {
            Act::Get(Get { who, repo, what, head: false, range: None, manner: Manner::default() })
        };
        let kind = self.rng.pick(&[FaultKind::Hang, FaultKind::Status(502)]);
        let mut fault = self.fault(Host::Reg, Part::Tags, Method::Any, kind);
        (fault.repo, fault.times) = (None, None);
        let layer = self.rng.below(2) as u8;
        vec![
            Act::Right { who: Who::Alice, repo: Repo::TeamA, may: false },
            Act::Wait { seconds: 320 + self.rng.below(300) },
            Act::Fault(fault),
            get(Who::Nobody, Repo::Open, What::Tags),
            Act::Wait { seconds: self.rng.below(22) },
            get(Who::Alice, Repo::TeamA, self.rng.pick(&[What::Layer(layer), What::Manifest, What::Tag])),
        ]
    }
}
