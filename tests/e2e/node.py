"""The commands for operators, and the programs that they configure."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import unittest

import image
from programs import PROGRAM, ROOT, Containerd, Docker, Larder, Registry, World, free_port, run

REPOSITORY = "team/app"
NAME = f"reg.test/{REPOSITORY}:v1"


def attempt(*command):
    """A command that may fail; returns its exit code and its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


class Commands(unittest.TestCase):
    """Pull, list, serve without upstream, remove. The tests run in order."""

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.registry = Registry(cls.world)
        cls.pushed = image.push(cls.world, cls.registry, REPOSITORY, "v1")
        cls.larder = Larder(cls.world, {"reg.test": cls.registry.url})

    @classmethod
    def tearDownClass(cls):
        cls.world.end()

    def test_1_pull_shows_what_it_does_and_its_exit_code_is_right(self):
        said = self.larder.command("pull", "--pin", NAME)
        self.assertRegex(said, r"reg.test/team/app:v1 is sha256:[0-9a-f]{64} linux/amd64")
        self.assertRegex(said, r"is in the store: .* of it fetched, pinned")
        self.assertRegex(said.splitlines()[-1], r"^1 image\(s\) in the store: .* fetched")
        code, said = attempt(PROGRAM, "--config", self.larder.config, "pull", NAME, "reg.test/team/none:v1")
        self.assertEqual(code, 1, said)
        self.assertIn("reg.test/team/none:v1 failed:", said)
        self.assertEqual(attempt(PROGRAM, "--config", self.larder.config, "pull")[0], 2)
        code, said = attempt(PROGRAM, "--config", self.larder.config, "pull", "NOT/an//image")
        self.assertEqual(code, 2, said)
        events = [json.loads(line) for line in self.larder.command("pull", "--json", NAME).splitlines()]
        self.assertEqual(events[-1]["event"], "summary")
        self.assertEqual(events[-1]["fetched_bytes"], 0)

    def test_2_lists_of_images_and_kubernetes_manifests(self):
        directory = self.world.directory("lists")
        with open(f"{directory}/list", "w", encoding="utf-8") as file:
            file.write(f"# ours\n{NAME}  # again\n\n")
        with open(f"{directory}/pod.yaml", "w", encoding="utf-8") as file:
            file.write(f"kind: Pod\nspec: {{initContainers: [{{image: \"{NAME}\"}}]}}\n")
        said = self.larder.command("pull", "--file", f"{directory}/list", "--manifests", f"{directory}/pod.yaml",
                                   "--platform", "linux/arm64")
        self.assertIn("linux/arm64", said)

    def test_3_ls_and_status(self):
        rows = json.loads(self.larder.command("ls", "--json"))
        self.assertEqual([row["image"] for row in rows], [NAME])
        self.assertEqual(rows[0]["platforms"], ["linux/amd64", "linux/arm64"])
        self.assertTrue(rows[0]["pinned"])
        self.assertIn(NAME, self.larder.command("ls"))
        status = self.larder.command("status")
        self.assertRegex(status, r"pinned +1 image\(s\)")
        self.assertIn("nothing to report", status)
        self.assertEqual(json.loads(self.larder.command("status", "--json"))["store"]["pins"], 1)

    def test_4_the_page_shows_numbers_and_no_names(self):
        page = run("curl", "-sfi", f"http://{self.larder.admin}/")
        self.assertIn("content-security-policy", page.lower())
        self.assertIn("images pinned", page)
        self.assertNotIn("team/app", page)
        self.assertNotIn("reg.test", page)

    def test_5_the_runtime_pulls_it_without_upstream(self):
        self.registry.stop()
        containerd = Containerd(self.world, self.larder)
        self.assertEqual(containerd.cri_pull(NAME), self.pushed["config amd64"])
        status = self.larder.command("status")
        self.assertRegex(status, r"reg.test +cannot be asked since .*; what was pulled before is served as it was")
        self.assertRegex(status, r"its endpoint 127.0.0.1:\d+ has been failing for .*: .*cannot be reached")

    def test_6_doctor_finds_what_is_wrong(self):
        root = self.world.directory("machine")
        os.makedirs(f"{root}/etc/containerd")
        doctor = (PROGRAM, "--config", self.larder.config, "doctor", "--root", root)
        code, said = attempt(*doctor)
        self.assertEqual(code, 1, said)
        self.assertIn("it has no config_path", said)
        run(PROGRAM, "--config", self.larder.config, "setup", "containerd", "--root", root)
        code, said = attempt(*doctor)
        self.assertEqual(code, 1, said)
        self.assertIn("_default leads here", said)
        self.assertRegex(said, r"ok +cache +127.0.0.1:\d+ answers")
        self.assertRegex(said, r"PROBLEM +cache +reg.test: 127.0.0.1:\d+ cannot be reached")
        self.assertEqual(said.count("reg.test: "), 1, "a registry is named once: " + said)

    def test_6b_doctor_accepts_a_runtime_that_pulls_through_it(self):
        registry = Registry(self.world)
        image.push(self.world, registry, REPOSITORY, "v1")
        larder = Larder(self.world, {"reg.test": registry.url})
        root = self.world.directory("machine")
        os.makedirs(f"{root}/etc/containerd")
        run(PROGRAM, "--config", larder.config, "setup", "containerd", "--root", root)
        containerd = Containerd(self.world, larder, certs=f"{root}/etc/containerd/certs.d")
        # With --canary, containerd itself reads hosts.toml in the directory that its configuration names.
        config = f"{root}/etc/containerd/config.toml"
        with open(config, encoding="utf-8") as file:
            text = file.read().replace("/etc/containerd/certs.d", f"{root}/etc/containerd/certs.d")
        with open(config, "w", encoding="utf-8") as file:
            file.write(text)
        code, said = attempt(PROGRAM, "--config", larder.config, "doctor", "--root", root, "--canary", NAME,
                             "--containerd", containerd.socket)
        # Without crictl no more is claimed than what ctr shows.
        self.assertRegex(said, r"canary +reg.test/team/app: ctr's request \d+ came through this cache by \S+/certs.d;")
        self.assertRegex(said, r"ok +canary +reg.test/team/app:v1 was pulled")
        self.assertRegex(said, r"ok +cache +reg.test answers")

    def test_6c_doctor_asks_the_containerd_of_this_machine(self):
        if not os.path.isdir("/etc/containerd"):
            self.skipTest("this machine's containerd has no /etc/containerd to put another in front of")
        root = self.world.directory("etc-containerd")
        registry = '[plugins."io.containerd.grpc.v1.cri".registry]\n'
        other = f"sed -i '/^imports/d; 1i imports = [\"/etc/containerd/other.toml\"]' /etc/containerd/config.toml"
        with open(f"{root}/other.toml", "w", encoding="utf-8") as file:
            file.write(f'version = 2\n{registry}config_path = "/elsewhere"\n')
        for config, expected in (("containerd config default > /etc/containerd/config.toml", "it has no config_path"),
                                 (f"{PROGRAM} --config {self.larder.config} setup containerd", "_default leads here"),
                                 (other, "config_path is /elsewhere, though config.toml says /etc/containerd/certs.d")):
            # Another directory in place of the machine's /etc/containerd.
            _, said = attempt("unshare", "-m", "sh", "-c", f"mount --bind {root} /etc/containerd && {config} >&2 && "
                              f"{PROGRAM} --config {self.larder.config} doctor")
            self.assertRegex(said, f"containerd +.*{expected}")
            self.assertNotIn("hides _default", said)

    def test_6d_doctor_takes_no_cache_for_another_program(self):
        registry = Registry(self.world)
        larder = Larder(self.world, {"reg.test": registry.url})
        with open(larder.config, encoding="utf-8") as file:
            text = file.read()
        root = self.world.directory("machine")
        os.makedirs(f"{root}/etc/containerd")
        for listen, more, expected in (
                (f"0.0.0.0:{larder.port}", "", r"ok +cache +127.0.0.1:\d+ answers"),
                (f"[::]:{larder.port}", "", r"ok +cache +127.0.0.1:\d+ answers"),
                (larder.address, "allow_uids = [1]\n", r"note +cache +\S+ was not asked: \[server\] allow_uids does not name"),
                (larder.address, "connections_max = 1\n", r"WARNING +cache +\S+ answers 503: too many connections")):
            with open(larder.config, "w", encoding="utf-8") as file:
                file.write(text.replace(larder.address, listen, 1).replace("[server]\n", f"[server]\n{more}"))
            larder.restart()
            run(PROGRAM, "--config", larder.config, "setup", "containerd", "--root", root)
            with contextlib.ExitStack() as open_connections:
                if "connections_max" in more:
                    open_connections.enter_context(socket.create_connection(("127.0.0.1", larder.port)))
                    time.sleep(0.5)
                _, said = attempt(PROGRAM, "--config", larder.config, "doctor", "--root", root)
            self.assertRegex(said, expected)
            self.assertNotIn("another program", said)
            self.assertNotIn("another address", said)
            self.assertRegex(said, r"ok +containerd +/etc/containerd/certs.d/_default leads here")

    def test_7_unpin_rm_and_gc(self):
        self.assertIn("may be evicted", self.larder.command("unpin", NAME))
        self.assertEqual(attempt(PROGRAM, "--config", self.larder.config, "unpin", NAME)[0], 1)
        self.assertRegex(self.larder.command("rm", NAME), r"removed: \d+ blobs")
        self.assertEqual(self.larder.command("ls"), "no image is in the store")
        self.assertEqual(attempt(PROGRAM, "--config", self.larder.config, "rm", NAME)[0], 1)
        self.assertEqual(self.larder.command("gc"), "0 B freed")

    def test_8_without_a_daemon_each_command_says_so(self):
        self.larder.stop()
        for command in (["status"], ["ls"], ["pull", NAME], ["rm", NAME], ["gc"]):
            code, said = attempt(PROGRAM, "--config", self.larder.config, *command)
            self.assertEqual(code, 1, command)
            self.assertRegex(said, r"no daemon listens on .*larder.sock: is it running", command)


