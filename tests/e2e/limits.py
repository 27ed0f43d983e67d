"""The daemon within the memory that the DaemonSet gives its container."""

import concurrent.futures
import hashlib
import http.client
import os
import time
import unittest

from manifests import kustomized, of_kind
from programs import Larder, Registry, World, run

# Larger than what the daemon is given here, so that what is cached of it cannot be held as a whole.
BLOB_MIB = int(os.environ.get("E2E_LIMITS_MIB", "600"))
CLIENTS = int(os.environ.get("E2E_LIMITS_CLIENTS", "16"))
V1 = "/sys/fs/cgroup/memory"
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def memory_limit():
    """The limit of the daemon's container, in bytes."""
    container, = of_kind(kustomized(), "DaemonSet")["spec"]["template"]["spec"]["containers"]
    text = container["resources"]["limits"]["memory"]
    return int(text[:-2]) * UNITS[text[-2:]]


class Cgroup:
    """A cgroup with a limit of memory, of either version."""

    def __init__(self, limit):
        probe = "/sys/fs/cgroup/cgroup.controllers"
        if os.path.exists(f"{V1}/memory.limit_in_bytes"):
            self.path, limit_file, self.version = f"{V1}/larder-e2e-{os.getpid()}", "memory.limit_in_bytes", 1
        elif os.path.exists(probe):
            with open("/sys/fs/cgroup/cgroup.subtree_control", encoding="utf-8") as file:
                if "memory" not in file.read():
                    raise unittest.SkipTest("the memory controller is not enabled for cgroups here")
            self.path, limit_file, self.version = f"/sys/fs/cgroup/larder-e2e-{os.getpid()}", "memory.max", 2
        else:
            raise unittest.SkipTest("there is no memory controller here")
        try:
            os.mkdir(self.path)
        except OSError as error:
            raise unittest.SkipTest(f"no cgroup can be made here: {error}") from None
        self.write(limit_file, limit)

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w", encoding="utf-8") as file:
            file.write(str(value))

    def read(self, name):
        with open(f"{self.path}/{name}", encoding="utf-8") as file:
            return file.read()

    def stat(self, name):
        rows = dict(line.split() for line in self.read("memory.stat").splitlines())
        return int(rows[name])

    def anonymous(self):
        return self.stat("rss" if self.version == 1 else "anon")

    def kills(self):
        rows = self.read("memory.oom_control" if self.version == 1 else "memory.events")
        return int(dict(line.split() for line in rows.splitlines()).get("oom_kill", 0))

    def end(self):
        until = time.monotonic() + 30
        while True:
            try:
                return os.rmdir(self.path)
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)


class Limits(unittest.TestCase):
    """What the daemon needs, printed; docs/kubernetes.md has the numbers."""

    def test_cold_pulls_of_a_blob_larger_than_the_limit_are_all_served_within_it(self):
        world = World()
        registry = Registry(world)
        path, digest = self.push(world, registry)
        larder = Larder(world, {"reg.test": registry.url})
        # Half of what the manifest gives it, which holds the bounds of all that it may have at once.
        limit = memory_limit() // 2
        cgroup = Cgroup(limit)
        self.addCleanup(cgroup.end)
        self.addCleanup(world.end)
        larder.stop()
        larder.start()
        # What it maps before it is moved counts elsewhere: it is moved before it has served anything.
        cgroup.write("cgroup.procs", larder.process.pid)
        idle, peak = self.resident(larder), 0
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            done = [pool.submit(self.pull, larder, path) for _ in range(CLIENTS)]
            while not all(future.done() for future in done):
                peak = max(peak, cgroup.anonymous(), self.resident(larder))
                time.sleep(0.05)
            self.assertEqual({future.result() for future in done}, {digest})
        self.assertIsNone(larder.process.poll(), world.log(larder.name))
        self.assertEqual(cgroup.kills(), 0)
        self.assertLess(peak, limit / 2, "the rest is for the page cache and for sockets")
        with open(f"/proc/{larder.process.pid}/stat", encoding="utf-8") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        print(f"\nidle {idle >> 20} MiB, peak {peak >> 20} MiB of {limit >> 20} MiB; {cpu:.1f} s CPU for {BLOB_MIB} MiB fetched "
              f"and {BLOB_MIB * CLIENTS} MiB served")

    def resident(self, larder):
        """Memory of the daemon that the kernel cannot take back."""
        with open(f"/proc/{larder.process.pid}/status", encoding="utf-8") as file:
            rows = dict(line.split(":", 1) for line in file)
        return int(rows["RssAnon"].split()[0]) << 10

    def push(self, world, registry):
        directory = world.directory("blob")
        content = hashlib.sha256()
        with open(f"{directory}/blob", "wb") as file:
            for _ in range(BLOB_MIB):
                chunk = os.urandom(1 << 20)
                content.update(chunk)
                file.write(chunk)
        digest = "sha256:" + content.hexdigest()
        begun = run("curl", "-sf", "-X", "POST", "-D", "-", f"{registry.url}/v2/team/big/blobs/uploads/")
        location = next(line.split(": ", 1)[1].strip() for line in begun.splitlines() if line.lower().startswith("location"))
        run("curl", "-sf", "-X", "PUT", "-H", "Content-Type: application/octet-stream", "--upload-file",
            f"{directory}/blob", f"{location}&digest={digest}")
        os.remove(f"{directory}/blob")
        return f"/v2/team/big/blobs/{digest}?ns=reg.test", digest

    def pull(self, larder, path):
        connection = http.client.HTTPConnection("127.0.0.1", larder.port, timeout=300)
        connection.request("GET", path)
        answer = connection.getresponse()
        content = hashlib.sha256()
        while chunk := answer.read(1 << 20):
            content.update(chunk)
        connection.close()
        return f"sha256:{content.hexdigest()}"
