//! From a seed to a plan. Each history is about a few things only, drawn first, so that rare ones meet.

mod acts;
mod hang;
mod names;
mod pods;
mod rights;
mod tier;

use crate::plan::{
    Act, Fault, FaultKind, Get, Host, Manner, Method, Part, Plan, Pull, Repo, Setup, Step, What, Who,
};
use crate::rng::Rng;

/// What a history is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    Upstream,
    Rights,
    Lists,
    Outage,
    Damage,
    Slow,
    Disk,
    ReadOnly,
    Pressure,
    NoRoom,
    Big,
    Hostile,
    Mirror,
    Head,
    Restart,
    Kill,
    Pins,
    Lazy,
    Tags,
    Node,
    Reload,
    Clock,
    Full,
}

const THEMES: [(u64, Theme); 23] = [
    (6, Theme::Upstream),
    (6, Theme::Rights),
    (4, Theme::Lists),
    (5, Theme::Outage),
    (6, Theme::Damage),
    (6, Theme::Slow),
    (5, Theme::Disk),
    (3, Theme::ReadOnly),
    (5, Theme::Pressure),
    (3, Theme::NoRoom),
    (4, Theme::Big),
    (3, Theme::Hostile),
    (4, Theme::Mirror),
    (4, Theme::Head),
    (4, Theme::Restart),
    (4, Theme::Kill),
    (3, Theme::Pins),
    (4, Theme::Lazy),
    (3, Theme::Tags),
    (4, Theme::Node),
    (3, Theme::Reload),
    (3, Theme::Clock),
    (4, Theme::Full),
];

/// The plan of a seed.
pub(crate) fn plan(seed: u64) -> Plan {
    let mut draw =
        Draw { rng: Rng::new(seed), themes: Vec::new(), repos: Vec::new(), faults: 0, mirror: false };
    draw.themes();
    let setup = draw.setup();
    let count = 6 + draw.rng.below(22);
    let mut steps = Vec::new();
    for _ in 0..count {
        let acts = draw.acts();
        for (at, act) in acts.into_iter().enumerate() {
            let after_ms = if at == 0 { draw.pause() } else { draw.rng.below(400) };
            steps.push(Step { after_ms, act });
        }
    }
    let mut plan = Plan { seed, setup, steps };
    if pods::has_pods(seed) {
        pods::add(&mut plan);
    }
    tier::add(&mut plan);
    names::add(&mut plan);
    hang::add(&mut plan);
    plan
}

struct Draw {
    rng: Rng,
    themes: Vec<Theme>,
    repos: Vec<Repo>,
    faults: u32,
    mirror: bool,
}

impl Draw {
    fn is(&self, theme: Theme) -> bool {
        self.themes.contains(&theme)
    }

    fn themes(&mut self) {
        let count = 1 + self.rng.below(3);
        for _ in 0..count {
            let theme = self.rng.weighted(&THEMES);
            if !self.themes.contains(&theme) {
                self.themes.push(theme);
            }
        }
        let repos = [
            (5, Repo::TeamA),
            (3, Repo::TeamB),
            (4, Repo::Shared),
            (4, Repo::Open),
            (3, Repo::Hub),
            (3, Repo::Proj),
        ];
        for _ in 0..1 + self.rng.below(3) {
            let repo = self.rng.weighted(&repos);
            if !self.repos.contains(&repo) {
                self.repos.push(repo);
            }
        }
        if self.is(Theme::Rights) || self.is(Theme::Lists) {
            self.repos.retain(|repo| repo.host() == Host::Reg);
            self.repos.push(Repo::TeamA);
        }
        if self.is(Theme::Node) {
            self.repos.push(Repo::Shared);
        }
        if self.is(Theme::Big) {
            self.repos = vec![Repo::Big];
        }
        if self.is(Theme::Head) {
            self.repos.push(Repo::Proj);
        }
        if self.is(Theme::Mirror) {
            self.repos.push(Repo::Open);
        }
    }

