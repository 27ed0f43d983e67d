//! `[tier]`: the object store that the stores of many nodes share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::report::Place;
use crate::config::schema::section;
use crate::config::value::{MILLISECOND, Text, flag, list, number, parsed, path, span};
use crate::reference::Registry;
use crate::support::proxies::ProxyVariables;
use crate::tier::{self, Location, Registries, RegistryPattern};

/// A tier that answers later is of no use: containerd gives up on an answer after 30 s.
const TIMEOUT_MAX: Duration = Duration::from_secs(20);
/// Below the five minutes after which containerd ends a pull.
const WAIT_MAX: Duration = Duration::from_secs(280);
/// Parts in memory at a time, each of up to 16 MiB.
const UPLOADS_MAX: u32 = 16;

section! {
    /// An object store that the stores of many nodes share, so that one download from a registry is enough for all of
    /// them. It holds bytes of images and no right to read them. Without `url` there is none.
    Tier = "tier";

    /// Where it is: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory. The directory
    /// must be there.
    restart url: Option<Location> = location(), |_| None, example "\"s3://images/larder\"";

    /// The URL of the store's interface, if it is not the platform's own. http:// is for a store within your own
    /// network.
    restart endpoint: Option<String> = endpoint(), |_| None, example "\"https://s3.corp:8333\"";

    /// The region of an S3 bucket, if AWS_REGION does not say it.
    restart region: Option<String> = text(), |_| None, example "\"eu-central-1\"";

    /// Whether the bucket is named in the path of a URL and not in its host (S3): most stores other than Amazon's need
    /// that.
    restart path_style: bool = flag(), |_| false;

    /// A PEM file of certificate authorities that the store may be signed by, besides those of the system, or of the
    /// store's own certificate if that is self-signed.
    restart ca: Option<PathBuf> = path(), |_| None, example "\"/etc/larder/s3-ca.pem\"";

    /// The credential: an AWS credentials file, a key of a Google service account, or an Azure connection string.
    /// Without it the platform's usual ways count: the environment, the identity of the machine or of the pod.
    restart key_file: Option<PathBuf> = path(), |_| None, example "\"/etc/larder/tier.key\"";

    /// Whether this node reads from it.
    restart read: bool = flag(), |_| true;

    /// Whether this node writes to it. Who reads the bucket reads the private images of every node that does.
    restart write: bool = flag(), |_| true;

    /// Of which registries content is shared: names, or patterns such as "*.corp:5000"; a name of the network has to
    /// mean the same registry on all nodes. A registry at a name or address of the node itself (localhost, 127.0.0.0/8,
    /// ::1), or whose endpoints in [[registry]] are, is another one on each node: it is left out unless its very name
    /// is listed.
    reload registries: Vec<RegistryPattern> = list(registry_pattern()), |_| vec![RegistryPattern::all()];

    /// Whether nodes share, for the time of an outage, which repositories are public, what their tags name and which
    /// digests they have: a new node then serves public images while their registry cannot be asked. Needs
    /// `cluster_key`.
    restart share_names: bool = flag(), |_| false;

    /// The key that such records are sealed with: a file of 32 random bytes, the same on all nodes, that only the
    /// daemon's user can read.
    restart cluster_key: Option<PathBuf> = path(), |_| None, example "\"/etc/larder/cluster.key\"";

    /// How long connecting to the addresses of a name may take together. At most three of IPv4 and three of IPv6 are
    /// tried, and each has an equal part of this, so a third at least.
    restart connect_timeout: Duration = span(MILLISECOND..=TIMEOUT_MAX), |_| Duration::from_secs(1);

    /// From a request to the head of its answer. Then the registry is asked.
    restart header_timeout: Duration = span(MILLISECOND..=TIMEOUT_MAX), |_| Duration::from_secs(2);

    /// The longest pause within a body. Then the registry delivers the rest.
    restart idle_timeout: Duration = span(MILLISECOND..=TIMEOUT_MAX), |_| Duration::from_secs(5);

    /// The longest wait for a layer that another node is writing, before the registry is asked; clients get nothing
    /// meanwhile. containerd 1.7.0 to 1.7.19 cancels a pull that brings nothing for a minute, later versions after 5,
    /// CRI-O after its pull_progress_timeout (10 s or 30 s in some versions): docs/tier.md says what to set. "0s":
    /// nodes do not wait for each other.
    restart wait_max: Duration = span(Duration::ZERO..=WAIT_MAX), |_| Duration::from_secs(40);

    /// Parts of layers that are written at a time, each with 8 MiB of memory (up to 16 MiB for layers beyond 70 GiB).
    /// All layers that are downloaded share them. What is smaller than 4 MiB has 3 uploads of its own.
    restart uploads: u32 = number(1..=UPLOADS_MAX), |_| tier::UPLOADS;
}

impl Tier {
    /// Notes what does not fit together.
    pub(crate) fn check(&self, place: &Place<'_>) {
        if self.url.is_some() && !cfg!(feature = "tier") {
            let problem = "this program was built without the feature \"tier\"";
            place.known_key("url").mistake(problem);
        }
        if self.share_names && self.cluster_key.is_none() && place.absent_key("cluster_key").is_some() {
            place.known_key("share_names").mistake("names are sealed with a key: set cluster_key too");
        }
    }

    /// What the tier is built from; `None` if there is none.
    /// `on_loopback` says of registries with endpoints of their own whether those are on the node itself.
    pub(crate) fn config(
        &self,
        proxy: &ProxyVariables,
        on_loopback: HashMap<Registry, bool>,
    ) -> Option<tier::Config> {
        let location = self.url.clone()?;
        Some(tier::Config {
            location,
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            ca: self.ca.clone(),
            key_file: self.key_file.clone(),
            read: self.read,
            write: self.write,
            registries: Registries { patterns: self.registries.clone(), on_loopback },
            cluster_key: self.cluster_key.clone().filter(|_| self.share_names),
            connect_timeout: self.connect_timeout,
            head_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            wait_max: self.wait_max,
            uploads: self.uploads,
            proxy: proxy.clone(),
            reach: tier::Reach::default(),
        })
    }
}

fn location() -> Text<Location> {
    parsed("URL of a bucket or directory", &["s3://images/larder", "file:///srv/larder"])
}

fn registry_pattern() -> Text<RegistryPattern> {
    parsed("registry or pattern", &["quay.io", "*.corp:5000", "localhost:5000"])
}

fn endpoint() -> Text<String> {
    let read = |text: &str| {
        let url = url::Url::parse(text).map_err(|error| error.to_string())?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain {
            Ok(text.trim_end_matches('/').to_owned())
        } else {
            Err("expected an http:// or https:// URL without a credential".to_owned())
        }
    };
    Text { what: "URL", examples: &["https://s3.corp:8333"], read, write: String::clone }
}

fn text() -> Text<String> {
    let read = |text: &str| match text.trim() {
        "" => Err("expected a name".to_owned()),
        name => Ok(name.to_owned()),
    };
    Text { what: "name", examples: &["eu-central-1"], read, write: String::clone }
}
