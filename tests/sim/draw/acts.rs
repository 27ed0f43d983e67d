//! The acts of what a history is about: disks, outages, pressure, mirrors, pins, the node's login, clocks.

use super::Draw;
use crate::plan::{
    Act, Damage, DamageKind, DiskCall, DiskError, DiskFault, FaultKind, Get, Host, Manner, Method, NodeLogin,
    Part, Pull, Repo, What, Who,
};

impl Draw {
    pub(super) fn node(&mut self) -> Vec<Act> {
        let login = self.rng.weighted(&[
            (4, NodeLogin::Right),
            (3, NodeLogin::WrongPassword),
            (2, NodeLogin::Nothing),
            (2, NodeLogin::HalfWritten),
        ]);
        let pull = |repo| Act::Pull(Pull { who: Who::Nobody, repo, manner: Manner::default() });
        let wait = Act::Wait { seconds: self.rng.pick(&[1, 30, 400]) };
        match self.rng.below(3) {
            0 => vec![Act::NodeLogin(login), wait, pull(Repo::Shared)],
            1 => vec![pull(Repo::Shared), pull(Repo::TeamA)],
            _ => vec![pull(Repo::Shared), Act::NodeLogin(login), pull(Repo::Shared)],
        }
    }

    pub(super) fn clock(&mut self) -> Vec<Act> {
        let seconds = self.rng.pick(&[90, 3_600, 86_400, 40 * 86_400]);
        let act = if self.rng.chance(50) { Act::ClockBack { seconds } } else { Act::ClockJump { seconds } };
        vec![act, self.pull()]
    }

    pub(super) fn lists(&mut self) -> Vec<Act> {
        let repo = self.repo();
        let get = Act::Get(Get {
            who: self.who(repo),
            repo,
            what: self.rng.pick(&[What::Tags, What::Tags, What::Referrers]),
            head: false,
            range: None,
            manner: Manner::default(),
        });
        match self.rng.below(4) {
            0 => vec![get],
            1 | 2 => {
                let kind = self.rng.pick(&[
                    FaultKind::Status(403),
                    FaultKind::Status(401),
                    FaultKind::Hang,
                    FaultKind::Status(500),
                    FaultKind::Slow(1),
                ]);
                let mut fault = self.fault(Host::Reg, Part::Tags, Method::Any, kind);
                fault.repo = None;
                vec![Act::Fault(fault), get]
            }
            _ => self.outage(),
        }
    }

    pub(super) fn outage(&mut self) -> Vec<Act> {
        if self.rng.chance(40) {
            return vec![self.heal()];
        }
        let kind = self.rng.pick(&[
            FaultKind::Refuse,
            FaultKind::ConnectHangs,
            FaultKind::NoName,
            FaultKind::Status(503),
            FaultKind::Hang,
        ]);
        let host = self.repo().host();
        let mut fault = self.fault(host, Part::Any, Method::Any, kind);
        (fault.repo, fault.times) = (None, None);
        vec![Act::Fault(fault), self.pull(), self.pull()]
    }

    pub(super) fn damage(&mut self) -> Act {
        let (repo, layer) = (self.repo(), self.rng.below(2) as u8);
        let at = self.rng.below(1_000) as u32;
        let how = self.rng.weighted(&[
            (12, DamageKind::Flip(at)),
            (2, DamageKind::Cut),
            (2, DamageKind::Remove),
            (2, DamageKind::Replace),
            (2, DamageKind::LoseChecks),
        ]);
        Act::Damage(Damage { repo, layer, how })
    }

    pub(super) fn disk(&mut self) -> Vec<Act> {
        if self.rng.chance(35) {
            return vec![Act::HealAll];
        }
        let call = self.rng.pick(&[
            DiskCall::Create,
            DiskCall::Write,
            DiskCall::Write,
            DiskCall::Sync,
            DiskCall::Rename,
            DiskCall::Unlink,
            DiskCall::UnlinkBlob,
            DiskCall::MakeDirectory,
            DiskCall::Open,
            DiskCall::Read,
        ]);
        let error = match call {
            DiskCall::Write => self.rng.pick(&[DiskError::NoSpace, DiskError::Io, DiskError::Short]),
            DiskCall::Create | DiskCall::MakeDirectory => {
                self.rng.pick(&[DiskError::NoSpace, DiskError::Io, DiskError::ReadOnly])
            }
            _ => DiskError::Io,
        };
        let times = self.rng.chance(50).then(|| 1 + self.rng.below(5) as u32);
        vec![Act::Disk(DiskFault { call, error, times }), self.pull()]
    }

