//! The bucket of the shared tier: an S3 of the tests' own on the simulated network, with the faults of the plan; and what
//! other nodes and writers do in it.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use larder::reference::Digest;
use larder::tier::{Io, Network, Pending};
use tokio::io::duplex;

use crate::catalog::{REPOS, catalog};
use crate::fault::Fault;
use crate::network::{BUFFER, Connection};
use crate::plan::{BucketAct, DamageKind, FaultKind, Host, Part, Repo};
use crate::registry::Upstreams;
use crate::s3::{self, Asked, BUCKET, Bucket, KEY_ID, Op, SECRET, Wrong};
use crate::shared_names::Keys;
use crate::time::{Now, START};
use crate::truth::Truth;

/// Where the tree of the tier begins.
pub(crate) const ROOT: &str = "sim/larder/v1";

/// Seconds between two renewals of a lease, and the size that another node's lease states.
const RENEW_S: u64 = 3;
const LEASED: u64 = 12_000_000;

/// How the bucket stands in the end.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Keys of objects that are not the content of their digest, and were not made so by others.
    pub(crate) wrong: Vec<String>,
    /// Names and secrets that are in it.
    pub(crate) told: Vec<String>,
    /// Uploads that were begun, and neither completed nor aborted.
    pub(crate) uploads: usize,
    /// Requests, with when.
    pub(crate) seen: Vec<(u64, String)>,
}

/// An empty bucket.
pub(crate) fn new(now: &Now) -> Bucket {
    let now = now.clone();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(START);
    Bucket::with_clock(Arc::new(move || start + Duration::from_millis(now.ms())))
}

/// The lines of the daemon's configuration; the key file holds [`key_file`].
pub(crate) fn configuration(key_file: &Path, names: Option<&Path>) -> String {
    let names = names.map(|key| format!("share_names = true\ncluster_key = {key:?}\n")).unwrap_or_default();
    format!(
        "[tier]\nurl = \"s3://{BUCKET}/sim\"\nendpoint = \"http://{}\"\nregion = \"us-east-1\"\npath_style = true\n\
         key_file = {key_file:?}\n{names}",
        Host::Bucket.name()
    )
}

pub(crate) fn key_file() -> String {
    format!("[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")
}

/// The way of one daemon to the bucket.
pub(crate) struct Way {
    upstreams: Upstreams,
    epoch: u32,
}

impl Way {
    pub(crate) fn new(upstreams: Upstreams, epoch: u32) -> Self {
        Self { upstreams, epoch }
    }
}

impl Network for Way {
    fn connect(&self, _: &str) -> Pending<Box<dyn Io>> {
        let (upstreams, epoch) = (self.upstreams.clone(), self.epoch);
        Box::pin(async move {
            use FaultKind::{ConnectHangs, NameHangs, NoName, Refuse};
            match upstreams.host_fault(Host::Bucket, &[Refuse, NoName, ConnectHangs, NameHangs]) {
                Some(Refuse | NoName) => return Err(io::ErrorKind::ConnectionRefused.into()),
                Some(_) => std::future::pending().await,
                None => {}
            }
            let (client, server) = duplex(BUFFER);
            tokio::spawn(s3::serve(upstreams.bucket().clone(), TokioIo::new(server)));
            let connection: Box<dyn Io> = Box::new(Connection::new(client, upstreams, epoch));
            Ok(connection)
        })
    }
}

/// What this fault makes of an answer of the bucket.
pub(crate) fn wrong(kind: FaultKind) -> Wrong {
    use FaultKind::{
        Chunked, Corrupt, CutAfter, Hang, LengthOff, Nothing, Page, Slow, StallAfter, Status, TooMany,
    };
    match kind {
        Status(503) => Wrong::slow_down(),
        Status(403) => Wrong::denied(),
        Status(code) => Wrong::Refused(code, "InternalError"),
        TooMany(_) => Wrong::Refused(429, "TooManyRequests"),
        Hang => Wrong::Hang,
        CutAfter(after) => Wrong::Answered(Fault::CloseAfter(after as usize)),
        StallAfter(after) => Wrong::Answered(Fault::StallAfter(after as usize)),
        Corrupt => Wrong::Answered(Fault::Corrupt),
        Slow(count) => Wrong::Answered(Fault::Slow(count.max(1) as usize)),
        Chunked => Wrong::Answered(Fault::Chunked),
        Page => Wrong::Page("<html><body>Sign in</body></html>"),
        Nothing => Wrong::Page(""),
        LengthOff(by) if by < 0 => Wrong::Short(1_000),
        LengthOff(by) => Wrong::Long(by as usize),
        _ => Wrong::Lost,
    }
}

/// What of the bucket a request is about, and whether it changes something.
pub(crate) fn about(asked: &Asked) -> (Part, bool) {
    let marks = [("/manifests/", Part::Manifest), ("/blobs/", Part::Blob)];
    let part =
        marks.into_iter().find(|(mark, _)| asked.key.contains(mark)).map_or(Part::Any, |(_, part)| part);
    (part, !matches!(asked.op, Op::Get | Op::Head | Op::List))
}

/// The key of an object of content that came from this host, as `src/tier/layout.rs` has it.
fn key(kind: &str, host: Host, digest: Digest) -> String {
    let hex = digest.hex();
    let origin = Digest::of(format!("larder tier origin\0{}\0{digest}", host.name()).as_bytes()).hex();
    format!("{ROOT}/{kind}/sha256/{}/{hex}/{}", &hex[..2], &origin[..32])
}

