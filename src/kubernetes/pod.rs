//! A pod of this node, as far as its images concern Larder: pure.
//!
//! Every source of pods (the API server's watch, kubelet's own socket) fills a [`RawPod`]; [`Pod::new`] brings its
//! images into the order in which kubelet needs them, applies kubelet's default pull policy, and bounds everything. Not
//! here: where a pod comes from, and what is done about it.

use std::sync::Arc;

use crate::reference::{Image, Reference};

/// Images of one pod at most, further ones are left for kubelet: pods in use have a dozen.
pub const IMAGES_MAX: usize = 64;
/// Pull secrets of one pod at most; further ones are passed over.
pub const PULL_SECRETS_MAX: usize = 32;
/// Bytes of a namespace, a name or a UID at most: the API server's own limit of names.
const NAME_BYTES_MAX: usize = 253;
/// Bytes of an image's name at most: longer ones are no references.
const IMAGE_BYTES_MAX: usize = 1_024;

/// When an image is pulled although the runtime may have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// The registry is asked each time.
    Always,
    /// It is pulled where the runtime does not have it.
    IfNotPresent,
    /// It is never pulled.
    Never,
}

/// What a pod uses an image for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageUse {
    /// A volume.
    Volume,
    /// An ephemeral container.
    Ephemeral,
    /// An init container, sidecars among them.
    Init,
    /// A container.
    Container,
}

/// An image that a pod needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodImage {
    /// The image, normalised.
    pub image: Image,
    /// When kubelet pulls it.
    pub policy: PullPolicy,
    /// What it is for.
    pub used_as: ImageUse,
    /// Whether kubelet has got it already: its container has started once.
    pub has_started: bool,
    /// Whether a credential plugin asks for a token of the pod's service account to pull it.
    pub needs_account: bool,
}

/// A pod of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Tells pods apart, also those of one name that follow each other.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account, where the source says it.
    pub service_account: Option<String>,
    /// Its priority, as the scheduler knows it; 0 by default.
    pub priority: i32,
    /// When it was created, in seconds since 1970; 0 where the source does not say it.
    pub created_at: i64,
    /// Whether it has ended, or is being deleted: kubelet pulls nothing for it.
    pub has_ended: bool,
    /// The names of its pull secrets, in their order. Those of its service account are among them: the API server's
    /// admission copies them into the pod, and kubelet reads the pod alone.
    pub pull_secrets: Arc<[String]>,
    /// Its images in the order in which kubelet needs them.
    pub images: Vec<PodImage>,
}

/// A pod, by its names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// A pod as a source has it.
#[derive(Debug, Clone, Default)]
pub struct RawPod {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// `spec.priority`.
    pub priority: Option<i32>,
    /// `metadata.creationTimestamp`, in seconds since 1970.
    pub created_at: i64,
    /// `status.phase`.
    pub phase: String,
    /// Whether `metadata.deletionTimestamp` is set.
    pub is_deleted: bool,
    /// `spec.imagePullSecrets[].name`.
    pub pull_secrets: Vec<String>,
    /// `spec.volumes[].image`, those that have one.
    pub volumes: Vec<RawImage>,
    /// `spec.ephemeralContainers`.
    pub ephemeral: Vec<RawImage>,
    /// `spec.initContainers`.
    pub init: Vec<RawImage>,
    /// `spec.containers`.
    pub containers: Vec<RawImage>,
    /// The names of containers of any kind whose status has a `containerID` or an `imageID`.
    pub started: Vec<String>,
}

/// A container or an image volume as a source has it.
#[derive(Debug, Clone, Default)]
pub struct RawImage {
    /// The name of the container or volume.
    pub name: String,
    /// `image`, or `image.reference` of a volume.
    pub image: String,
    /// `imagePullPolicy`, or `image.pullPolicy` of a volume; empty where there is none.
    pub policy: String,
}

impl Pod {
    /// The pod, unless its UID or names are of no API server. An image that is no reference is left out: kubelet
    /// refuses it too.
    ///
    /// The order of images is kubelet's (`SyncPod` in kuberuntime_manager.go): image volumes, once the sandbox stands;
    /// ephemeral containers; init containers one after the other; then containers.
    pub fn new(raw: RawPod) -> Option<Self> {
        if ![&raw.uid, &raw.namespace, &raw.name].into_iter().all(|name| is_name(name)) {
            return None;
        }
        let has_started = |name: &str| raw.started.iter().any(|started| started == name);
        // A volume's image was there before the first container.
        let any_started = !raw.started.is_empty();
        let groups = [
            (ImageUse::Volume, &raw.volumes),
            (ImageUse::Ephemeral, &raw.ephemeral),
            (ImageUse::Init, &raw.init),
            (ImageUse::Container, &raw.containers),
        ];
        let mut images = Vec::new();
        for (used_as, raw_images) in groups {
            for RawImage { name, image, policy } in raw_images {
                if images.len() == IMAGES_MAX || image.len() > IMAGE_BYTES_MAX {
                    continue;
                }
                let Ok(image) = image.parse::<Image>() else { continue };
                let has_started = if used_as == ImageUse::Volume { any_started } else { has_started(name) };
                let policy = policy_of(policy, &image);
                images.push(PodImage { policy, image, used_as, has_started, needs_account: false });
            }
        }
        let mut pull_secrets = raw.pull_secrets;
        // Kubelet passes over an entry without a name too.
        pull_secrets.retain(|name| is_name(name));
        pull_secrets.truncate(PULL_SECRETS_MAX);
        Some(Self {
            has_ended: raw.is_deleted || matches!(raw.phase.as_str(), "Succeeded" | "Failed"),
            uid: raw.uid,
            namespace: raw.namespace,
            name: raw.name,
            service_account: Some(raw.service_account).filter(|name| is_name(name)),
            priority: raw.priority.unwrap_or_default(),
            created_at: raw.created_at,
            pull_secrets: pull_secrets.into(),
            images,
        })
    }

