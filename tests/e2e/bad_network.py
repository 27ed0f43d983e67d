"""Bad networks upstream, and how a real runtime pulls then."""

import os
import socket
import subprocess
import threading
import time
import unittest

import image
from programs import PROGRAM, Containerd, Larder, Registry, World, run

REPOSITORY = "team/app"
NAME = f"reg.test/{REPOSITORY}:v1"
# Seconds after which a runtime has pulled from the registry itself, at the latest, if Larder's upstream hangs.
PULL_WITHIN = 35


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
        said = run(*inside, "curl", "-s", "--max-time", "10", "-w", "%{http_code}",
                   "http://127.0.0.1:5050/v2/reg.example.com/team/app/tags/list",
                   "-H", f"Authorization: Bearer {token}")
        self.assertTrue(said.endswith("503"), said)
        self.assertIn("no answer from DNS", said)
