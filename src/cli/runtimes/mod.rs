//! What `setup` and `doctor` know of container runtimes: which there are, and how their files are read and changed.
//!
//! ```text
//! machine            the files of a machine, or of an image of one below a directory
//! runtime            the runtimes, and how each is recognised on a machine
//! containerd_config  containerd's config.toml; containerd_files: the files that it consists of
//! registries_conf    podman's, CRI-O's and skopeo's registries.conf; signature_policy: their policy.json
//! registries_yaml    k3s' and RKE2's registries.yaml
//! marks              what setup leaves in a file, so that doctor and `--undo` find it
//! toml_text          TOML that others wrote, written again
//! ```
//!
//! Promises: what a file says that is none of Larder's stays as it is. Deliberately not here: what is changed
//! (`setup`), and what is wrong with it (`doctor`).

pub(super) mod containerd_config;
pub(super) mod containerd_files;
pub(super) mod machine;
pub(super) mod marks;
pub(super) mod registries_conf;
pub(super) mod registries_yaml;
pub(super) mod runtime;
pub(super) mod signature_policy;
pub(super) mod toml_text;
