"""A daemon that is replaced without a socket that waits, as the pod of a DaemonSet is: what is under way ends well, and
for how long the port is closed.

Prints what it measures; run it by itself on a machine that is at rest:

    /usr/bin/python3 -B tests/e2e/run.py Replacement
"""

import http.client
import json
import socket
import threading
import time
import unittest

import image
from programs import Larder, Registry, World, run
from scripted import Forwarding

REPOSITORY = "team/app"
LAYER_SECONDS = 3
REPEATS = 5


class SlowLayers(Forwarding):
    """Sends every body of at least so many bytes over some seconds."""

    def __init__(self, registry, bytes_min):
        self.bytes_min = bytes_min
        super().__init__(registry)

    def answer(self, request):
        status, headers, body = self.ask(request)
        if request.command == "HEAD" or len(body) < self.bytes_min:
            return self.send(request, status, headers, body)
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        step = len(body) // (LAYER_SECONDS * 20) + 1
        for at in range(0, len(body), step):
            request.wfile.write(body[at:at + step])
            time.sleep(1 / 20)
        return None


class Probe:
    """Connects again and again, and remembers from when until when the port was closed."""

    def __init__(self, port):
        self.port, self.stop, self.closed = port, threading.Event(), []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stop.is_set():
            with socket.socket() as probe:
                is_closed = probe.connect_ex(("127.0.0.1", self.port)) != 0
            if is_closed:
                self.closed.append(time.monotonic())
            time.sleep(0.001)

    def end(self):
        self.stop.set()
        self.thread.join(timeout=10)
        return self.closed[-1] - self.closed[0] if self.closed else 0.0


class Replacement(unittest.TestCase):
    """One node, one daemon, one after it."""

    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.end)
        self.registry = Registry(self.world)
        self.pushed = image.push(self.world, self.registry, REPOSITORY, "v1", pad=8_000_000)

    def get(self, larder, path, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", larder.port, timeout=timeout)
        connection.request("GET", f"/v2/{REPOSITORY}/{path}?ns=reg.test", headers={"Authorization": "Basic Og=="})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def layer(self, larder):
        """Path and size of a layer."""
        manifest = json.loads(self.get(larder, f"manifests/{self.pushed['manifest amd64']}")[1])
        return f"blobs/{manifest['layers'][0]['digest']}", manifest["layers"][0]["size"]

    def test_what_is_under_way_ends_well_and_others_are_served_until_then(self):
        slow = SlowLayers(self.registry, 1024 * 1024)
        self.addCleanup(slow.end)
        larder = Larder(self.world, {"reg.test": slow.url})
        index = f"manifests/{self.pushed['index']}"
        self.assertEqual(self.get(larder, index)[0], 200)
        answers, (layer, size) = [], self.layer(larder)
        reader = threading.Thread(target=lambda: answers.append(self.get(larder, layer)))
        reader.start()
        time.sleep(0.5)
        probe = Probe(larder.port)
        larder.process.terminate()
        begun = time.monotonic()
        time.sleep(0.5)
        self.assertTrue(reader.is_alive(), "the layer is under way")
        self.assertEqual(self.get(larder, index)[0], 200, "others are served meanwhile")
        self.assertEqual(larder.process.wait(timeout=40), 0)
        drained = time.monotonic() - begun
        reader.join(timeout=10)
        self.assertEqual((answers[0][0], len(answers[0][1])), (200, size))
        larder.start()
        print(f"\nbusy: drained {drained:.2f} s, of which and of the start the port was closed for {probe.end():.3f} s")

    def test_an_idle_one_is_replaced(self):
        larder = Larder(self.world, {"reg.test": self.registry.url})
        self.assertEqual(self.get(larder, self.layer(larder)[0])[0], 200)
        times = []
        for _ in range(REPEATS):
            probe = Probe(larder.port)
            begun = time.monotonic()
            larder.stop()
            stopped = time.monotonic() - begun
            larder.start()
            times.append((stopped, time.monotonic() - begun, probe.end()))
            self.assertEqual(self.get(larder, f"manifests/{self.pushed['index']}")[0], 200)
        for stopped, ready, closed in times:
            print(f"\nidle: stopped after {stopped:.3f} s, the next one ready after {ready:.3f} s; "
                  f"the port was closed for {closed:.3f} s", end="")
        print()