class Offline(unittest.TestCase):
    """An image that is imported where no registry can be reached."""

    def test_an_archive_is_imported_and_pulled_by_callers_that_may_read_it(self):
        world = World()
        self.addCleanup(world.end)
        registry = Registry(world)
        pushed = image.push(world, registry, REPOSITORY, "v1")
        directory = world.directory("archives")
        for kind in ("oci", "oci-archive"):
            run("skopeo", "copy", "--quiet", "--all", "--src-tls-verify=false",
                f"docker://{registry.address}/{REPOSITORY}:v1", f"{kind}:{directory}/{kind}:{NAME}")
        registry.stop()
        secret = f"{directory}/config.json"
        with open(secret, "w", encoding="utf-8") as file:
            file.write('{"auths":{"reg.test":{"username":"ann","password":"ann-password"}}}')
        larder = Larder(world, {"reg.test": registry.url})
        code, said = attempt(PROGRAM, "--config", larder.config, "import", f"{directory}/oci")
        self.assertEqual(code, 2, said)
        self.assertIn("say who may read it", said)
        self.assertIn(f"{NAME} is in the store", larder.command("import", f"{directory}/oci-archive", "--pull-secret", secret))
        containerd = Containerd(world, larder)
        with self.assertRaises(Exception):
            containerd.cri_pull(NAME)
        self.assertEqual(containerd.cri_pull(NAME, ("ann", "ann-password")), pushed["config amd64"])
        other = Larder(world, {"reg.test": registry.url})
        said = other.command("import", f"{directory}/oci", "--public", "--as", "reg.test/renamed:v2")
        self.assertIn("reg.test/renamed:v2 is in the store", said)
        self.assertEqual(Containerd(world, other).cri_pull("reg.test/renamed:v2"), pushed["config amd64"])
        # A blob with a byte that does not match its digest is refused.
        blob = max((os.path.join(f"{directory}/oci/blobs/sha256", n) for n in os.listdir(f"{directory}/oci/blobs/sha256")),
                   key=os.path.getsize)
        with open(blob, "r+b") as file:
            file.seek(100)
            file.write(b"\xff\x00")
        code, said = attempt(PROGRAM, "--config", other.config, "import", f"{directory}/oci", "--public", "--as",
                             "reg.test/broken:v1")
        self.assertEqual(code, 1, said)
        self.assertIn("digest", said)


