"""Bad networks upstream, and how a real runtime pulls then."""

import os
import socket
import subprocess
import threading
import time
import unittest

import image
from programs import PROGRAM, Containerd, Larder, Registry, World, run
from scripted import DamagingMirror, ObjectStore, Redirecting

REPOSITORY = "team/app"
NAME = f"reg.test/{REPOSITORY}:v1"
# Seconds after which a runtime has pulled from the registry itself, at the latest, if Larder's upstream hangs.
PULL_WITHIN = 45
# Bytes of a blob that is a layer and no config.
LAYER_MIN = 100_000


class Silent:
    """A server that accepts connections and sends nothing."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.held = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                self.held.append(self.server.accept())
            except OSError:
                return

    def end(self):
        self.server.close()
        for connection, _ in self.held:
            connection.close()


class BadNetwork(unittest.TestCase):
    """An upstream that hangs, and names that do not resolve."""

    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.end)

    def test_the_runtime_asks_the_registry_itself_in_time_when_upstream_hangs(self):
        registry = Registry(self.world)
        pushed = image.push(self.world, registry, REPOSITORY, "v1")
        silent = Silent()
        self.addCleanup(silent.end)
        larder = Larder(self.world, {"reg.test": silent.url})
        containerd = Containerd(self.world, larder, {"reg.test": registry.url})
        begun = time.monotonic()
        self.assertEqual(containerd.cri_pull(NAME), pushed["config amd64"])
        took = time.monotonic() - begun
        self.assertLess(took, PULL_WITHIN)
        self.assertTrue(silent.held, "larder did ask")
        self.assertTrue(registry.requests(), "and the runtime asked the registry itself")
        metrics = run("curl", "-sf", f"http://{larder.admin}/metrics")
        self.assertRegex(metrics, r'larder_upstream_endpoint_up\{endpoint="127.0.0.1:\d+",registry="reg.test"\} 0')
        # The next pull does not wait a second time.
        fresh = Containerd(self.world, larder, {"reg.test": registry.url})
        self.assertEqual(fresh.cri_pull(NAME), pushed["config amd64"])

    def test_an_image_that_a_mirror_damages_is_pulled_all_the_same(self):
        registry = Registry(self.world)
        for pull, bytes_min, pad in (("containerd", LAYER_MIN, 20_000_000), ("skopeo", 0, 3_000_000)):
            mirror = DamagingMirror(registry, bytes_min)
            self.addCleanup(mirror.end)
            endpoints = f'["{mirror.url}", {{ url = "{registry.url}", authoritative = true }}]'
            more = f'[[registry]]\nhost = "reg.test"\nendpoints = {endpoints}\n'
            pushed = image.push(self.world, registry, f"team/{pull}", "v1", pad=pad)
            larder = Larder(self.world, {}, more)
            self.pull(pull, larder, f"team/{pull}", pushed)
            self.assertGreater(mirror.damaged, 0, "the mirror was asked first")
            metrics = run("curl", "-sf", f"http://{larder.admin}/metrics")
            wrong = (f'larder_upstream_wrong_content_total{{endpoint="{mirror.address}",reason="digest",'
                     'registry="reg.test"}')
            self.assertIn(wrong, metrics)

    def test_a_registry_whose_object_store_refuses_head_serves_images_that_share_layers(self):
        registry = Registry(self.world)
        pushed = image.push(self.world, registry, "team/one", "v1")
        run("skopeo", "copy", "--quiet", "--all", "--src-tls-verify=false", "--dest-tls-verify=false",
            f"docker://{registry.address}/team/one:v1", f"docker://{registry.address}/team/two:v1")
        for head, refused in (((403, "243"), None), ((404, "0"), 404), ((200, "7"), 501), ((200, None), 403)):
            with self.subTest(head=head, refused=refused):
                store = ObjectStore(registry, head)
                front = Redirecting(registry, store, refused)
                for server in (store, front):
                    self.addCleanup(server.end)
                trusted = f'[upstream]\ntrusted_redirects = ["{store.address}"]\n'
                larder = Larder(self.world, {"reg.test": front.url}, trusted)
                self.pull("skopeo", larder, "team/one", pushed)
                # What the second image shares with the first is asked for by HEAD.
                self.pull("containerd", larder, "team/two", pushed)
                self.assertGreater(store.heads, 0)
                code = run("curl", "-s", "-o", "/dev/null", "-I", "-w", "%{http_code}",
                           f"http://{larder.address}/v2/team/two/blobs/{pushed['config arm64']}?ns=reg.test")
                self.assertEqual(code, "200", "a HEAD of the client's own")

    def pull(self, program, larder, repository, pushed):
        """Pulls an image from nowhere but Larder."""
        name = f"reg.test/{repository}:v1"
        if program == "containerd":
            self.assertEqual(Containerd(self.world, larder).cri_pull(name), pushed["config amd64"])
            return
        target = self.world.directory("skopeo")
        run("skopeo", "copy", "--quiet", "--all", "--src-tls-verify=false", f"docker://{larder.address}/{name}",
            f"oci:{target}:v1")

    def test_dns_that_does_not_answer_costs_seconds(self):
        name = f"larder-e2e-{os.getpid()}"
        run("ip", "netns", "add", name)
        self.addCleanup(run, "ip", "netns", "del", name)
        directory = f"/etc/netns/{name}"
        os.makedirs(directory)
        self.addCleanup(subprocess.run, ["rm", "-r", directory], check=False)
        with open(f"{directory}/resolv.conf", "w", encoding="utf-8") as file:
            file.write("nameserver 127.0.0.1\noptions timeout:30\n")
        inside = ("ip", "netns", "exec", name)
        run(*inside, "ip", "link", "set", "lo", "up")
        deaf = "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 53)); time.sleep(600)"
        self.world.start("dns", *inside, "/usr/bin/python3", "-c", deaf)
        state = self.world.directory("larder")
        config = f"{state}/larder.toml"
        with open(config, "w", encoding="utf-8") as file:
            file.write(f'[server]\nlisten = ["127.0.0.1:5050"]\nstate = "{state}"\n'
                       f'[admin]\nlisten = "127.0.0.1:5051"\nsocket = "{state}/larder.sock"\n'
                       '[store]\nmin_free = "0%"\n')
        self.world.start("inside", *inside, PROGRAM, "serve", "--config", config)
        curl = (*inside, "curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1")
        run(*curl, "-f", "http://127.0.0.1:5051/readyz")
        said = run(*inside, "curl", "-s", "--max-time", "10", "-w", "%{http_code}",
                   "http://127.0.0.1:5050/v2/reg.example.com/team/app/tags/list",
                   "-H", "Authorization: Bearer x")
        self.assertIn("401", said, "a token that is none")
        token = run(*inside, "curl", "-s", "http://127.0.0.1:5050/token?ns=reg.example.com&scope=repository:team/app:pull")
        token = token.split('"token":"')[1].split('"')[0]
        said = run(*inside, "curl", "-s", "--max-time", "20", "-w", "%{http_code}",
                   "http://127.0.0.1:5050/v2/reg.example.com/team/app/tags/list",
                   "-H", f"Authorization: Bearer {token}")
        self.assertTrue(said.endswith("503"), said)
        self.assertIn("no answer from DNS", said)