fn layer_of(repo: Repo, layer: u8) -> Digest {
    let layers = &catalog().image(repo, 0).layers;
    layers[usize::from(layer) % layers.len()]
}

/// Does what others do; returns what became of it.
pub(crate) fn act(
    bucket: &Bucket,
    truth: &mut Truth,
    act: &BucketAct,
    keys: Option<&Keys>,
    now: u64,
) -> String {
    match act {
        BucketAct::Names { repo, how } => {
            keys.iter().for_each(|keys| keys.write(bucket, *repo, *how, now));
            format!("records about {} are in the bucket: {how:?}", repo.name())
        }
        BucketAct::Shared(repo) => {
            share(bucket, *repo);
            format!("another node has shared {}", repo.name())
        }
        BucketAct::Damage(damage) => {
            let digest = layer_of(damage.repo, damage.layer);
            let key = key("blobs", damage.repo.host(), digest);
            let done = harm(bucket, &key, damage.how);
            if done {
                truth.bucket_damage.insert(key);
            }
            let done = if done { "done" } else { "not there" };
            format!("damage {:?} of {digest} in the bucket: {done}", damage.how)
        }
        BucketAct::Junk { repo, layer } => {
            bucket.put(&key("leases", repo.host(), layer_of(*repo, *layer)), &b"\x00junk"[..]);
            "what is no lease is where one would be".to_owned()
        }
        BucketAct::Writing { repo, layer, seconds, rate } => {
            let (key, bucket) = (key("leases", repo.host(), layer_of(*repo, *layer)), bucket.clone());
            tokio::spawn(pretend(bucket, key, *seconds, *rate));
            format!("another node writes a layer of {} for {seconds} s", repo.name())
        }
        BucketAct::Empty => {
            bucket.keys().iter().for_each(|key| bucket.remove(key));
            "the bucket is emptied".to_owned()
        }
        BucketAct::ClockOff { seconds } => {
            bucket.set_clock(*seconds);
            format!("the clock of the bucket is {seconds} s off")
        }
    }
}

/// Renews a lease as `src/tier/lease.rs` has it.
async fn pretend(bucket: Bucket, key: String, seconds: u64, rate: u64) {
    for renewals in 0..seconds / RENEW_S + 1 {
        let done = renewals * RENEW_S * rate;
        let lease =
            serde_json::json!({"nonce": 7, "renewals": renewals, "size": LEASED, "done": done, "rate": rate});
        bucket.put(&key, lease.to_string());
        tokio::time::sleep(Duration::from_secs(RENEW_S)).await;
    }
}

fn share(bucket: &Bucket, repo: Repo) {
    let image = catalog().image(repo, 0);
    let blobs = image.layers.iter().copied().chain([image.config]).map(|digest| ("blobs", digest));
    let manifests = [image.top, image.manifest].into_iter().chain(image.other);
    for (kind, digest) in blobs.chain(manifests.map(|digest| ("manifests", digest))) {
        if let Some(bytes) = catalog().bytes(digest) {
            bucket.put(&key(kind, repo.host(), digest), bytes.clone());
        }
    }
}

/// Damages an object; whether there was one.
fn harm(bucket: &Bucket, key: &str, how: DamageKind) -> bool {
    let Some(bytes) = bucket.object(key).filter(|bytes| !bytes.is_empty()) else { return false };
    match how {
        DamageKind::Flip(thousandths) => {
            let at = (bytes.len() - 1) * thousandths.min(1_000) as usize / 1_000;
            bucket.change(key, |bytes| bytes[at] ^= 0x40);
        }
        DamageKind::Cut => bucket.change(key, |bytes| bytes.truncate(bytes.len() / 2)),
        DamageKind::Remove => bucket.remove(key),
        DamageKind::Replace => bucket.change(key, |bytes| bytes.fill(7)),
        DamageKind::LoseChecks => bucket.change(key, |bytes| bytes.extend_from_slice(b"more")),
    }
    true
}

/// How it stands; `secrets` must not be in it, `damaged` are keys of objects that others made wrong.
pub(crate) fn left(bucket: &Bucket, damaged: &BTreeSet<String>, secrets: &[String]) -> Left {
    let mut left = Left { uploads: bucket.uploads(), ..Left::default() };
    for key in bucket.keys() {
        let content = bucket.object(&key).unwrap_or_default();
        let is_content = ["blobs", "manifests"].iter().any(|kind| key.contains(&format!("/{kind}/")));
        let named =
            key.split('/').rev().nth(1).and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
        if is_content && named.is_none_or(|digest| !digest.is_of(&content)) && !damaged.contains(&key) {
            left.wrong.push(key.clone());
        }
        let names = REPOS.iter().flat_map(|repo| [repo.path(), repo.host().name()]);
        left.told.extend(names.filter(|name| key.contains(name)).map(|name| format!("{name} is in {key}")));
        // Content is what it is; everything else is the daemon's own.
        let text = String::from_utf8_lossy(&content);
        let told = secrets.iter().filter(|secret| !is_content && text.contains(secret.as_str()));
        left.told.extend(told.map(|_| format!("a secret is in {key}")));
    }
    left
}
