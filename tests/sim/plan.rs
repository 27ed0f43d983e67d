//! A history as a plan: what is set up, and one act after the other. Pure data, drawn from a seed, shrunk, kept in files.

mod requests;

use serde::{Deserialize, Serialize};

pub(crate) use requests::{Get, Host, Manner, Method, Part, Pull, What};

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) setup: Setup,
    pub(crate) steps: Vec<Step>,
}

/// What holds for the whole history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Setup {
    /// MiB that the store may have; plenty if it is not there.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) budget_mib: Option<u64>,
    /// Others have filled the filesystem: nothing may be stored.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) no_room: bool,
    /// MiB that the store leaves free on the filesystem; none if it is not there.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) floor_mib: Option<u64>,
    /// reg.corp has a mirror before it.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) mirror: bool,
    /// The blobs of reg.corp lie in an object store, too.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) redirects: bool,
    /// Questions that were refused are asked again at once.
    pub(crate) no_negative: bool,
    /// The node has a docker config with a login for reg.corp, which may read what both tenants may.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) node: bool,
    /// The daemon watches the node's pods.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pods: bool,
    /// There is a shared tier, in a bucket.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) tier: bool,
    /// Nodes share names in it, sealed by the cluster's key.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) names: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            budget_mib: None,
            no_room: false,
            floor_mib: None,
            mirror: false,
            redirects: false,
            no_negative: true,
            node: false,
            pods: false,
            tier: false,
            names: false,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// An act, begun so long after the one before was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) after_ms: u64,
    #[serde(flatten)]
    pub(crate) act: Act,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    /// A client pulls a whole image.
    Pull(Pull),
    /// A client asks for one thing.
    Get(Get),
    /// An upstream begins to do something wrong.
    Fault(Fault),
    /// It stops.
    Heal(u32),
    /// Everything upstream and on disk is well again.
    HealAll,
    /// A registry changes who may read what.
    Right { who: Who, repo: Repo, may: bool },
    /// A tag means another image from now on.
    Move { repo: Repo, version: u8 },
    /// `larder revoke`.
    Revoke(Option<Repo>),
    /// `larder rm`.
    Remove(Repo),
    /// `larder gc`.
    MakeRoom,
    /// `larder pull`.
    Prefetch { repo: Repo, pin: bool },
    /// `larder verify`.
    Verify { repair: bool },
    /// Stopped and started again.
    Restart,
    /// Killed after so many more file calls that change something, and started again on what is on disk.
    Kill { after_calls: u64 },
    /// Calls to the disk begin to fail.
    Disk(DiskFault),
    /// Calls to the disk do not return for so many seconds: those that change something, and where it gives nothing back, all.
    DiskHangs { gives_back: bool, seconds: u64 },
    /// Others fill the filesystem until so many MiB are left; or leave plenty again.
    Room {
        #[serde(default)]
        #[serde(skip_serializing_if = "is_default")]
        free_mib: Option<u64>,
    },
    /// A stored blob is damaged from outside.
    Damage(Damage),
    /// The wall clock is set forward.
    ClockJump { seconds: u64 },
    /// The wall clock is set back.
    ClockBack { seconds: u64 },
    /// A reload: from now on reg.corp has a mirror before it, or none.
    Reload { mirror: bool },
    /// The node's docker config changes.
    NodeLogin(NodeLogin),
    /// A pod of this tenant with this image, and perhaps another one, is bound to the node.
    Pod {
        id: u32,
        who: Who,
        repo: Repo,
        #[serde(default)]
        #[serde(skip_serializing_if = "is_default")]
        also: Option<Repo>,
    },
    /// A tenant's pull secret becomes another one.
    Secret { who: Who, is: PodSecret },
    /// It is deleted.
    PodGone(u32),
    /// The API server that tells of pods goes away, or comes back.
    ApiServer { away: bool },
    /// Others do something in the bucket of the shared tier.
    Bucket(BucketAct),
    /// Nothing for a while.
    Wait { seconds: u64 },
}

/// What others do in the bucket of the shared tier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BucketAct {
    /// Another node has written the first version of an image.
    Shared(Repo),
    /// An object is damaged; without checksums, `lose_checks` makes it longer.
    Damage(Damage),
    /// What is no lease is where the lease of a layer would be.
    Junk { repo: Repo, layer: u8 },
    /// Another node says for so long that it is writing a layer, at so many bytes a second; it never does.
    Writing { repo: Repo, layer: u8, seconds: u64, rate: u64 },
    /// Another node has shared names of an image, or there are records that look like that.
    Names { repo: Repo, how: NameKind },
    /// Everything is deleted.
    Empty,
    /// The clock of the store is so many seconds off from now on.
    ClockOff { seconds: i64 },
}

