//! What the checks found, and what to do about it.

use serde::Serialize;

/// What to do about a file that is malformed, or cannot be read.
pub(super) const CORRECT: &str = "correct it, or run this as root if it cannot be read";
/// What findings about the cache itself are about.
pub(super) const CACHE: &str = "cache";
/// What findings about containerd are about, and what to do where it does not lead here.
pub(super) const CONTAINERD: &str = "containerd";
pub(super) const CONTAINERD_SETUP: &str = "larder setup containerd, then systemctl restart containerd";
/// What findings about Docker are about.
pub(super) const DOCKER: &str = "docker";
/// What findings about podman, CRI-O and skopeo are about, which read the same files.
pub(super) const CONTAINERS: &str = "podman/crio";

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It works, and not as well as it could.
    Warning,
    /// It does not work.
    Problem,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What was checked: `cache`, `containerd`, `docker`.
    pub(super) about: &'static str,
    /// The registry that it is about, if it is about one.
    #[serde(skip)]
    pub(super) registry: Option<String>,
    pub(super) what: String,
    /// What to do; empty where nothing is to be done, which is never so for a problem.
    pub(super) remedy: String,
}

/// The results of some checks.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn add(
        &mut self,
        level: Level,
        about: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let remedy = remedy.into();
        debug_assert!(level != Level::Problem || !remedy.is_empty(), "a problem has a remedy");
        self.0.push(Finding { level, about, registry: None, what: what.into(), remedy });
    }

    /// A finding about a registry.
    pub(super) fn add_of_registry(
        &mut self,
        level: Level,
        registry: &str,
        what: &str,
        remedy: impl Into<String>,
    ) {
        self.add(level, CACHE, format!("{registry}: {what}"), remedy);
        if let Some(added) = self.0.last_mut() {
            added.registry = Some(registry.to_owned());
        }
    }

    /// Of findings about runtimes, the level of a Docker that does not lead here: with another runtime, checked before,
    /// that does, Docker may not be meant to.
    pub(super) fn docker_level(&self) -> Level {
        let leads_here = |finding: &Finding| finding.level == Level::Ok;
        if self.0.iter().any(leads_here) { Level::Warning } else { Level::Problem }
    }

    /// The level of a CRI-O that does not lead here: kubelet pulls by it where none of kubelet's other runtimes, which
    /// are checked before, leads here. Docker is none of those.
    pub(super) fn crio_level(&self) -> Level {
        let leads_here = |finding: &Finding| finding.level == Level::Ok && finding.about != DOCKER;
        if self.0.iter().any(leads_here) { Level::Warning } else { Level::Problem }
    }

    /// Whether a runtime leads here, as far as it was checked.
    pub(super) fn leads_here(&self, about: &str) -> bool {
        self.0.iter().any(|finding| finding.level == Level::Ok && finding.about == about)
    }

    pub(super) fn ok(&mut self, about: &'static str, what: impl Into<String>) {
        self.add(Level::Ok, about, what, "");
    }
}