    fn setup(&mut self) -> Setup {
        self.mirror = self.is(Theme::Mirror) || self.rng.chance(10);
        let budget_mib = if self.is(Theme::Hostile) {
            Some(26)
        } else if self.is(Theme::Pressure) {
            Some(2 + self.rng.below(6))
        } else {
            None
        };
        Setup {
            budget_mib,
            no_room: self.is(Theme::NoRoom),
            floor_mib: if self.is(Theme::Full) { self.rng.pick(&[None, Some(1), Some(4)]) } else { None },
            mirror: self.mirror,
            redirects: self.rng.chance(15),
            no_negative: self.rng.chance(70),
            node: self.is(Theme::Node),
            pods: false,
            tier: false,
            names: false,
        }
    }

    fn pause(&mut self) -> u64 {
        match self.rng.below(10) {
            0..3 => self.rng.below(50),
            3..7 => 100 + self.rng.below(1_000),
            7..9 => 1_000 + self.rng.below(9_000),
            _ => 10_000 + self.rng.below(50_000),
        }
    }

    fn repo(&mut self) -> Repo {
        if self.is(Theme::Hostile) && self.rng.chance(25) {
            return Repo::Evil;
        }
        let repos = self.repos.clone();
        self.rng.pick(&repos)
    }

    fn who(&mut self, repo: Repo) -> Who {
        if self.rng.chance(8) {
            return self.rng.pick(&[Who::Nobody, Who::Alice, Who::Bob, Who::Mallory]);
        }
        match repo {
            Repo::TeamA => Who::Alice,
            Repo::TeamB => Who::Bob,
            Repo::Shared => self.rng.pick(&[Who::Alice, Who::Bob]),
            _ => Who::Nobody,
        }
    }

    fn manner(&mut self) -> Manner {
        let slow = if self.is(Theme::Slow) { 45 } else { 8 };
        let pace = if self.rng.chance(slow) { self.rng.pick(&[4_000, 16_000, 60_000, 200_000]) } else { 0 };
        let pause_ms = if self.rng.chance(slow / 2) { 300 + self.rng.below(20_000) } else { 0 };
        let leaves_after = self.rng.chance(7).then(|| self.rng.below(400_000));
        Manner { mirror: self.rng.chance(40), old: self.rng.chance(10), pace, pause_ms, leaves_after }
    }

    fn pull(&mut self) -> Act {
        let repo = self.repo();
        Act::Pull(Pull { who: self.who(repo), repo, manner: self.manner() })
    }

    fn get(&mut self) -> Act {
        let repo = self.repo();
        let layer = self.rng.below(2) as u8;
        let lists = if self.is(Theme::Lists) { 30 } else { 4 };
        let what = self.rng.weighted(&[
            (15, What::Tag),
            (10, What::Manifest),
            (40, What::Layer(layer)),
            (4, What::Others(Repo::TeamA, layer)),
            (lists, What::Tags),
            (2, What::Referrers),
        ]);
        let lazy = if self.is(Theme::Lazy) { 70 } else { 15 };
        let range = (matches!(what, What::Layer(_)) && self.rng.chance(lazy)).then(|| {
            let most = if self.is(Theme::Big) { 11_900_000 } else { 140_000 };
            let start = self.rng.below(most);
            (start, start + self.rng.pick(&[0, 1_000, 4_095, 100_000, 1_000_000]))
        });
        let head = range.is_none() && self.rng.chance(15);
        Act::Get(Get { who: self.who(repo), repo, what, head, range, manner: self.manner() })
    }