/// What records about names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NameKind {
    /// What another node has just learned.
    Right,
    /// From 40 days ago.
    Old,
    /// By a clock that is a day ahead.
    Future,
    /// Sealed with the key of another cluster.
    OtherKey,
    /// Those of another repository, which is public.
    Moved,
    /// That the registry refuses everyone.
    Closed,
}

/// Where an image is; what is in it is in `catalog.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Repo {
    /// reg.corp/team-a/app: Alice's.
    TeamA,
    /// reg.corp/team-b/app: Bob's.
    TeamB,
    /// reg.corp/shared/base: both's.
    Shared,
    /// reg.corp/open/tool: everybody's.
    Open,
    /// hub.example/lib/app: everybody's, and not configured.
    Hub,
    /// hub.example/lib/big: a large layer.
    Big,
    /// store.corp/proj/x: everybody's, with its blobs in an object store.
    Proj,
    /// evil.example/evil/app: a hostile registry.
    Evil,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Who {
    Nobody,
    Alice,
    Bob,
    /// Alice with a wrong password.
    Mallory,
    /// The node's own login: no client's, and every client's to use.
    Node,
}

/// What the node's docker config says of reg.corp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NodeLogin {
    Right,
    WrongPassword,
    Nothing,
    /// Half of the file is written: what it said before holds.
    HalfWritten,
}

/// What a tenant's pull secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PodSecret {
    /// The tenant's login.
    Right,
    /// One that the registry does not know.
    Wrong,
    /// There is none of that name.
    Gone,
    /// One that kubelet does not pull with.
    Malformed,
    /// The API server does not answer who asks for it.
    Unanswered,
}

/// An upstream that does wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) id: u32,
    pub(crate) host: Host,
    pub(crate) part: Part,
    pub(crate) method: Method,
    #[serde(default)]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) repo: Option<Repo>,
    /// How often; always if it is not there.
    #[serde(default)]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) times: Option<u32>,
    pub(crate) kind: FaultKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultKind {
    /// This status and nothing else.
    Status(u16),
    /// 429, with this many seconds to wait.
    TooMany(u32),
    /// No answer.
    Hang,
    /// The connection is closed after so many bytes of the body.
    CutAfter(u64),
    /// The body stops after so many bytes.
    StallAfter(u64),
    /// One byte of the body is another.
    Corrupt,
    /// A page for people, with 200.
    Page,
    /// Nothing, with 200.
    Nothing,
    /// No length.
    Chunked,
    /// A length that is wrong by so much.
    LengthOff(i64),
    /// So many bytes each 10 ms.
    Slow(u64),
    /// As if no range had been asked for.
    IgnoreRange,
    /// Another range than was asked for, said to be the right one.
    WrongRange,
    /// Another range than was asked for, and said to be that one.
    OtherRange,
    /// No digest in the head.
    NoDigest,
    /// Connections are refused.
    Refuse,
    /// The name does not resolve.
    NoName,
    /// The name is looked up for ever.
    NameHangs,
    /// The connection is never made.
    ConnectHangs,
}

/// What of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DiskCall {
    Create,
    Write,
    Sync,
    Rename,
    Unlink,
    UnlinkBlob,
    MakeDirectory,
    Open,
    Read,
    /// Everything that changes something.
    Change,
    /// That, and what makes it durable.
    EveryChange,
    /// That, and what reads.
    Every,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DiskError {
    NoSpace,
    ReadOnly,
    Io,
    /// A write that takes one byte only.
    Short,
    /// A call that does not return, for a while.
    Hangs,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct DiskFault {
    pub(crate) call: DiskCall,
    pub(crate) error: DiskError,
    /// How often; always if it is not there.
    #[serde(default)]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) times: Option<u32>,
}

/// A blob on disk that is changed from outside.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Damage {
    pub(crate) repo: Repo,
    pub(crate) layer: u8,
    pub(crate) how: DamageKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DamageKind {
    /// One byte at so many thousandths of it, whether it is stored or still being written.
    Flip(u32),
    Cut,
    Remove,
    /// By other bytes of the same length.
    Replace,
    /// Its checksums are lost.
    LoseChecks,
}
