"""The DaemonSet's containers, with exactly the rights that its manifest gives them. podman starts them with the same
configuration, because the tests have no cluster."""

import os
import re
import shutil
import subprocess
import unittest

import image
from manifests import kustomized, of_kind
from programs import PROGRAM, ROOT, Containerd, Larder, Registry, World, run

REPOSITORY = "team/app"
NAME = f"reg.test/{REPOSITORY}:v1"


def pod_of_the_daemonset():
    return of_kind(kustomized(), "DaemonSet")["spec"]["template"]["spec"]


def podman_arguments(pod, container, directories):
    """What a container's manifest states, in podman's words; `directories` are those of its volumes. What is not known
    here fails, so that no right goes unnoticed."""
    known = {"name", "image", "args", "resources", "ports", "readinessProbe", "livenessProbe", "securityContext", "volumeMounts",
             "env"}
    assert set(container) <= known, set(container) - known
    context = dict(container["securityContext"])
    words = []
    if pod["hostNetwork"]:
        words.append("--network=host")
    words.append(f"--user={context.pop('runAsUser')}")
    if context.pop("readOnlyRootFilesystem"):
        words += ["--read-only", "--read-only-tmpfs=false"]
    if not context.pop("allowPrivilegeEscalation"):
        words.append("--security-opt=no-new-privileges")
    capabilities = context.pop("capabilities")
    words += [f"--cap-drop={name.lower()}" for name in capabilities["drop"]]
    words += [f"--cap-add={name}" for name in capabilities.get("add", [])]
    # podman's own default.
    assert context.pop("seccompProfile") == {"type": "RuntimeDefault"}
    assert not context, context
    for entry in container.get("env", []):
        # What kubelet reads from the pod is the node's name here.
        assert "value" in entry or entry["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName", entry
        words.append(f"--env={entry['name']}={entry.get('value', 'node-1')}")
    for mount in container["volumeMounts"]:
        end = ":ro" if mount.get("readOnly") else ""
        words.append(f"--volume={directories[mount['name']]}:{mount['mountPath']}{end}")
    return words


def podman(directory):
    """Podman with storage of its own, and without the limits that a container here may not raise."""
    return ["podman", "--root", f"{directory}/podman", "--runroot", f"{directory}/podman-run", "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs", "run", "--rm", "--ulimit=nofile=20000:20000", "--ulimit=nproc=4096:4096"]


def root_of_the_image(directory):
    """A root of the program and the libraries that it needs; the image has a static one instead."""
    root = f"{directory}/root"
    for path in [PROGRAM, *re.findall(r"(/\S+) \(0x", run("ldd", PROGRAM))]:
        to = f"{root}/usr/bin/larder" if path == PROGRAM else root + path
        os.makedirs(os.path.dirname(to), exist_ok=True)
        shutil.copy(path, to)
    return root


class Pod(unittest.TestCase):
    """The containers one by one."""

    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.end)
        self.directory = self.world.directory("pod")
        names = ("config", "state", "run", "containerd", "token")
        self.directories = {name: f"{self.directory}/{name}" for name in names}
        for path in self.directories.values():
            os.makedirs(path)
        # A service account's token, as kubelet mounts it. Nothing answers where the API server would be.
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
            "/CN=kubernetes", "-keyout", "/dev/null", "-out", f"{self.directories['token']}/ca.crt")
        self.write("token/token", "a-token")
        self.write("token/namespace", "larder")

    def write(self, path, text):
        with open(f"{self.directory}/{path}", "w", encoding="utf-8") as file:
            file.write(text)

    def test_it_pulls_with_the_rights_that_the_daemonset_gives_it(self):
        world, directory = self.world, self.directory
        registry = Registry(world)
        pushed = image.push(world, registry, REPOSITORY, "v1")
        registry.stop()
        with open(f"{ROOT}/config/kubernetes/larder.toml", encoding="utf-8") as file:
            self.write("config/larder.toml",
                       f'{file.read()}\n[[registry]]\nhost = "reg.test"\nendpoints = ["{registry.url}"]\n'
                       '[store]\nmin_free = "0%"\n')
        podman_run = self.start_daemon()
        inside = ("nsenter", "-t", str(podman_run.pid), "-n")
        curl = (*inside, "curl", "-sf")
        # The network exists once the container answers.
        world.wait_for(lambda: self.answers(podman_run, "http://127.0.0.1:506/readyz"), "pod")
        world.start("registry-inside", *inside, "docker-registry", "serve", registry.config)
        world.wait_for(lambda: self.answers(podman_run, f"{registry.url}/v2/"), "registry-inside")
        index = run(*curl, f"http://127.0.0.1:505/v2/{REPOSITORY}/manifests/v1?ns=reg.test")
        self.assertIn(pushed["manifest amd64"], index)
        world.wait_for(lambda: "larder_store_blobs 1" in run(*curl, "http://127.0.0.1:5052/metrics"), "pod")
        with open(f"/proc/{self.daemon(podman_run.pid)}/status", encoding="utf-8") as file:
            status = file.read()
        self.assertRegex(status, r"CapEff:\s0000000000000400\n", "to bind a port below 1024, and nothing else")
        self.assertRegex(status, r"NoNewPrivs:\s1\n")
        self.assertRegex(status, r"Seccomp:\s2\n")
        podman_run.terminate()
        self.assertEqual(podman_run.wait(timeout=45), 0, world.log("pod"))

    def test_the_init_container_makes_containerd_pull_through_it_and_a_removal_takes_that_back(self):
        registry = Registry(self.world)
        pushed = image.push(self.world, registry, REPOSITORY, "v1")
        larder = Larder(self.world, {"reg.test": registry.url})
        self.write("config/larder.toml", f'[server]\nlisten = ["{larder.address}"]\n')
        self.write("containerd/config.toml", 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n'
                                             '  config_path = "/etc/containerd/certs.d"\n')
        self.assertRegex(self.init_container(), "^set up: ")
        # The first says which directories are to go again with the second.
        ours = [f"certs.d/_default/{name}" for name in (".hosts.toml.before-larder", "hosts.toml")]
        self.assertEqual(self.files(), [*ours, "config.toml"])
        containerd = Containerd(self.world, larder, certs=f"{self.directories['containerd']}/certs.d")
        self.assertEqual(containerd.cri_pull(NAME), pushed["config amd64"], "no DNS has this name: only Larder can pull it")
        self.assertRegex(self.init_container(), "^set up: ", "the next pod of a rolling update")
        self.assertRegex(self.init_container("--undo"), "^set back: ")
        self.assertEqual(self.files(), ["config.toml"])

    def test_a_node_whose_containerd_cannot_be_set_up_says_so_and_keeps_what_it_has(self):
        self.write("config/larder.toml", '[server]\nlisten = ["127.0.0.1:505"]\n')
        self.assertRegex(self.init_container(), "^not set up: there is no /etc/containerd/config.toml")
        self.write("containerd/config.toml", "version = 2\n")
        self.assertRegex(self.init_container(), "^not set up: .* has no config_path")
        self.assertEqual(self.files(), ["config.toml"])

    def test_a_store_of_the_unit_is_used_once_it_belongs_to_root(self):
        with open(f"{ROOT}/config/kubernetes/larder.toml", encoding="utf-8") as file:
            self.write("config/larder.toml", f'{file.read()}\n[store]\nmin_free = "0%"\n')
        first = self.start_daemon()
        self.world.wait_for(lambda: self.answers(first, "http://127.0.0.1:506/readyz"), "pod")
        first.terminate()
        self.assertEqual(first.wait(timeout=45), 0, self.world.log("pod"))
        # As the unit leaves it: of the number of a user that exists only while the unit runs.
        run("chown", "-R", "61184:61184", self.directories["state"])
        run("chmod", "700", self.directories["state"])
        refused = self.start_daemon()
        self.assertNotEqual(refused.wait(timeout=45), 0)
        self.assertIn("Permission denied", self.world.log("pod"), "which docs/kubernetes.md explains")
        run("chown", "-R", "root:root", self.directories["state"])
        again = self.start_daemon()
        self.world.wait_for(lambda: self.answers(again, "http://127.0.0.1:506/readyz"), "pod")
        again.terminate()
        self.assertEqual(again.wait(timeout=45), 0, self.world.log("pod"))

    def start_daemon(self):
        """Its container, in a network of its own."""
        pod = pod_of_the_daemonset()
        container, = pod["containers"]
        return self.world.start("pod", "unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
                                *podman(self.directory), "--name=larder", "--replace",
                                *podman_arguments(pod, container, self.directories), "--rootfs",
                                root_of_the_image(self.directory), "/usr/bin/larder", *container["args"])

    def answers(self, podman_run, url):
        command = ["nsenter", "-t", str(podman_run.pid), "-n", "curl", "-sf", url]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def init_container(self, *more):
        """Runs it as the manifest says; returns the message that kubectl shows."""
        pod = pod_of_the_daemonset()
        container, = pod["initContainers"]
        self.write("termination-log", "")
        run(*podman(self.directory), *podman_arguments(pod, container, self.directories),
            f"--volume={self.directory}/termination-log:/dev/termination-log", "--rootfs",
            root_of_the_image(self.directory), "/usr/bin/larder", *container["args"], *more)
        with open(f"{self.directory}/termination-log", encoding="utf-8") as file:
            return file.read()

    def files(self):
        """What the node's /etc/containerd has in it."""
        top = self.directories["containerd"]
        return sorted(os.path.relpath(os.path.join(path, name), top) for path, _, names in os.walk(top) for name in names)

    def daemon(self, podman_pid):
        """The daemon's own process, beneath podman and its monitor."""
        listed = subprocess.run(["pgrep", "-f", "^/usr/bin/larder serve"], capture_output=True, text=True, check=True)
        network = os.readlink(f"/proc/{podman_pid}/ns/net")
        return next(pid for pid in listed.stdout.split() if os.readlink(f"/proc/{pid}/ns/net") == network)