    /// Namespace and name, for people.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Whether an API server may have given that name: it is put into the path of a request as it is.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain) && !name.starts_with('.')
}

/// What kubelet does with a policy; an empty one is what the API server fills in: `Always` for the tag `latest`, named
/// or not, else `IfNotPresent`.
fn policy_of(text: &str, image: &Image) -> PullPolicy {
    match text {
        "Always" => PullPolicy::Always,
        "Never" => PullPolicy::Never,
        "" if matches!(&image.reference, Reference::Tag(tag) if tag.as_str() == "latest") => {
            PullPolicy::Always
        }
        _ => PullPolicy::IfNotPresent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw_image(name: &str, image: &str, policy: &str) -> RawImage {
        RawImage { name: name.to_owned(), image: image.to_owned(), policy: policy.to_owned() }
    }

    fn raw() -> RawPod {
        RawPod {
            uid: "1".to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            containers: vec![raw_image("app", "app", ""), raw_image("log", "log:v1", "")],
            init: vec![raw_image("init", "init:v1", "Never")],
            volumes: vec![raw_image("data", "data:v1", "Always")],
            ephemeral: vec![raw_image("debug", "debug:v1", "")],
            ..RawPod::default()
        }
    }

    #[test]
    fn images_are_in_the_order_in_which_kubelet_needs_them_and_have_its_policies() {
        let pod = Pod::new(raw()).unwrap();
        let seen: Vec<_> = pod.images.iter().map(|one| (one.image.to_string(), one.policy)).collect();
        let name = |name: &str| format!("docker.io/library/{name}");
        let expected = [
            (name("data:v1"), PullPolicy::Always),
            (name("debug:v1"), PullPolicy::IfNotPresent),
            (name("init:v1"), PullPolicy::Never),
            (name("app:latest"), PullPolicy::Always),
            (name("log:v1"), PullPolicy::IfNotPresent),
        ];
        assert_eq!(seen, expected);
        assert!(pod.images.iter().all(|one| !one.has_started));
    }

    #[test]
    fn what_has_started_once_is_not_waited_for_and_its_volumes_neither() {
        let pod = Pod::new(RawPod { started: vec!["init".to_owned()], ..raw() }).unwrap();
        let started: Vec<_> =
            pod.images.iter().filter(|one| one.has_started).map(|one| one.used_as).collect();
        assert_eq!(started, [ImageUse::Volume, ImageUse::Init]);
    }

    #[test]
    fn a_pod_that_ended_or_is_deleted_wants_nothing() {
        let phase = |phase: &str| RawPod { phase: phase.to_owned(), ..raw() };
        assert!(
            !Pod::new(phase("Pending")).unwrap().has_ended && !Pod::new(phase("Running")).unwrap().has_ended
        );
        assert!(
            Pod::new(phase("Failed")).unwrap().has_ended && Pod::new(phase("Succeeded")).unwrap().has_ended
        );
        assert!(Pod::new(RawPod { is_deleted: true, ..raw() }).unwrap().has_ended);
    }

    #[test]
    fn no_pod_is_larger_than_its_bounds() {
        let many = (0..10_000).map(|n| raw_image(&format!("c{n}"), &format!("image{n}:v1"), "")).collect();
        let secrets = (0..10_000).map(|n| format!("secret{n}")).chain(["x".repeat(1_000)]).collect();
        let pod = Pod::new(RawPod { containers: many, pull_secrets: secrets, ..raw() }).unwrap();
        assert_eq!((pod.images.len(), pod.pull_secrets.len()), (IMAGES_MAX, PULL_SECRETS_MAX));
        assert_eq!(Pod::new(RawPod { uid: "x".repeat(1_000), ..raw() }), None);
        for bad in ["", "..", "a/b", "a?b"] {
            assert_eq!(Pod::new(RawPod { name: bad.to_owned(), ..raw() }), None);
        }
        let secrets = vec!["../../nodes".to_owned(), "corp".to_owned(), String::new()];
        let pod = Pod::new(RawPod { pull_secrets: secrets, ..raw() }).unwrap();
        assert_eq!(pod.pull_secrets.to_vec(), ["corp"]);
        let bad = vec![raw_image("a", "Not A Reference", ""), raw_image("b", &"x".repeat(5_000), "")];
        assert_eq!(Pod::new(RawPod { containers: bad, ..raw() }).unwrap().images.len(), 3);
    }
}
