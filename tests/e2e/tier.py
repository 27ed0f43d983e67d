"""The shared tier on a real object store: SeaweedFS, and several Larders, each a node of its own with its own network.

Every machine is a network namespace on one bridge. The link of the registry has the rate LINK and, where the kernel has
netem, a delay; the links between nodes and object store have no limit. What the registry sent is read from its own access
log. The sizes are small in `make test`; `make test-long` has those of docs/past-one-node.md: ten nodes, 1 GiB.
"""

import concurrent.futures
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import unittest

from programs import PROGRAM, ROOT, World, run

WEED = os.path.join(ROOT, "target/tools/seaweedfs/bin/weed")
PULLER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "puller.py")
# Of a whole image, in MiB; and of its layers.
IMAGE_MIB = int(os.environ.get("E2E_TIER_MIB", "64"))
LAYERS = 8
NODES = int(os.environ.get("E2E_TIER_NODES", "3"))
# Bits a second, and the delay of a round trip, of the registry's link.
LINK = os.environ.get("E2E_TIER_LINK", "160mbit")
DELAY = "50ms"
# The rule for the whole size: on a busy machine with small images the time says nothing.
IS_FULL = IMAGE_MIB >= 1024
NET = "10.213.77"
WRITER = {"AWS_ACCESS_KEY_ID": "writer", "AWS_SECRET_ACCESS_KEY": "writer-secret"}
READER = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reader-secret"}
IDENTITIES = {"identities": [
    {"name": name, "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}], "actions": actions}
    for name, actions in (("writer", ["Admin", "Read", "Write", "List", "Tagging"]), ("reader", ["Read", "List"]))]}


class Network:
    """A bridge in a namespace, and machines on it."""

    def __init__(self):
        self.prefix, self.machines = f"larder-{os.getpid()}", []
        self.hub = self.namespace("hub")
        run(*self.hub, "ip", "link", "add", "br0", "type", "bridge")
        run(*self.hub, "ip", "link", "set", "br0", "up")

    def namespace(self, name):
        run("ip", "netns", "add", f"{self.prefix}-{name}")
        self.machines.append(name)
        inside = ("ip", "netns", "exec", f"{self.prefix}-{name}")
        run(*inside, "ip", "link", "set", "lo", "up")
        return inside

    def machine(self, name):
        """A machine on the bridge: the words before a command that runs there, and its address."""
        inside, number = self.namespace(name), len(self.machines)
        address = f"{NET}.{number}"
        run(*self.hub, "ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns",
            f"{self.prefix}-{name}")
        run(*self.hub, "ip", "link", "set", f"v{number}", "master", "br0", "up")
        run(*inside, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        run(*inside, "ip", "link", "set", "eth0", "up")
        return inside, address

    def end(self):
        for name in self.machines:
            subprocess.run(["ip", "netns", "del", f"{self.prefix}-{name}"], check=False)


def limit(inside, rate):
    """Limits what a machine sends, and nothing else."""
    run(*inside, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "256kb", "latency", "400ms")


def unlimit(inside):
    run(*inside, "tc", "qdisc", "del", "dev", "eth0", "root")


def shape(inside):
    """Limits what a machine sends, and delays it where the kernel can."""
    tc = (*inside, "tc", "qdisc", "add", "dev", "eth0")
    netem = (*tc, "root", "handle", "1:", "netem", "delay", DELAY, "limit", "20000")
    has_delay = subprocess.run(netem, capture_output=True, check=False).returncode == 0
    place = ("parent", "1:1") if has_delay else ("root",)
    run(*tc, *place, "tbf", "rate", LINK, "burst", "256kb", "latency", "400ms")


class Registry:
    """docker-registry on a machine of its own, behind a shaped link."""

    def __init__(self, world, network):
        self.inside, self.ip = network.machine("registry")
        self.world, self.url = world, f"http://{self.ip}:5000"
        directory = world.directory("registry")
        self.name, config = os.path.basename(directory), f"{directory}/config.yml"
        with open(config, "w", encoding="utf-8") as file:
            file.write("version: 0.1\nlog: {accesslog: {disabled: false}, level: warn}\n"
                       f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\nhttp: {{addr: '{self.ip}:5000'}}\n")
        self.command = (*self.inside, "docker-registry", "serve", config)
        self.start()

    def start(self):
        self.process = self.world.start(self.name, *self.command)
        ready = (*self.inside, "curl", "-sf", f"{self.url}/v2/")
        self.world.wait_for(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, self.name)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=15)

    def push(self, repository, mib, layers=LAYERS):
        """An image of random layers; returns its bytes."""
        described = [self.blob(repository, os.urandom((mib << 20) // layers)) for _ in range(layers)]
        config = self.blob(repository, json.dumps({"os": "linux", "architecture": "amd64", "made": repository}).encode())
        manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                               "config": config, "layers": described}).encode()
        self.put(f"{self.url}/v2/{repository}/manifests/v1", manifest, "application/vnd.oci.image.manifest.v1+json")
        return sum(one["size"] for one in (config, *described))

    def blob(self, repository, content):
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        begun = run(*self.inside, "curl", "-sf", "-X", "POST", "-D", "-", f"{self.url}/v2/{repository}/blobs/uploads/")
        location = next(line.split(": ", 1)[1].strip() for line in begun.splitlines() if line.lower().startswith("location"))
        self.put(f"{location}&digest={digest}", content, "application/octet-stream")
        return {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": len(content)}

    def put(self, url, content, media_type):
        path = os.path.join(self.world.directory("push"), "content")
        with open(path, "wb") as file:
            file.write(content)
        run(*self.inside, "curl", "-sf", "-X", "PUT", "-H", f"Content-Type: {media_type}", "--upload-file", path, url)
        os.remove(path)

    def sent(self, repository):
        """Bytes of blobs that were sent, and the number of requests for them, by the access log."""
        line = re.compile(rf'"GET /v2/{repository}/blobs/\S+ [^"]*" 20[06] (\d+)')
        found = [int(count) for count in line.findall(self.world.log(self.name))]
        return sum(found), len(found)


class ObjectStore:
    """SeaweedFS with its S3, all in one process, on a machine of its own."""

    def __init__(self, world, network):
        self.inside, self.ip = network.machine("store")
        self.world, self.url = world, f"http://{self.ip}:8333"
        self.directory = world.directory("store")
        self.name = os.path.basename(self.directory)
        with open(f"{self.directory}/s3.json", "w", encoding="utf-8") as file:
            json.dump(IDENTITIES, file)
        self.start()

    def start(self):
        # Its sockets are files in /tmp whose names are ports: other ports, other names.
        port = 20_000 + os.getpid() % 5_000 * 4
        flags = [f"-{name}.port={port + at}" for at, name in enumerate(("master", "volume", "filer"))]
        self.process = self.world.start(
            self.name, *self.inside, WEED, "server", f"-dir={self.directory}", f"-ip={self.ip}", f"-ip.bind={self.ip}",
            "-s3", "-s3.port=8333", f"-s3.config={self.directory}/s3.json", "-s3.port.iceberg=0", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024", "-volume.max=16", "-volume.preStopSeconds=0", *flags)
        # Without a credential it says 403 once it is there.
        ready = (*self.inside, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", self.url)
        self.world.wait_for(lambda: subprocess.run(ready, capture_output=True, check=False, text=True).stdout == "403", self.name)
        # The bucket is a directory of the filer.
        made = (*self.inside, "curl", "-sf", "-X", "POST", f"http://{self.ip}:{port + 2}/buckets/larder/")
        self.world.wait_for(lambda: subprocess.run(made, capture_output=True, check=False).returncode == 0, self.name)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Node:
    """A machine with a Larder that has stored nothing."""

    def __init__(self, world, network, registry, store=None, account=None, more=""):
        name = f"node{len(network.machines)}"
        self.inside, self.world = network.machine(name)[0], world
        directory = world.directory(name)
        self.name, self.config = os.path.basename(directory), f"{directory}/larder.toml"
        tier = f'[tier]\nurl = "s3://larder/test"\nendpoint = "{store.url}"\nregion = "us-east-1"\npath_style = true\n{more}' if store else ""
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(f'[server]\nstate = "{directory}"\n[admin]\nsocket = "{directory}/larder.sock"\n'
                       f'[store]\nmin_free = "0%"\n[[registry]]\nhost = "reg.test"\nendpoints = ["{registry.url}"]\n{tier}')
        secrets = [f"{key}={value}" for key, value in (account or {}).items()]
        self.process = world.start(self.name, *self.inside, "env", *secrets, PROGRAM, "serve", "--config", self.config)
        ready = (*self.inside, "curl", "-sf", "http://127.0.0.1:5051/readyz")
        world.wait_for(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, self.name)

    def pull(self, repository):
        """What the puller says."""
        said = run(*self.inside, sys.executable, PULLER, "127.0.0.1:5050", "reg.test", repository, "v1")
        return json.loads(said)

    def metric(self, name):
        """The sum of a metric over its labels."""
        page = run(*self.inside, "curl", "-sf", "http://127.0.0.1:5051/metrics")
        found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", page, re.MULTILINE)
        return sum(float(value) for value in found)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=40)


def pull_all(nodes, repository):
    with concurrent.futures.ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(lambda node: node.pull(repository), nodes))


@unittest.skipUnless(os.path.exists(WEED), "SeaweedFS could not be installed: tests/tools.sh says why")
class Tier(unittest.TestCase):
    """Nodes that share an object store."""

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.addClassCleanup(cls.world.end)
        cls.network = Network()
        cls.addClassCleanup(cls.network.end)
        cls.registry = Registry(cls.world, cls.network)
        cls.store = ObjectStore(cls.world, cls.network)
        # What was pushed before counts at full speed.
        cls.sizes = {name: cls.registry.push(name, mib) for name, mib in
                     (("team/app", IMAGE_MIB), ("team/stopped", 32), ("team/reader", 16), ("team/outage", 8))}
        shape(cls.registry.inside)

    def node(self, account=WRITER, more="", tier=True):
        node = Node(self.world, self.network, self.registry, self.store if tier else None, account, more)
        self.addCleanup(node.stop)
        return node

    def is_whole(self, pulled, repository):
        self.assertEqual(pulled["wrong"], [])
        self.assertEqual(pulled["bytes"], self.sizes[repository])

    def test_1_empty_nodes_that_pull_at_once_cost_the_registry_one_image(self):
        alone = self.node(tier=False).pull("team/app")
        self.is_whole(alone, "team/app")
        before = self.registry.sent("team/app")[0]
        nodes = [self.node() for _ in range(NODES)]
        pulled = pull_all(nodes, "team/app")
        for one in pulled:
            self.is_whole(one, "team/app")
        times = (self.registry.sent("team/app")[0] - before) / self.sizes["team/app"]
        last = max(one["seconds"] for one in pulled)
        print(f"\n{NODES} nodes, {IMAGE_MIB} MiB at {LINK}: {times:.3f} times the image from the registry; one alone "
              f"{alone['seconds']:.1f} s, the last of all {last:.1f} s, {last / alone['seconds']:.2f} times that")
        self.assertLessEqual(times, 1.05)
        if IS_FULL:
            self.assertLessEqual(last, 1.5 * alone["seconds"])
        # A node that comes later needs nothing of the registry but its word.
        before = self.registry.sent("team/app")[1]
        self.is_whole(self.node().pull("team/app"), "team/app")
        self.assertEqual(self.registry.sent("team/app")[1], before)

    def test_2_a_node_that_may_only_read_the_bucket_pulls_as_others_do(self):
        reader = self.node(READER)
        self.is_whole(reader.pull("team/reader"), "team/reader")
        self.assertGreater(self.registry.sent("team/reader")[0], 0, "no node had written it")
        self.is_whole(self.node(READER).pull("team/app"), "team/app")
        self.is_whole(self.node().pull("team/reader"), "team/reader")
        before = self.registry.sent("team/reader")[1]
        until = time.monotonic() + 20
        # The writer uploads after its client is done.
        while time.monotonic() < until:
            self.is_whole(self.node(READER).pull("team/reader"), "team/reader")
            after = self.registry.sent("team/reader")[1]
            if after == before:
                break
            before = after
        else:
            self.fail("what the writer has pulled did not come into the bucket")

    def test_3_an_image_of_a_registry_that_is_away_is_pulled_by_a_new_node(self):
        key = os.path.join(self.world.directory("key"), "cluster.key")
        with open(key, "wb") as file:
            file.write(os.urandom(32))
        os.chmod(key, 0o600)
        shares = f'share_names = true\ncluster_key = "{key}"\n'
        first = self.node(more=shares)
        self.is_whole(first.pull("team/outage"), "team/outage")
        self.registry.stop()
        self.addCleanup(self.registry.start)
        until = time.monotonic() + 20
        # What is shared is written after the answer.
        while (pulled := self.node(more=shares).pull("team/outage"))["wrong"] and time.monotonic() < until:
            time.sleep(0.5)
        self.is_whole(pulled, "team/outage")
        self.assertTrue(pulled["warning"], "and it says that this is what was so")
        stranger = self.node().pull("team/outage")
        self.assertTrue(stranger["wrong"], "without the key nothing is known of the name")

    def test_4_an_object_store_that_stops_in_the_middle_costs_no_pull(self):
        first = self.node()
        self.is_whole(first.pull("team/stopped"), "team/stopped")
        size = self.sizes["team/stopped"]
        self.world.wait_for(lambda: first.metric('larder_tier_writes_total{result="written"}') >= LAYERS + 2, first.name)
        nodes = [self.node() for _ in range(2)]
        before = self.registry.sent("team/stopped")[0]
        # 10 MB/s for both, so that it stops in the middle of the layers.
        limit(self.store.inside, "80mbit")
        self.addCleanup(unlimit, self.store.inside)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            pulls = [pool.submit(node.pull, "team/stopped") for node in nodes]
            self.world.wait_for(
                lambda: all(1 << 20 < node.metric("larder_tier_read_bytes_total") < size for node in nodes), nodes[0].name)
            # It neither answers nor closes its connections: the worse of both ways.
            os.killpg(self.store.process.pid, signal.SIGSTOP)
            try:
                for pulled in pulls:
                    self.is_whole(pulled.result(), "team/stopped")
            finally:
                os.killpg(self.store.process.pid, signal.SIGCONT)
        for node in nodes:
            self.assertGreater(node.metric('larder_tier_reads_total{result="broken_off"}'), 0, "it was in the middle of a layer")
            self.assertLess(node.metric("larder_tier_read_bytes_total"), size)
        sent = self.registry.sent("team/stopped")[0] - before
        self.assertGreater(sent, 0, "the registry sent the rest")
        self.assertLess(sent, 2 * size, "and no more than the rest")
        self.store.kill()
        before = self.registry.sent("team/stopped")[0]
        late = self.node()
        self.is_whole(late.pull("team/stopped"), "team/stopped")
        self.assertGreater(late.metric("larder_tier_errors_total"), 0, "it asked for what is gone")
        self.assertGreaterEqual(self.registry.sent("team/stopped")[0] - before, size, "and the registry sent all of it")
