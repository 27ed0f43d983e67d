"""What the event of a pod says when a pull fails: the text of the error that the CRI gives to kubelet, with Larder as a mirror,
with Larder alone, and without Larder. The table in docs/wiring.md, with Debian's containerd."""

import os
import unittest

import image
from access import ADMIN, A, B, accounts
from programs import Containerd, Larder, Registry, World, free_port
from tokens import TokenServer

STRICT = '[host."http://{0}".header]\n    X-Larder-Mode = "strict"\n'


class Events(unittest.TestCase):
    """A registry with a token server, and one that does not answer."""

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.tokens = TokenServer(cls.world, accounts(), ["public/app"])
        cls.registry = Registry(cls.world, cls.tokens.auth())
        cls.pushed = image.push(cls.world, cls.registry, "a/app", "v1", ADMIN)
        cls.away = f"127.0.0.1:{free_port()}"
        cls.larder = Larder(cls.world, {"away.test": f"http://{cls.away}", "reg.test": cls.registry.url},
                            f'trusted_realms = ["{cls.tokens.address}"]\n')
        upstreams = {"reg.test": cls.registry.url, "away.test": f"http://{cls.away}"}
        cls.mirror = Containerd(cls.world, cls.larder, upstreams)
        cls.without = Containerd(cls.world, cls.larder, certs=cls.hosts({h: f'server = "{u}"\n[host."{u}"]\n'
                                                                         for h, u in upstreams.items()}))
        strict = f'server = "http://{cls.larder.address}"\n[host."http://{cls.larder.address}"]\n' \
                 '  capabilities = ["pull", "resolve"]\n' + STRICT.format(cls.larder.address)
        cls.strict = Containerd(cls.world, cls.larder, certs=cls.hosts({"_default": strict}))

    @classmethod
    def hosts(cls, files):
        certs = cls.world.directory("certs")
        for host, text in files.items():
            os.makedirs(os.path.join(certs, host))
            with open(os.path.join(certs, host, "hosts.toml"), "w", encoding="utf-8") as file:
                file.write(text)
        return certs

    @classmethod
    def tearDownClass(cls):
        cls.world.end()

    def event(self, containerd, name, account=None):
        with self.assertRaises(Exception) as failed:
            containerd.cri_pull(name, account)
        return failed.exception.details()

    def test_a_refusal_reads_as_without_larder(self):
        for account in (None, B):
            without = self.event(self.without, "reg.test/a/app:v1", account)
            self.assertEqual(self.event(self.mirror, "reg.test/a/app:v1", account), without)
            self.assertIn("insufficient_scope", without)
            self.assertIn("refused access (401)", self.event(self.strict, "reg.test/a/app:v1", account))

    def test_a_wrong_password_is_a_refusal(self):
        wrong = (A[0], "wrong")
        self.assertIn("pull access denied", self.event(self.mirror, "reg.test/a/app:v1", wrong))
        self.assertIn("refused access (401)", self.event(self.strict, "reg.test/a/app:v1", wrong))

    def test_what_is_not_there_is_not_found(self):
        for containerd in (self.without, self.mirror, self.strict):
            self.assertIn("not found", self.event(containerd, "reg.test/a/app:none", A))

    def test_why_a_registry_cannot_be_reached_can_be_read(self):
        without = self.event(self.without, "away.test/app:v1")
        self.assertIn("connection refused", without)
        self.assertEqual(self.event(self.mirror, "away.test/app:v1"), without)
        strict = self.event(self.strict, "away.test/app:v1")
        self.assertTrue("connection refused" in strict.lower() and self.away in strict, strict)

    def test_who_may_read_it_gets_it(self):
        self.assertEqual(self.mirror.cri_pull("reg.test/a/app:v1", A), self.pushed["config amd64"])
