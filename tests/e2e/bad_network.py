"""Bad networks upstream, and how a real runtime pulls then."""

import http.server
import os
import socket
import subprocess
import threading
import time
import unittest
import urllib.error
import urllib.request

import image
from programs import PROGRAM, Containerd, Larder, Registry, World, run

REPOSITORY = "team/app"
NAME = f"reg.test/{REPOSITORY}:v1"
# Seconds after which a runtime has pulled from the registry itself, at the latest, if Larder's upstream hangs.
PULL_WITHIN = 35
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


class DamagingMirror:
    """A mirror of a registry that sends every layer with one wrong byte in the middle."""

    def __init__(self, registry):
        mirror = self
        self.damaged = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):  # noqa: N802 - the name that http.server calls
                headers = {name: self.headers[name] for name in ("Accept", "Range") if name in self.headers}
                asked = urllib.request.Request(registry.url + self.path, method=self.command, headers=headers)
                try:
                    answer = urllib.request.urlopen(asked, timeout=20)
                except urllib.error.HTTPError as error:
                    answer = error
                with answer:
                    body = bytearray(answer.read())
                if "/blobs/" in self.path and len(body) > LAYER_MIN:
                    body[len(body) // 2] ^= 1
                    mirror.damaged += 1
                self.send_response(answer.status)
                for name in ("Content-Type", "Docker-Content-Digest", "Content-Range"):
                    if answer.headers[name]:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", answer.headers["Content-Length"] or str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self):
        self.server.shutdown()
        self.server.server_close()


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

    def test_an_image_whose_layer_a_mirror_damages_is_pulled_all_the_same(self):
        registry = Registry(self.world)
        mirror = DamagingMirror(registry)
        self.addCleanup(mirror.end)
        endpoints = f'["http://{mirror.address}", {{ url = "{registry.url}", authoritative = true }}]'
        more = f'[[registry]]\nhost = "reg.test"\nendpoints = {endpoints}\n'
        for pull in ("containerd", "skopeo"):
            pushed = image.push(self.world, registry, f"team/{pull}", "v1")
            larder, before = Larder(self.world, {}, more), mirror.damaged
            name = f"reg.test/team/{pull}:v1"
            if pull == "containerd":
                # It has no registry to fall back to.
                self.assertEqual(Containerd(self.world, larder).cri_pull(name), pushed["config amd64"])
            else:
                target = self.world.directory("skopeo")
                run("skopeo", "copy", "--quiet", "--all", "--src-tls-verify=false",
                    f"docker://{larder.address}/{name}", f"oci:{target}:v1")
            self.assertGreater(mirror.damaged, before, "the mirror was asked first")
            metrics = run("curl", "-sf", f"http://{larder.admin}/metrics")
            wrong = (f'larder_upstream_wrong_content_total{{endpoint="{mirror.address}",reason="digest",'
                     'registry="reg.test"}')
            self.assertIn(wrong, metrics)

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
