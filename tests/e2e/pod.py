"""The DaemonSet's container, with exactly the rights that its manifest gives it. podman starts it with the same
configuration, because the tests have no cluster."""

import os
import re
import shutil
import subprocess
import unittest

import image
from programs import PROGRAM, ROOT, Registry, World, run

REPOSITORY = "team/app"
# What the manifest states, and the podman arguments for it.
RIGHTS = {
    "hostNetwork: true": ["--network=host"],
    "args: [serve, --config, /etc/larder/larder.toml]": [],
    "runAsUser: 0": ["--user=0"],
    "readOnlyRootFilesystem: true": ["--read-only", "--read-only-tmpfs=false"],
    "allowPrivilegeEscalation: false": ["--security-opt=no-new-privileges"],
    "drop: [ALL]": ["--cap-drop=all"],
    "add: [NET_BIND_SERVICE]": ["--cap-add=NET_BIND_SERVICE"],
    # podman's own default.
    "seccompProfile: {type: RuntimeDefault}": [],
    "{name: config, mountPath: /etc/larder, readOnly: true}": ["--volume={directory}/etc:/etc/larder:ro"],
    "{name: state, mountPath: /var/lib/larder}": ["--volume={directory}/state:/var/lib/larder"],
    "{name: run, mountPath: /run/larder}": ["--volume={directory}/run:/run/larder"],
}


class Pod(unittest.TestCase):
    """One container, in a network of its own, with a registry beside it."""

    def test_it_pulls_with_the_rights_that_the_daemonset_gives_it(self):
        world = World()
        self.addCleanup(world.end)
        registry = Registry(world)
        pushed = image.push(world, registry, REPOSITORY, "v1")
        registry.stop()
        directory = world.directory("pod")
        for name in ("etc", "state", "run"):
            os.makedirs(f"{directory}/{name}")
        with open(f"{ROOT}/config/kubernetes/larder.toml", encoding="utf-8") as file:
            config = file.read()
        with open(f"{directory}/etc/larder.toml", "w", encoding="utf-8") as file:
            file.write(f'{config}\n[[registry]]\nhost = "reg.test"\nendpoints = ["{registry.url}"]\n'
                       '[store]\nmin_free = "0%"\n')
        with open(f"{ROOT}/config/kubernetes/daemonset.yaml", encoding="utf-8") as file:
            manifest = file.read()
        rights = []
        for line, flags in RIGHTS.items():
            self.assertIn(line, manifest)
            rights += [flag.format(directory=directory) for flag in flags]
        podman = world.start("pod", "unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
                             "podman", "--root", f"{directory}/podman", "--runroot", f"{directory}/podman-run",
                             "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "run", "--rm",
                             "--ulimit=nofile=20000:20000", "--ulimit=nproc=4096:4096", "--name=larder", *rights,
                             "--rootfs", self.root(directory), "/usr/bin/larder", "serve", "--config",
                             "/etc/larder/larder.toml")
        inside = ("nsenter", "-t", str(podman.pid), "-n")
        curl = (*inside, "curl", "-sf")

        def answers(url):
            return subprocess.run([*curl, url], capture_output=True, check=False).returncode == 0
        # The network exists once the container answers.
        world.wait_for(lambda: answers("http://127.0.0.1:506/readyz"), "pod")
        world.start("registry-inside", *inside, "docker-registry", "serve", registry.config)
        world.wait_for(lambda: answers(f"{registry.url}/v2/"), "registry-inside")
        index = run(*curl, f"http://127.0.0.1:505/v2/{REPOSITORY}/manifests/v1?ns=reg.test")
        self.assertIn(pushed["manifest amd64"], index)
        world.wait_for(lambda: "larder_store_blobs 1" in run(*curl, "http://127.0.0.1:5052/metrics"), "pod")
        with open(f"/proc/{self.daemon(podman.pid)}/status", encoding="utf-8") as file:
            status = file.read()
        self.assertRegex(status, r"CapEff:\s0000000000000400\n", "to bind a port below 1024, and nothing else")
        self.assertRegex(status, r"NoNewPrivs:\s1\n")
        self.assertRegex(status, r"Seccomp:\s2\n")
        podman.terminate()
        self.assertEqual(podman.wait(timeout=45), 0, world.log("pod"))

    def root(self, directory):
        """A root of the daemon and the libraries that it needs; the image has a static one instead."""
        root = f"{directory}/root"
        for path in [PROGRAM, *re.findall(r"(/\S+) \(0x", run("ldd", PROGRAM))]:
            to = f"{root}/usr/bin/larder" if path == PROGRAM else root + path
            os.makedirs(os.path.dirname(to), exist_ok=True)
            shutil.copy(path, to)
        return root

    def daemon(self, podman):
        """The daemon's own process, beneath podman and its monitor."""
        listed = subprocess.run(["pgrep", "-f", "^/usr/bin/larder serve"], capture_output=True, text=True, check=True)
        network = os.readlink(f"/proc/{podman}/ns/net")
        return next(pid for pid in listed.stdout.split() if os.readlink(f"/proc/{pid}/ns/net") == network)
