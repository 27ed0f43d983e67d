"""Who may read what, with the real programs: containerd's CRI as kubelet calls it, docker-registry with a token server
or a password file, podman, a credential-provider plugin."""

import base64
import hashlib
import json
import os
import subprocess
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import image
from programs import Containerd, Docker, Larder, Registry, World, run
from tokens import TokenServer

# Secrets that can be searched for: none may be in a log, a file or a metric afterwards.
ADMIN, A, B = ("admin", "marker-secret-admin"), ("tenant-a", "marker-secret-a"), ("tenant-b", "marker-secret-b")
NODE, PLUGIN = ("node", "marker-secret-node"), ("plugin", "marker-secret-plugin")
REPOSITORIES = {"a/app": A, "b/app": B, "node/app": NODE, "plugin/app": PLUGIN, "public/app": None}


def accounts():
    found = {ADMIN[0]: (ADMIN[1], "*")}
    for repository, account in REPOSITORIES.items():
        if account:
            found[account[0]] = (account[1], [repository])
    return found


def docker_config(path, key, account):
    auth = base64.b64encode(":".join(account).encode()).decode()
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"auths": {key: {"auth": auth}}}, file)


def plugin(directory, match, account):
    """A credential-provider plugin as kubelet runs it; returns the lines of configuration."""
    program, config = os.path.join(directory, "plugin"), os.path.join(directory, "provider.yaml")
    answer = {"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
              "cacheKeyType": "Image", "cacheDuration": "1h0m0s",
              "auth": {match: {"username": account[0], "password": account[1]}}}
    with open(program, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\ncat > {directory}/asked\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    os.chmod(program, 0o755)
    with open(config, "w", encoding="utf-8") as file:
        file.write("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n"
                   f"- name: plugin\n  matchImages: ['{match}']\n  defaultCacheDuration: 1h\n"
                   "  apiVersion: credentialprovider.kubelet.k8s.io/v1\n")
    return f'provider_config = "{config}"\nprovider_bin_dir = "{directory}"\n'


class Access(unittest.TestCase):
    """What the tests of access share."""

    def can_pull(self, name, account, config, containerd=None):
        puller = containerd or Containerd(self.world, self.larder)
        self.assertEqual(puller.cri_pull(name, account), config, f"{account} pulls {name}")
        return puller

    def cannot_pull(self, name, account):
        with self.assertRaises(Exception, msg=f"{account} must not pull {name}") as failed:
            Containerd(self.world, self.larder).cri_pull(name, account)
        self.assertNotIn("marker-secret", str(failed.exception))


class Tenants(Access):
    """A node with two tenants, the node's own credential, a plugin, and unknown users. The tests run in order."""

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.tokens = TokenServer(cls.world, accounts(), ["public/app"])
        cls.registry = Registry(cls.world, cls.tokens.auth())
        cls.pushed = {r: image.push(cls.world, cls.registry, r, "v1", ADMIN) for r in REPOSITORIES}
        directory = cls.world.directory("node")
        docker_config(os.path.join(directory, "config.json"), "reg.test/node", NODE)
        cls.plugin = cls.world.directory("plugin")
        providers = plugin(cls.plugin, "reg.test/plugin", PLUGIN)
        cls.evil, evil = cls.evil_registry(cls.pushed["a/app"])
        cls.larder = Larder(cls.world, {"evil.test": evil, "reg.test": cls.registry.url},
                            f'trusted_realms = ["{cls.tokens.address}"]\n'
                            f'[credentials]\nnode = ["{directory}/config.json"]\n{providers}[log]\nlevel = "trace"\n')

    @classmethod
    def tearDownClass(cls):
        cls.evil.shutdown()
        cls.world.end()

    @classmethod
    def evil_registry(cls, victim):
        """A registry of the attacker's own, whose index lists another tenant's digests."""
        manifest = {"mediaType": image.MANIFEST, "digest": victim["manifest amd64"], "size": 500,
                    "platform": {"os": "linux", "architecture": "amd64"}}
        index = json.dumps({"schemaVersion": 2, "mediaType": image.INDEX, "manifests": [manifest]}).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                digest = "sha256:" + hashlib.sha256(index).hexdigest()
                found = self.path.endswith(("/manifests/v1", digest))
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", image.INDEX)
                self.send_header("Docker-Content-Digest", digest)
                self.send_header("Content-Length", str(len(index) if found else 0))
                self.end_headers()
                if found and self.command == "GET":
                    self.wfile.write(index)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server, f"http://127.0.0.1:{server.server_address[1]}"

    def name(self, repository):
        return f"reg.test/{repository}:v1"

    def config(self, repository):
        return self.pushed[repository]["config amd64"]

    def test_01_a_pod_pulls_with_its_own_credential_and_upstream_sees_no_other(self):
        self.tokens.seen.clear()
        self.can_pull(self.name("a/app"), A, self.config("a/app"))
        self.assertTrue(any(user == A[0] for user, _ in self.tokens.seen))
        others = {user for user, _ in self.tokens.seen} - {A[0], None}
        self.assertEqual(others, set(), "one tenant's pull sends no other credential")

    def test_02_what_is_cached_is_not_served_to_another_tenant_nor_to_an_unknown_user(self):
        self.tokens.seen.clear()
        for account in (B, None, (A[0], "wrong"), (B[0], A[1])):
            self.cannot_pull(self.name("a/app"), account)
            self.cannot_pull(f"reg.test/a/app@{self.pushed['a/app']['index']}", account)
            self.cannot_pull(f"reg.test/a/app@{self.pushed['a/app']['manifest arm64']}", account)
        self.assertNotIn((A[0], "repository:a/app:pull"), self.tokens.seen, "no request used the owner's credential")

    def test_03_each_tenant_reads_its_own_and_a_pod_without_secrets_what_is_public(self):
        self.can_pull(self.name("b/app"), B, self.config("b/app"))
        self.cannot_pull(self.name("b/app"), A)
        self.can_pull(self.name("public/app"), None, self.config("public/app"))
        self.can_pull(self.name("public/app"), B, self.config("public/app"))

    def test_04_an_index_that_lists_another_tenants_digests_gives_no_access(self):
        for account in (B, None):
            self.cannot_pull("evil.test/b/app:v1", account)

    def test_05_the_nodes_credential_opens_its_repositories_to_every_pod(self):
        for account in (None, B):
            self.can_pull(self.name("node/app"), account, self.config("node/app"))

    def test_06_a_plugin_written_for_kubelet_runs_unchanged(self):
        self.can_pull(self.name("plugin/app"), None, self.config("plugin/app"))
        with open(os.path.join(self.plugin, "asked"), encoding="utf-8") as file:
            self.assertEqual(json.load(file), {"kind": "CredentialProviderRequest", "image": "reg.test/plugin/app",
                                               "apiVersion": "credentialprovider.kubelet.k8s.io/v1"})

    def test_07_podman_shows_the_credential_that_it_has_for_larder(self):
        root = self.world.directory("podman")
        podman = ("podman", "--root", f"{root}/root", "--runroot", f"{root}/run", "--storage-driver", "vfs")
        name, auth = f"{self.larder.address}/{self.name('a/app')}", f"{root}/auth.json"
        refused = subprocess.run([*podman, "pull", "--quiet", "--tls-verify=false", name], capture_output=True,
                                 text=True, check=False)
        self.assertNotEqual(refused.returncode, 0)
        run(*podman, "login", "--authfile", auth, "--tls-verify=false", "-u", A[0], "-p", A[1], self.larder.address)
        run(*podman, "pull", "--quiet", "--authfile", auth, "--tls-verify=false", name)
        shown = run(*podman, "image", "inspect", name, "--format", "{{.Id}}")
        self.assertEqual("sha256:" + shown, self.config("a/app"))

    def test_08_the_command_shows_what_matches_and_no_secret(self):
        shown = json.loads(self.larder.command("credentials", "reg.test/node/app:v1", "--json"))
        self.assertEqual([(m["source"], m["key"], m["username"]) for m in shown], [("node", "reg.test/node", NODE[0])])
        shown = self.larder.command("credentials", "reg.test/plugin/app", "--json")
        self.assertEqual(json.loads(shown)[0]["source"], "provider")
        self.assertNotIn("marker-secret", shown + self.larder.command("credentials", "reg.test/plugin/app"))
        self.assertIn("anonymously", self.larder.command("credentials", "reg.test/a/app"))

    def test_09_in_an_outage_after_a_restart_each_tenant_reads_its_own(self):
        self.tokens.stop()
        self.registry.stop()
        self.larder.restart()
        self.can_pull(self.name("a/app"), A, self.config("a/app"))
        self.can_pull(self.name("public/app"), None, self.config("public/app"))
        self.can_pull(self.name("node/app"), None, self.config("node/app"))
        for account in (B, None, (A[0], "wrong")):
            self.cannot_pull(self.name("a/app"), account)

    def test_10_a_right_that_was_revoked_by_hand_ends_in_an_outage_too(self):
        self.assertIn("1 right(s) to reg.test/a/app ended", self.larder.command("revoke", "reg.test/a/app"))
        self.cannot_pull(self.name("a/app"), A)
        self.can_pull(self.name("b/app"), B, self.config("b/app"))
        self.larder.stop()
        ended = json.loads(self.larder.command("revoke", "--all", "--json"))
        self.assertGreaterEqual(ended["revoked"], 3, "without a daemon the store is asked")
        self.larder.start()
        self.cannot_pull(self.name("b/app"), B)

    def test_11_no_secret_is_anywhere(self):
        with open(f"/proc/{self.larder.process.pid}/cmdline", encoding="utf-8") as file:
            self.assertNotIn("marker-secret", file.read())
        metrics = run("curl", "-sf", f"http://{self.larder.admin}/metrics")
        status = run("curl", "-sf", f"http://{self.larder.admin}/v1/status")
        log = self.world.log(self.larder.name)
        self.assertIn("sent a request upstream", log, "the log is a talkative one")
        for text in (metrics, status, log):
            for marker in ("marker-secret", "bWFya2VyLXNlY3JldC", "Bearer ey"):
                self.assertNotIn(marker, text)
        found = subprocess.run(["grep", "-rlE", "marker-secret|bWFya2VyLXNlY3Jl|bWFya2Vy", os.path.dirname(self.larder.store)],
                               capture_output=True, text=True, check=False)
        self.assertEqual(found.stdout, "", "on disk")


class DockerLogins(Access):
    """Docker sends its user's login to a mirror that challenges on `/v2/`, as Larder does."""

    def test_private_images_of_docker_hub_are_served_to_users_who_are_logged_in(self):
        world = World()
        self.addCleanup(world.end)
        tokens = TokenServer(world, accounts(), ["public/app"])
        registry = Registry(world, tokens.auth())
        pushed = {r: image.push(world, registry, r, "v1", ADMIN) for r in ("a/app", "public/app")}
        larder = Larder(world, {"docker.io": registry.url}, f'trusted_realms = ["{tokens.address}"]\n',
                        default="docker.io")
        etc = world.directory("etc")
        with open(f"{etc}/daemon.json", "w", encoding="utf-8") as file:
            json.dump({"registry-mirrors": [f"http://{larder.address}"]}, file)
        docker, logins = Docker(world, etc), {}
        for account in (A, B):
            logins[account] = world.directory("login")
            docker_config(f"{logins[account]}/config.json", "https://index.docker.io/v1/", account)
        self.assertEqual(docker.pull("public/app:v1"), pushed["public/app"]["config amd64"])
        self.assertEqual(docker.pull("a/app:v1", logins[A]), pushed["a/app"]["config amd64"])
        docker("rmi", "a/app:v1")
        # The image is cached, and still served to that user alone.
        for login in (logins[B], None):
            with self.assertRaises(AssertionError):
                docker.pull("a/app:v1", login)
        registry.stop()
        self.assertEqual(docker.pull("a/app:v1", logins[A]), pushed["a/app"]["config amd64"])
        self.assertNotIn("marker-secret", world.log(larder.name))


class PathLogins(unittest.TestCase):
    """podman with a login for Larder's own address, and a registry that must not see it."""

    def test_a_login_for_larder_reaches_the_named_registry_and_no_stranger(self):
        world = World()
        self.addCleanup(world.end)
        tokens = TokenServer(world, accounts(), ["public/app"])
        registry, shown = Registry(world, tokens.auth()), []
        pushed = image.push(world, registry, "a/app", "v1", ADMIN)

        class Stranger(BaseHTTPRequestHandler):
            """A registry, and a token server, that asks for a credential and notes what it gets."""

            def do_GET(self):
                shown.append(self.headers.get("Authorization") or "")
                if self.path.startswith("/token"):
                    body = b'{"token": "anonymous"}'
                    self.send_response(200)
                else:
                    body = b'{"errors": [{"code": "UNAUTHORIZED"}]}'
                    self.send_response(401)
                    realm = f'Bearer realm="http://{self.headers["Host"]}/token",service="s"'
                    self.send_header("WWW-Authenticate", realm)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        stranger = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        self.addCleanup(stranger.shutdown)
        # Without a section a registry is reached over TLS and by a public name alone; this key makes it as strange.
        sections = (f'trusted_realms = ["{tokens.address}"]\n[[registry]]\nhost = "evil.test"\n'
                    f'endpoints = ["http://127.0.0.1:{stranger.server_port}"]\npath_logins = false\n')
        larder = Larder(world, {"reg.test": registry.url}, sections)
        root = world.directory("podman")
        podman = ("podman", "--root", f"{root}/root", "--runroot", f"{root}/run", "--storage-driver", "vfs")
        for login in (larder.address, f"{larder.address}/reg.test"):
            auth = f"{root}/auth-{len(login)}.json"
            run(*podman, "login", "--authfile", auth, "--tls-verify=false", "-u", A[0], "-p", A[1], login)
            own, other = f"{larder.address}/reg.test/a/app:v1", f"{larder.address}/evil.test/a/app:v1"
            run(*podman, "pull", "--quiet", "--authfile", auth, "--tls-verify=false", own)
            self.assertIn(pushed["config amd64"].split(":")[1],
                          run(*podman, "image", "inspect", own, "--format", "{{.Id}}"))
            run(*podman, "rmi", "--force", own)
            refused = subprocess.run([*podman, "pull", "--quiet", "--authfile", auth, "--tls-verify=false", other],
                                     capture_output=True, text=True, check=False)
            self.assertNotEqual(refused.returncode, 0)
        self.assertTrue(shown, "the stranger was asked")
        self.assertEqual({value for value in shown if value}, {"Bearer anonymous"}, "no login reached the stranger")


class KubernetesUseCases(Access):
    """The four use cases of the Kubernetes documentation, "Images", each as an operator would set it up."""

    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.end)

    def private_registry(self, account):
        directory = self.world.directory("htpasswd")
        with open(f"{directory}/htpasswd", "w", encoding="utf-8") as file:
            file.write(run("htpasswd", "-Bbn", *account) + "\n")
        registry = Registry(self.world, f"auth: {{htpasswd: {{realm: r, path: {directory}/htpasswd}}}}\n")
        return registry, image.push(self.world, registry, "team/app", "v1", account)["config amd64"]

    def test_1_only_open_source_images(self):
        """Cluster running only non-proprietary images: no configuration."""
        registry = Registry(self.world)
        config = image.push(self.world, registry, "team/app", "v1")["config amd64"]
        self.larder = Larder(self.world, {"reg.test": registry.url})
        self.can_pull("reg.test/team/app:v1", None, config)

    def test_2_proprietary_images_visible_to_all_cluster_users(self):
        """The node's docker config opens the private registry to every pod."""
        registry, config = self.private_registry(NODE)
        directory = self.world.directory("kubelet")
        docker_config(f"{directory}/config.json", "reg.test", NODE)
        self.larder = Larder(self.world, {"reg.test": registry.url},
                             f'[credentials]\nkubelet_root = "{directory}"\nkubelet_cwd = "{directory}"\n')
        self.can_pull("reg.test/team/app:v1", None, config)
        self.can_pull("reg.test/team/app:v1", None, config)

    def test_3_a_few_images_with_stricter_access(self):
        """AlwaysPullImages: every pull re-checks the pod's own credential, so that a revoked one ends at once."""
        tokens = TokenServer(self.world, accounts(), [])
        registry = Registry(self.world, tokens.auth())
        config = image.push(self.world, registry, "a/app", "v1", ADMIN)["config amd64"]
        self.larder = Larder(self.world, {"reg.test": registry.url},
                             f'grant_ttl = "0s"\ntrusted_realms = ["{tokens.address}"]\n')
        puller = self.can_pull("reg.test/a/app:v1", A, config)
        self.cannot_pull("reg.test/a/app:v1", None)
        self.can_pull("reg.test/a/app:v1", A, config, puller)
        del tokens.accounts[A[0]]
        with self.assertRaises(Exception):
            puller.cri_pull("reg.test/a/app:v1", A)
        tokens.stop()

    def test_4_a_multi_tenant_cluster_where_each_tenant_has_its_own_private_registry(self):
        """Each pod has its own pull secret; what one tenant pulled is not served to the other."""
        (one, config_a), (two, config_b) = self.private_registry(A), self.private_registry(B)
        self.larder = Larder(self.world, {"a.test": one.url, "b.test": two.url})
        self.can_pull("a.test/team/app:v1", A, config_a)
        self.can_pull("b.test/team/app:v1", B, config_b)
        for name, account in (("a.test", B), ("b.test", A), ("a.test", None), ("b.test", None)):
            self.cannot_pull(f"{name}/team/app:v1", account)
        self.can_pull("a.test/team/app:v1", A, config_a)