    /// What happens next: most often a client, else what the history is about.
    fn acts(&mut self) -> Vec<Act> {
        if self.rng.chance(50) {
            return vec![if self.rng.chance(55) { self.pull() } else { self.get() }];
        }
        let themes = self.themes.clone();
        match self.rng.pick(&themes) {
            Theme::Upstream => self.upstream(),
            Theme::Rights => self.rights(),
            Theme::Lists => self.lists(),
            Theme::Outage => self.outage(),
            Theme::Damage => vec![self.damage()],
            Theme::Slow => vec![self.get()],
            Theme::Lazy if self.rng.chance(20) => {
                let host = self.host();
                vec![Act::Fault(self.fault(host, Part::Blob, Method::Get, FaultKind::OtherRange)), self.get()]
            }
            Theme::Lazy => vec![self.get()],
            Theme::Disk => self.disk(),
            Theme::ReadOnly => self.read_only(),
            Theme::Pressure => self.pressure(),
            Theme::NoRoom => vec![self.pull()],
            Theme::Big => self.big(),
            Theme::Hostile => vec![Act::Get(Get {
                who: Who::Nobody,
                repo: Repo::Evil,
                what: What::Layer(1),
                head: false,
                range: None,
                manner: Manner::default(),
            })],
            Theme::Mirror => self.mirror_fault(),
            Theme::Head => self.head(),
            // While the pull is under way.
            Theme::Restart => vec![self.pull(), Act::Restart],
            Theme::Kill => vec![Act::Kill { after_calls: 1 + self.rng.below(120) }],
            Theme::Pins => self.pins(),
            Theme::Node => self.node(),
            Theme::Reload => vec![Act::Reload { mirror: self.rng.chance(50) }, self.pull()],
            Theme::Clock => self.clock(),
            Theme::Full => self.full(),
            Theme::Tags => {
                let (repo, version) = (self.repo(), self.rng.below(2) as u8);
                vec![Act::Move { repo, version }, self.pull()]
            }
        }
    }

    fn fault(&mut self, host: Host, part: Part, method: Method, kind: FaultKind) -> Fault {
        self.faults += 1;
        let times = self.rng.chance(40).then(|| 1 + self.rng.below(3) as u32);
        let repo = (self.rng.chance(35) && host != Host::Objects).then(|| self.repo());
        Fault { id: self.faults, host, part, method, repo, times, kind }
    }

    fn heal(&mut self) -> Act {
        if self.faults > 0 && self.rng.chance(60) {
            Act::Heal(1 + self.rng.below(u64::from(self.faults)) as u32)
        } else {
            Act::HealAll
        }
    }

    fn host(&mut self) -> Host {
        let home = self.repo().host();
        match home {
            Host::Store if self.rng.chance(50) => Host::Objects,
            Host::Reg if self.mirror && self.rng.chance(40) => Host::Mirror,
            home => home,
        }
    }

    fn kind(&mut self) -> FaultKind {
        let at = self.rng.pick(&[0, 1, 1_000, 65_536, 100_000, 300_000]);
        self.rng.weighted(&[
            (6, FaultKind::Status(500)),
            (4, FaultKind::Status(502)),
            (5, FaultKind::Status(403)),
            (3, FaultKind::Status(404)),
            (2, FaultKind::Status(401)),
            (1, FaultKind::Status(302)),
            (1, FaultKind::Status(400)),
            (1, FaultKind::Status(416)),
            (1, FaultKind::Status(501)),
            (5, FaultKind::TooMany(self.faults * 7 % 90)),
            (5, FaultKind::Hang),
            (6, FaultKind::CutAfter(at)),
            (5, FaultKind::StallAfter(at)),
            (6, FaultKind::Corrupt),
            (2, FaultKind::Page),
            (2, FaultKind::Nothing),
            (2, FaultKind::Chunked),
            (2, FaultKind::LengthOff(-1)),
            (1, FaultKind::LengthOff(1)),
            (4, FaultKind::Slow(4_000)),
            (2, FaultKind::IgnoreRange),
            (2, FaultKind::WrongRange),
            (1, FaultKind::NoDigest),
            (2, FaultKind::Refuse),
            (1, FaultKind::NoName),
            (1, FaultKind::NameHangs),
            (1, FaultKind::ConnectHangs),
        ])
    }

    fn upstream(&mut self) -> Vec<Act> {
        if self.rng.chance(35) {
            return vec![self.heal()];
        }
        let (host, kind) = (self.host(), self.kind());
        let part = self.rng.weighted(&[
            (3, Part::Any),
            (5, Part::Manifest),
            (8, Part::Blob),
            (2, Part::Tags),
            (2, Part::Token),
        ]);
        let method = self.rng.weighted(&[(6, Method::Any), (2, Method::Head), (2, Method::Get)]);
        vec![Act::Fault(self.fault(host, part, method, kind)), self.pull()]
    }
}