class Setup(unittest.TestCase):
    """What `larder setup` writes, read by the runtimes themselves."""

    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.end)
        self.registry = Registry(self.world)
        self.pushed = image.push(self.world, self.registry, REPOSITORY, "v1")
        self.larder = Larder(self.world, {"reg.test": self.registry.url})

    def setup(self, root, *words):
        return self.larder.command("setup", *words, "--root", root)

    def test_containerd_as_it_was_set_up_pulls_through_it(self):
        for strict in ([], ["--strict"]):
            root = self.world.directory("machine")
            os.makedirs(f"{root}/etc/containerd")
            # A configuration that was written by hand, and one that kubeadm's guides describe.
            before = (run("containerd", "config", "default") + "\n" if strict else
                      'version = 2\n# mine\n[plugins."io.containerd.grpc.v1.cri"]\n  stream_server_port = "0"\n')
            with open(f"{root}/etc/containerd/config.toml", "w", encoding="utf-8") as file:
                file.write(before)
            shown = self.setup(root, "containerd", "--dry-run", *strict)
            self.assertIn("+    config_path" if "+    config_path" in shown else "config_path", shown)
            with open(f"{root}/etc/containerd/config.toml", encoding="utf-8") as file:
                self.assertEqual(file.read(), before, "a dry run changes nothing")
            self.assertIn("systemctl restart containerd", self.setup(root, "containerd", *strict))
            self.assertIn("nothing to change", self.setup(root, "containerd", *strict))
            # containerd's own dump of the configuration that is in effect.
            dumped = run("containerd", "--config", f"{root}/etc/containerd/config.toml", "config", "dump")
            self.assertIn('config_path = "/etc/containerd/certs.d"', dumped)
            containerd = Containerd(self.world, self.larder, certs=f"{root}/etc/containerd/certs.d")
            self.assertEqual(containerd.cri_pull(NAME), self.pushed["config amd64"])
            if strict:
                with open(f"{root}/etc/containerd/certs.d/_default/hosts.toml", encoding="utf-8") as file:
                    self.assertIn("X-Larder-Mode", file.read())
            self.setup(root, "containerd", "--undo")
            with open(f"{root}/etc/containerd/config.toml", encoding="utf-8") as file:
                self.assertEqual(file.read(), before)
            self.assertFalse(os.path.exists(f"{root}/etc/containerd/certs.d/_default"))

    def test_a_gate_is_written_for_the_runtime_alone(self):
        directory, root = self.world.directory("gate"), self.world.directory("machine")
        with open(f"{directory}/gate", "w", encoding="utf-8") as file:
            file.write("a-secret-of-this-node\n")
        os.chmod(f"{directory}/gate", 0o600)
        gated = Larder(self.world, {"reg.test": self.registry.url})
        with open(gated.config, encoding="utf-8") as file:
            text = file.read().replace("[server]\n", f'[server]\ngate_header = "X-Node-Key"\ngate_file = "{directory}/gate"\n')
        with open(gated.config, "w", encoding="utf-8") as file:
            file.write(text)
        gated.restart()
        shown = gated.command("setup", "containerd", "--root", root, "--dry-run")
        self.assertIn("(not shown)", shown)
        self.assertNotIn("a-secret-of-this-node", shown)
        gated.command("setup", "containerd", "--root", root)
        hosts = f"{root}/etc/containerd/certs.d/_default/hosts.toml"
        self.assertEqual(os.stat(hosts).st_mode & 0o777, 0o600)
        os.chmod(hosts, 0o644)
        self.assertIn("changed", gated.command("setup", "containerd", "--root", root))
        self.assertEqual(os.stat(hosts).st_mode & 0o777, 0o600)
        _, said = attempt(PROGRAM, "--config", gated.config, "doctor", "--root", root)
        self.assertRegex(said, r"ok +cache +127.0.0.1:\d+ answers")
        self.assertRegex(said, r"ok +cache +reg.test answers")
        containerd = Containerd(self.world, gated, certs=f"{root}/etc/containerd/certs.d")
        self.assertEqual(containerd.cri_pull(NAME), self.pushed["config amd64"])

    def test_podman_as_it_was_set_up_pulls_through_it(self):
        root = self.world.directory("machine")
        self.setup(root, "podman")
        conf = f"{root}/etc/containers/registries.conf.d/010-larder.conf"
        store = self.world.directory("podman")
        pull = ["podman", "--root", f"{store}/root", "--runroot", f"{store}/run", "--storage-driver", "vfs", "pull",
                "--quiet", NAME]
        environment = {**os.environ, "CONTAINERS_REGISTRIES_CONF": conf}
        done = subprocess.run(pull, env=environment, capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(all("larder/" in line for line in self.registry.requests()), "and only larder asked upstream")
        self.assertIn("removed:", self.setup(root, "crio", "--undo"))
        self.assertFalse(os.path.exists(conf))

    def test_podman_as_it_was_set_up_verifies_what_it_verifies_without_it(self):
        """Certificates of a registry with --strict, and signatures that policy.json demands."""
        root, name = self.world.directory("machine"), self.registry.address
        larder = Larder(self.world, {name: self.registry.url, "reg.test": self.registry.url})
        conf, policy = f"{root}/etc/containers/registries.conf.d/010-larder.conf", f"{root}/etc/containers/policy.json"
        store = self.world.directory("podman")

        def podman(*words):
            command = ["podman", "--root", f"{store}/root", "--runroot", f"{store}/run", "--storage-driver", "vfs", *words]
            done = subprocess.run(command, env={**os.environ, "CONTAINERS_REGISTRIES_CONF": conf}, capture_output=True,
                                  text=True, timeout=120, check=False)
            return done.returncode, done.stdout + done.stderr

        def asked_directly():
            lines = self.world.log(self.registry.name).splitlines()
            return [line for line in lines if " /v2/" in line and "larder/" not in line]

        # The registry speaks plain HTTP: a login that is verified does not reach it.
        larder.command("setup", "podman", "--strict", "--root", root)
        before = asked_directly()
        code, said = podman("login", "--authfile", f"{store}/auth.json", "-u", "ann", "-p", "ann-password", name)
        self.assertNotEqual(code, 0, said)
        self.assertIn("https://", said)
        code, said = podman("pull", "--quiet", f"{name}/{REPOSITORY}:v1")
        self.assertEqual(code, 0, said)
        code, said = podman("pull", "--quiet", f"{name}/{REPOSITORY}:none")
        self.assertNotEqual(code, 0, said)
        self.assertIn(f"{name} does not have it", said)
        self.assertEqual(asked_directly(), before, "podman asked the registry itself")
        # Of the repository below reg.test signatures are demanded; nobody answers by that name.
        with open(policy, "w", encoding="utf-8") as file:
            json.dump({"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {
                "reg.test/team": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": f"{root}/none"}]}}}, file)
        _, said = attempt(PROGRAM, "--config", larder.config, "doctor", "--root", root)
        self.assertIn("policy.json demands signatures of reg.test/team, which", said)
        code, said = attempt(PROGRAM, "--config", larder.config, "setup", "podman", "--strict", "--root", root)
        self.assertEqual(code, 1, said)
        self.assertIn("with --strict it could not be pulled", said)
        code, said = podman("pull", "--quiet", "--signature-policy", policy, NAME)
        self.assertIn("A signature was required, but no signature exists", said)
        self.assertIn("signatures of reg.test/team", larder.command("setup", "podman", "--root", root))
        code, said = podman("pull", "--quiet", "--signature-policy", policy, NAME)
        self.assertIn("pinging container registry reg.test", said)
        _, said = attempt(PROGRAM, "--config", larder.config, "doctor", "--root", root)
        self.assertNotIn("policy.json", said)

    def test_docker_as_it_was_set_up_pulls_through_it(self):
        root = self.world.directory("machine")
        code, said = attempt(PROGRAM, "--config", self.larder.config, "setup", "docker", "--root", root)
        self.assertEqual(code, 1, said)
        self.assertIn("default_registry", said)
        image.push(self.world, self.registry, "library/app", "v1")
        hub = Larder(self.world, {"docker.io": self.registry.url}, default="docker.io")
        hub.command("setup", "docker", "--root", root)
        with open(f"{root}/etc/docker/daemon.json", encoding="utf-8") as file:
            self.assertEqual(json.load(file), {"registry-mirrors": [f"http://{hub.address}"]})
        _, said = attempt(PROGRAM, "--config", hub.config, "doctor", "--root", root)
        self.assertRegex(said, r"ok +docker +Docker Hub leads here")
        docker = Docker(self.world, f"{root}/etc/docker")
        self.assertEqual(docker.pull(f"{REPOSITORY}:v1"), self.pushed["config amd64"])
        self.assertEqual(docker("run", "--rm", "--network=none", f"{REPOSITORY}:v1", "/bin/busybox", "echo", "hi"), "hi")
        docker.pull("app:v1")
        self.assertIn("/v2/library/app/", "\n".join(self.registry.requests()))
        # Once more without upstream, so that Docker can pull from Larder alone.
        self.registry.stop()
        docker("rmi", f"{REPOSITORY}:v1")
        self.assertEqual(docker.pull(f"{REPOSITORY}:v1"), self.pushed["config amd64"])
        # The hosts.toml is for Docker's containerd image store, which reads it as containerd does.
        containerd = Containerd(self.world, hub, certs=f"{root}/etc/docker/certs.d")
        self.assertEqual(containerd.cri_pull(f"docker.io/{REPOSITORY}:v1"), self.pushed["config amd64"])
        hub.command("setup", "docker", "--root", root, "--undo")
        self.assertFalse(os.path.exists(f"{root}/etc/docker/daemon.json"))


@unittest.skipUnless(shutil.which("chromium"), "no chromium here: make test-long installs it")
class Browser(unittest.TestCase):
    """The page, in a real browser. (Without JavaScript it is what curl gets, which is all of it: `Commands.test_4`.)"""

    def test_the_page_is_shown_and_keeps_itself_fresh(self):
        world = World()
        self.addCleanup(world.end)
        larder = Larder(world, {})
        browser = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={world.directory('browser')}")
        shown = run(*browser, "--dump-dom", f"http://{larder.admin}/")
        self.assertIn("<h1>Larder</h1>", shown)
        self.assertIn("images pinned", shown)
        drawn = f"{world.directory('shots')}/page.png"
        run(*browser, f"--screenshot={drawn}", f"http://{larder.admin}/")
        self.assertGreater(os.path.getsize(drawn), 10_000)
        # The page reloads every five seconds and shows what changed.
        fresh = run(*browser, "--virtual-time-budget=20000", "--dump-dom", f"http://{larder.admin}/")
        self.assertEqual(fresh.count("<h1>Larder</h1>"), 1)


class Prometheus(unittest.TestCase):
    """Debian's Prometheus scrapes the daemon, and its rules are well formed."""

    def test_it_scrapes_and_the_rules_are_about_metrics_that_exist(self):
        rules = os.path.join(ROOT, "config/alerts.yaml")
        self.assertIn("SUCCESS", run("promtool", "check", "rules", rules))
        run("promtool", "test", "rules", os.path.join(ROOT, "tests/e2e/alerts_test.yaml"))
        world = World()
        self.addCleanup(world.end)
        larder = Larder(world, {})
        directory, port = world.directory("prometheus"), free_port()
        config = f"{directory}/prometheus.yml"
        with open(config, "w", encoding="utf-8") as file:
            file.write(f"global: {{scrape_interval: 1s}}\nrule_files: [{rules}]\n"
                       f"scrape_configs: [{{job_name: larder, static_configs: [{{targets: ['{larder.admin}']}}]}}]\n")
        world.start("prometheus", "prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory}/data",
                    f"--web.listen-address=127.0.0.1:{port}")
        world.wait_for_port(port, "prometheus")
        until = time.monotonic() + 60
        while True:
            answer = run("curl", "-s", f"http://127.0.0.1:{port}/api/v1/query?query=up%7Bjob%3D%22larder%22%7D")
            if '"1"]' in answer:
                break
            self.assertLess(time.monotonic(), until, answer)
            time.sleep(0.5)
        answer = json.loads(run("curl", "-s", f"http://127.0.0.1:{port}/api/v1/query?query=larder_store_blobs"))
        self.assertEqual(len(answer["data"]["result"]), 1)
