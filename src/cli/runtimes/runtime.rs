//! The runtimes that can pull through this cache, and how each is recognised on a machine.

use clap::ValueEnum;

use super::machine::Machine;
use super::marks::DOCKER_CONFIG;

/// A runtime, or a distribution of Kubernetes that brings its own containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Runtime {
    /// containerd, or the distributions with a containerd of their own if there is no other
    Containerd,
    Docker,
    Podman,
    Crio,
    K3s,
    Rke2,
    Microk8s,
    K0s,
}

/// The distributions with a containerd of their own.
const DISTRIBUTIONS: [Runtime; 4] = [Runtime::K3s, Runtime::Rke2, Runtime::Microk8s, Runtime::K0s];

impl Runtime {
    /// As it is named on the command line.
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Crio => "crio",
            Self::K3s => "k3s",
            Self::Rke2 => "rke2",
            Self::Microk8s => "microk8s",
            Self::K0s => "k0s",
        }
    }

    /// Whether it can send a mirror the header of `[server] gate_header`; Docker's containerd image store can, Docker
    /// itself cannot.
    pub(in crate::cli) fn sends_headers(self) -> bool {
        matches!(self, Self::Containerd | Self::Microk8s | Self::K0s)
    }

    /// Whether it is on a machine.
    pub(in crate::cli) fn is_on(self, machine: &Machine) -> bool {
        let any = |paths: &[&str]| paths.iter().any(|path| machine.has(path));
        match self {
            Self::Containerd => any(&["/etc/containerd", "/usr/bin/containerd", "/usr/local/bin/containerd"]),
            // Not by /etc/docker, which others make too: Debian's docker-registry, and setup itself for certificates.
            Self::Docker => any(&[
                "/usr/bin/dockerd",
                "/usr/local/bin/dockerd",
                "/snap/bin/docker.dockerd",
                DOCKER_CONFIG,
                "/lib/systemd/system/docker.service",
                "/usr/lib/systemd/system/docker.service",
                "/etc/systemd/system/docker.service",
            ]),
            Self::Podman => any(&["/usr/bin/podman", "/usr/local/bin/podman"]),
            Self::Crio => any(&["/usr/bin/crio", "/usr/local/bin/crio", "/etc/crio"]),
            Self::K3s => any(&["/etc/rancher/k3s", "/var/lib/rancher/k3s", "/usr/local/bin/k3s"]),
            Self::Rke2 => any(&["/etc/rancher/rke2", "/var/lib/rancher/rke2", "/usr/local/bin/rke2"]),
            Self::Microk8s => any(&["/var/snap/microk8s/current"]),
            Self::K0s => any(&["/etc/k0s", "/var/lib/k0s", "/usr/local/bin/k0s"]),
        }
    }

    /// The runtimes that this one means on a machine: for containerd, where there is none but that of a distribution,
    /// that.
    pub(in crate::cli) fn meant(self, machine: &Machine) -> Vec<Self> {
        if self == Self::Containerd && !self.is_on(machine) {
            let found = distributions(machine);
            if !found.is_empty() {
                return found;
            }
        }
        vec![self]
    }
}

/// The distributions on a machine that have a containerd of their own.
pub(in crate::cli) fn distributions(machine: &Machine) -> Vec<Runtime> {
    DISTRIBUTIONS.into_iter().filter(|runtime| runtime.is_on(machine)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_each_is_that_of_the_command_line() {
        for runtime in Runtime::value_variants() {
            assert_eq!(runtime.to_possible_value().unwrap().get_name(), runtime.name());
        }
    }

    #[test]
    fn containerd_means_the_one_of_a_distribution_where_there_is_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::under(directory.path());
        assert_eq!(Runtime::Containerd.meant(&machine), [Runtime::Containerd]);
        std::fs::create_dir_all(directory.path().join("etc/rancher/k3s")).unwrap();
        std::fs::create_dir_all(directory.path().join("etc/docker")).unwrap();
        assert_eq!(Runtime::Containerd.meant(&machine), [Runtime::K3s]);
        assert!(!Runtime::Docker.is_on(&machine), "/etc/docker is no Docker");
        std::fs::create_dir_all(directory.path().join("etc/containerd")).unwrap();
        assert_eq!(Runtime::Containerd.meant(&machine), [Runtime::Containerd]);
    }
}