    pub(super) fn read_only(&mut self) -> Vec<Act> {
        if self.rng.chance(25) {
            return vec![Act::HealAll];
        }
        let fault = DiskFault { call: DiskCall::Change, error: DiskError::ReadOnly, times: None };
        vec![self.damage(), Act::Disk(fault), self.pull()]
    }

    pub(super) fn full(&mut self) -> Vec<Act> {
        let free_mib = self.rng.weighted(&[
            (3, None),
            (2, Some(0)),
            (2, Some(1)),
            (2, Some(2)),
            (1, Some(4)),
            (1, Some(8)),
        ]);
        let room = Act::Room { free_mib };
        match self.rng.below(4) {
            0 => vec![room, Act::Wait { seconds: 20 }],
            1 => vec![self.pull(), room],
            _ => vec![room, self.pull()],
        }
    }

    pub(super) fn pressure(&mut self) -> Vec<Act> {
        match self.rng.below(6) {
            0 => {
                let times = self.rng.chance(60).then(|| 1 + self.rng.below(3) as u32);
                vec![
                    Act::Disk(DiskFault { call: DiskCall::UnlinkBlob, error: DiskError::Io, times }),
                    self.pull(),
                ]
            }
            1 => vec![Act::MakeRoom],
            2 => vec![Act::Remove(self.repo())],
            _ => vec![Act::Pull(Pull {
                who: Who::Nobody,
                repo: self.rng.pick(&[Repo::Hub, Repo::Open, Repo::Proj]),
                manner: self.manner(),
            })],
        }
    }

    pub(super) fn big(&mut self) -> Vec<Act> {
        let get = |manner| {
            Act::Get(Get {
                who: Who::Nobody,
                repo: Repo::Big,
                what: What::Layer(0),
                head: false,
                range: None,
                manner,
            })
        };
        match self.rng.below(5) {
            0 => vec![get(self.manner())],
            1 => {
                let at = 500 + self.rng.below(500) as u32;
                vec![
                    Act::Damage(Damage { repo: Repo::Big, layer: 0, how: DamageKind::Flip(at) }),
                    get(Manner::default()),
                ]
            }
            2 => {
                let kind =
                    self.rng.pick(&[FaultKind::Corrupt, FaultKind::WrongRange, FaultKind::Slow(20_000)]);
                let mut fault = self.fault(Host::Hub, Part::Blob, Method::Get, kind);
                fault.repo = None;
                vec![Act::Fault(fault)]
            }
            3 => self.upstream(),
            _ => vec![self.get()],
        }
    }

    pub(super) fn mirror_fault(&mut self) -> Vec<Act> {
        if self.rng.chance(25) {
            return vec![self.heal()];
        }
        let kind = self.kind();
        let part = self.rng.pick(&[Part::Blob, Part::Blob, Part::Manifest, Part::Any]);
        let method = self.rng.pick(&[Method::Any, Method::Get]);
        vec![Act::Fault(self.fault(Host::Mirror, part, method, kind)), self.pull()]
    }

    pub(super) fn head(&mut self) -> Vec<Act> {
        let host = self.rng.pick(&[Host::Objects, Host::Store, Host::Reg]);
        let kind = self.rng.pick(&[
            FaultKind::Status(403),
            FaultKind::Status(404),
            FaultKind::Status(405),
            FaultKind::Status(501),
            FaultKind::NoDigest,
            FaultKind::LengthOff(-1_000_000_000),
        ]);
        let part = self.rng.pick(&[Part::Blob, Part::Manifest, Part::Any]);
        let mut fault = self.fault(host, part, Method::Head, kind);
        fault.times = None;
        vec![Act::Fault(fault), self.pull()]
    }

    pub(super) fn pins(&mut self) -> Vec<Act> {
        match self.rng.below(4) {
            0 => vec![Act::Prefetch { repo: self.rng.pick(&[Repo::Open, Repo::Hub, Repo::Proj]), pin: true }],
            1 => {
                vec![Act::Prefetch { repo: self.rng.pick(&[Repo::Open, Repo::Hub, Repo::Proj]), pin: false }]
            }
            2 => vec![Act::Verify { repair: self.rng.chance(60) }],
            _ => vec![Act::Remove(self.repo())],
        }
    }
}
