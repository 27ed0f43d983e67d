"""systemd: restarts that lose no request, the units as they are shipped, and the Debian package.

A systemd of its own is booted over an overlay of this machine's filesystem, in namespaces of its own, so that the
package can be installed, used and removed for real, and nothing of it is left.
"""

import glob
import http.client
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest

import image
from programs import PROGRAM, ROOT, Registry, World, answers, free_port, run

REPOSITORY = "team/app"
RESTARTS = int(os.environ.get("E2E_RESTARTS", "100"))


class Load:
    """Clients that request one path repeatedly; every answer must be complete."""

    def __init__(self, address, path, size):
        self.address, self.path, self.size = address, path, size
        self.stop, self.answers, self.lost = threading.Event(), 0, []
        work = [self.one_by_one] * 3 + [self.on_one_connection] * 2
        self.threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in self.threads:
            thread.start()

    def take(self, connection):
        connection.request("GET", self.path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200 or len(body) != self.size:
            raise AssertionError(f"{answer.status} with {len(body)} bytes")
        self.answers += 1

    def one_by_one(self):
        while not self.stop.is_set():
            try:
                connection = http.client.HTTPConnection(*self.address, timeout=60)
                self.take(connection)
                connection.close()
            except Exception as error:  # noqa: BLE001 - whatever it is, a request was lost
                self.lost.append(repr(error))

    def on_one_connection(self):
        connection, reused = None, False
        while not self.stop.is_set():
            try:
                connection = connection or http.client.HTTPConnection(*self.address, timeout=60)
                self.take(connection)
                reused = True
            except Exception as error:  # noqa: BLE001
                # A server may close an idle connection at any time; every client then retries on a new one.
                closed = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)
                if not (reused and isinstance(error, closed)):
                    self.lost.append(repr(error))
                if connection:
                    connection.close()
                connection, reused = None, False
        if connection:
            connection.close()

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(timeout=90)
        return self.answers, self.lost


class Restarts(unittest.TestCase):
    """A socket that another process holds, as systemd does, and a daemon that is restarted under load."""

    def test_a_hundred_restarts_under_load_lose_no_request(self):
        world = World()
        self.addCleanup(world.end)
        registry = Registry(world)
        pushed = image.push(world, registry, REPOSITORY, "v1")
        held = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.addCleanup(held.close)
        port, admin, directory = held.getsockname()[1], free_port(), world.directory("larder")
        config = f"{directory}/larder.toml"
        with open(config, "w", encoding="utf-8") as file:
            # The configured address is bound beside the socket that is handed over.
            file.write(f'[server]\nlisten = ["127.0.0.1:{free_port()}"]\nstate = "{directory}"\n'
                       f'[admin]\nlisten = "127.0.0.1:{admin}"\nsocket = "{directory}/larder.sock"\n'
                       f'[store]\nmin_free = "0%"\n[[registry]]\nhost = "reg.test"\nendpoints = ["{registry.url}"]\n')

        def hand_over():
            if held.fileno() != 3:
                os.dup2(held.fileno(), 3)
            os.set_inheritable(3, True)

        def start():
            command = ["sh", "-c", f'LISTEN_PID=$$ LISTEN_FDS=1 exec "{PROGRAM}" serve --config "{config}"']
            with open(f"{world.root}/larder.log", "ab") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, close_fds=False,
                                           preexec_fn=hand_over)
            world.processes.append(process)
            return process

        daemon = start()
        path = f"/v2/{REPOSITORY}/manifests/{pushed['index']}?ns=reg.test"
        body = subprocess.run(["curl", "-sf", "--retry", "10", f"http://127.0.0.1:{port}{path}"], capture_output=True,
                              timeout=60, check=True).stdout
        load = Load(("127.0.0.1", port), path, len(body))
        for _ in range(RESTARTS):
            # Before the daemon handles signals, a signal would kill it.
            world.wait_for(lambda: answers(f"http://127.0.0.1:{admin}/readyz"), "larder")
            time.sleep(0.05)
            daemon.send_signal(signal.SIGTERM)
            self.assertEqual(daemon.wait(timeout=60), 0, world.log("larder"))
            daemon = start()
        answered, lost = load.end()
        self.assertEqual(lost, [], f"of {answered} requests")
        self.assertGreater(answered, RESTARTS)


class Units(unittest.TestCase):
    """The units by themselves."""

    def test_the_exposure_of_the_service_is_as_documented(self):
        run("systemd-analyze", "security", "--offline=true", "--threshold=16", f"{ROOT}/systemd/larder.service")


    def test_no_unit_waits_for_the_network_at_boot(self):
        for path in glob.glob(f"{ROOT}/systemd/larder*.*"):
            with open(path, encoding="utf-8") as file:
                directives = [line for line in file if not line.startswith("#")]
            self.assertNotIn("network-online", "".join(directives), path)


class PackageScripts(unittest.TestCase):
    """What the scripts of both packages do, with a systemctl and a larder that write down how they are called."""

    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.end)
        self.directory = self.world.directory("scripts")
        for name in ("systemctl", "deb-systemd-invoke", "larder"):
            with open(f"{self.directory}/{name}", "w", encoding="utf-8") as file:
                file.write(f'#!/bin/sh\necho "{name} $*" >>{self.directory}/calls\n'
                           f'case "{name} $*" in $FAILS) echo "it fails"; exit 1 ;; esac\n'
                           f'[ {name} != larder ] || echo "nothing to change"\n'
                           f'case "{name} $*" in "larder setup -h") echo "  <RUNTIME> [possible values: containerd, k3s]" ;; esac\n')
            os.chmod(f"{self.directory}/{name}", 0o755)

    def script(self, name, *arguments, fails="nothing", systemd=True, node="", **more):
        """Runs a script of a package; returns its exit code, the calls, and what it said. `node` makes the files of a node, in
        an /etc and a /var/lib of its own; what is left of its /var/lib and /etc is said last."""
        # A /run of its own says whether systemd runs; the real deb-systemd-helper keeps its notes below DPKG_ROOT.
        prepare = "mount -t tmpfs tmpfs /run && " + ("mkdir -p /run/systemd/system && " if systemd else "")
        prepare += (f'mount -t tmpfs tmpfs /etc && mount -t tmpfs tmpfs /var/lib && {{ {node}; }} && {{ "$@"; code=$?; '
                    'find /var/lib /etc -name store -o -name larder.toml; exit $code; }' if node else 'exec "$@"')
        environment = {"PATH": f"{self.directory}:/usr/sbin:/usr/bin:/sbin:/bin", "FAILS": fails,
                       "DPKG_ROOT": self.directory, "DPKG_MAINTSCRIPT_PACKAGE": "larder", **more}
        done = subprocess.run(["unshare", "--mount", "sh", "-c", prepare, "sh", "sh", f"{ROOT}/systemd/{name}", *arguments],
                              env=environment, capture_output=True, text=True, timeout=60, check=False)
        calls = []
        if os.path.exists(f"{self.directory}/calls"):
            with open(f"{self.directory}/calls", encoding="utf-8") as file:
                calls = file.read().splitlines()
            os.remove(f"{self.directory}/calls")
        return done.returncode, calls, done.stdout + done.stderr

    def unit_files(self):
        units = f"{self.directory}/lib/systemd/system"
        os.makedirs(units)
        for path in glob.glob(f"{ROOT}/systemd/larder*.*"):
            shutil.copy(path, units)

    def enabled(self):
        return sorted(os.path.basename(path) for path in glob.glob(f"{self.directory}/etc/systemd/system/*.wants/*"))

    def test_deb_an_upgrade_leaves_a_disabled_and_a_masked_unit_as_it_is(self):
        self.unit_files()
        code, calls, said = self.script("deb/postinst", "configure", "")
        self.assertEqual(code, 0, said)
        self.assertEqual(self.enabled(), ["larder-credentials.path", "larder.service", "larder.socket"])
        self.assertIn("deb-systemd-invoke start larder.service", calls)
        system = f"{self.directory}/etc/systemd/system"
        os.remove(f"{system}/multi-user.target.wants/larder.service")
        os.symlink("/dev/null", f"{system}/larder-credentials.path")
        os.remove(f"{system}/multi-user.target.wants/larder-credentials.path")
        code, calls, said = self.script("deb/postinst", "configure", "0.0.9")
        self.assertEqual(code, 0, said)
        self.assertEqual(self.enabled(), ["larder.socket"], "what was disabled stays disabled")
        self.assertEqual(os.readlink(f"{system}/larder-credentials.path"), "/dev/null", "what was masked stays masked")
        # Which passes over units that are disabled and do not run.
        self.assertIn("deb-systemd-invoke restart larder.service", calls)

    def test_deb_units_are_enabled_in_a_machine_image_where_no_systemd_runs(self):
        self.unit_files()
        code, calls, said = self.script("deb/postinst", "configure", "", systemd=False)
        self.assertEqual((code, calls), (0, []), said)
        self.assertEqual(self.enabled(), ["larder-credentials.path", "larder.service", "larder.socket"])

    def test_rpm_an_upgrade_leaves_a_disabled_and_a_masked_unit_as_it_is(self):
        code, calls, said = self.script("rpm/post", "1", fails="systemctl*enable larder.service")
        self.assertEqual(code, 0, said)
        self.assertIn("systemctl --quiet enable larder-credentials.path", calls, "one that is masked takes no other with it")
        code, calls, said = self.script("rpm/post", "2", fails="systemctl*is-*")
        self.assertEqual((code, [call for call in calls if "is-enabled" not in call and "is-active" not in call]),
                         (0, ["systemctl daemon-reload"]), said)

    def test_rpm_an_upgrade_starts_a_daemon_that_had_ended_and_one_that_runs_anew(self):
        def changed(fails):
            code, calls, said = self.script("rpm/post", "2", fails=fails)
            self.assertEqual(code, 0, said)
            return [call.removeprefix("systemctl ") for call in calls if "is-" not in call]

        # Neither runs: a store of a newer format, say, has ended the daemon with 3 and closed the socket.
        self.assertEqual(changed("systemctl*is-active*"),
                         ["daemon-reload", "start larder.socket", "start larder-credentials.path", "restart larder.service"])
        # One that was disabled and started by hand runs the new program too.
        self.assertEqual(changed("systemctl*is-enabled*"), ["daemon-reload", "restart larder.service"])
        self.assertEqual(changed("systemctl*start larder.s*")[-1], "restart larder.service", "a failure ends no upgrade")
        code, calls, said = self.script("rpm/post", "1", systemd=False)
        self.assertEqual((code, [call for call in calls if " start " in call]), (0, []), said)

    def test_no_package_goes_while_a_runtime_would_go_on_asking_it(self):
        for script, removal, upgrade in (("deb/prerm", "remove", "upgrade"), ("rpm/preun", "0", "1")):
            code, calls, said = self.script(script, removal)
            self.assertEqual(code, 0, said)
            undone = [call for call in calls if call.endswith("--undo")]
            self.assertEqual(undone, ["larder setup containerd --undo", "larder setup k3s --undo"])
            self.assertLess(calls.index(undone[-1]), min(n for n, call in enumerate(calls) if "stop" in call),
                            "the daemon answers until no client asks")
            code, calls, said = self.script(script, removal, fails="larder*setup k3s --undo")
            self.assertEqual(code, 1, said)
            self.assertIn("k3s would go on asking it: it fails", said)
            self.assertFalse([call for call in calls if "stop" in call], "the daemon stays")
            code, calls, said = self.script(script, removal, fails="larder setup * --undo")
            self.assertEqual(code, 0, "a broken configuration keeps no package: " + said)
            code, calls, said = self.script(script, removal, fails="larder*", LARDER_KEEP_WIRING="1")
            self.assertEqual((code, [call for call in calls if call.startswith("larder")]), (0, []), said)
            code, calls, said = self.script(script, upgrade)
            self.assertEqual((code, calls), (0, []), "an upgrade is no removal: " + said)

    def test_removing_the_package_after_a_move_to_the_daemonset_takes_nothing_from_it(self):
        def hosts(port):
            return ("mkdir -p /etc/containerd/certs.d/_default && printf '%s\\n' "
                    f"'[host.\"http://127.0.0.1:{port}\"] # written by `larder setup`' >/etc/containerd/certs.d/_default/hosts.toml && "
                    "mkdir -p /etc/systemd/system/larder.socket.d && printf '[Socket]\\nListenStream=\\nListenStream=127.0.0.1:5050\\n' "
                    ">/etc/systemd/system/larder.socket.d/own.conf")

        free = "mkdir -p /var/lib/larder/store && touch /var/lib/larder/store/LOCK"
        held = f"{free} && exec 8>/var/lib/larder/store/LOCK && flock 8"
        disabled = "systemctl*is-*"
        for script, removal in (("deb/prerm", "remove"), ("rpm/preun", "0")):
            for node, fails, taken_over in ((hosts(505), disabled, True), (f"{held} && {hosts(5050)}", disabled, True),
                                            (held, disabled, True), (f"{free} && {hosts(5050)}", disabled, False),
                                            (free, disabled, False), (f"{held} && {hosts(505)}", "nothing", False)):
                code, calls, said = self.script(script, removal, fails=fails, node=node)
                self.assertEqual(code, 0, said)
                undone = [call for call in calls if call.endswith("--undo")]
                self.assertEqual(undone, [] if taken_over else ["larder setup containerd --undo", "larder setup k3s --undo"],
                                 (script, node, fails, said))
                self.assertEqual("another larder serves this node" in said, taken_over, said)
                self.assertTrue([call for call in calls if "stop" in call], "the package goes all the same")

    def test_deb_a_purge_deletes_no_store_but_the_units(self):
        free = ("mkdir -p /etc/larder /var/lib/private/larder/store && touch /etc/larder/larder.toml "
                "/var/lib/private/larder/store/LOCK && ln -s private/larder /var/lib/larder")
        units = f"{free} && chown -R 62000:62000 /var/lib/private/larder"
        held = f"{units} && exec 8>/var/lib/larder/store/LOCK && flock 8"
        for node, kept in ((units, False), (held, True), (free, True)):
            code, _, said = self.script("deb/postrm", "purge", node=node)
            self.assertEqual(code, 0, said)
            self.assertEqual("/var/lib/private/larder/store" in said, kept, said)
            self.assertEqual("is kept" in said, kept, said)
            self.assertNotIn("larder.toml", said)
        mounted = f"{units} && mount -t tmpfs -o uid=62000 tmpfs /var/lib/private/larder/store && touch /var/lib/larder/store/LOCK"
        code, _, said = self.script("deb/postrm", "purge", node=mounted)
        self.assertEqual(code, 0, "a store with a disk of its own stops no purge: " + said)
        self.assertIn("umount", said)
        self.assertNotIn("larder.toml", said)


class RpmPackage(unittest.TestCase):
    """The RPM package as rpm reads it, and in a root of its own, since the tests have no machine of its kind."""

    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.end)
        self.package = run(f"{ROOT}/systemd/rpm.sh", PROGRAM, self.world.directory("rpm"))

    def test_an_upgrade_keeps_what_was_changed_and_a_removal_takes_the_runtimes_back(self):
        directory = self.world.directory("root")
        script = """
            mount -t tmpfs tmpfs $1 && mkdir $1/upper $1/work $1/root || exit 77
            mount -t overlay overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work $1/root || exit 77
            set -e
            mount -t proc proc $1/root/proc; mount -t tmpfs tmpfs $1/root/run; cp $2 $1/root/root/larder.rpm
            exec chroot $1/root sh -ec '
                rm -rf /etc/larder /etc/containerd/certs.d
                enabled() { ls /etc/systemd/system/*.wants | grep larder | sort | tr "\\n" " "; echo; }
                quietly() { "$@" >/root/log 2>&1 || { cat /root/log; exit 1; }; }
                quietly rpm -i --nodeps /root/larder.rpm; enabled
                quietly larder setup containerd; test -e /etc/containerd/certs.d/_default/hosts.toml
                rm /etc/systemd/system/*.wants/larder.service
                echo "# mine" >>/etc/larder/larder.toml
                quietly rpm -U --nodeps --force /root/larder.rpm; enabled
                grep "^# mine" /etc/larder/larder.toml
                quietly rpm -e --nodeps larder; enabled || true
                ls /usr/bin/larder /etc/containerd/certs.d/_default/hosts.toml 2>/dev/null || echo gone
            '"""
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", directory, self.package], capture_output=True,
                              text=True, timeout=120, check=False)
        if done.returncode == 77:
            self.skipTest(f"this machine does not permit an overlay: {done.stderr}")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual([line.strip() for line in done.stdout.splitlines()],
                         ["larder-credentials.path larder.service larder.socket", "larder-credentials.path larder.socket",
                          "# mine", "", "gone"])

    def test_it_has_the_files_the_scripts_and_what_it_needs(self):
        package = self.package
        files = run("rpm", "-qlp", package).splitlines()
        for path in ("/usr/bin/larder", "/usr/lib/systemd/system/larder.service", "/usr/lib/systemd/system/larder.socket",
                     "/usr/lib/systemd/system/larder-credentials.path", "/etc/larder/larder.toml",
                     "/usr/share/larder/alerts.yaml", "/usr/share/man/man1/larder-pull.1.gz",
                     "/usr/share/zsh/site-functions/_larder"):
            self.assertIn(path, files)
        self.assertEqual(run("rpm", "-qcp", package), "/etc/larder/larder.toml", "an operator's changes are kept")
        needs = run("rpm", "-qp", "--requires", package)
        self.assertRegex(needs, r"(?m)^glibc >= 2\.\d+$")
        self.assertRegex(needs, r"(?m)^systemd >= 247$")
        scripts = run("rpm", "-qp", "--scripts", package)
        for script in ("post", "preun", "postun"):
            with open(f"{ROOT}/systemd/rpm/{script}", encoding="utf-8") as file:
                self.assertIn(file.read().strip(), scripts)
        self.assertEqual(run("rpm", "-qp", "--qf", "%{CONFIGNAMES}", package) if False else
                         run("rpm", "-qp", "--qf", "[%{FILENAMES} %{FILEFLAGS:fflags}\n]", package).count(" cn"), 1,
                         "noreplace")


BOOT = r"""
set -e
R=$1/root
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work $R
# Files of a Larder that was run on this machine by hand.
rm -rf $R/var/lib/larder $R/var/lib/private/larder $R/etc/larder
# Of a machine that is a container itself: packages start and stop nothing then.
rm -f $R/usr/sbin/policy-rc.d
mount -t proc proc $R/proc
mount -t sysfs sysfs $R/sys
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
mount --rbind /dev $R/dev
mount -t tmpfs tmpfs $R/run
mount -t tmpfs tmpfs $R/tmp
mkdir -p $R/run/old
cd $R
pivot_root . run/old
umount -l /run/old
mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=podman /lib/systemd/systemd --system --unit=multi-user.target
"""


class Package(unittest.TestCase):
    """The Debian package under a real systemd: installed, used, restarted, removed."""

    @classmethod
    def setUpClass(cls):
        cls.world = World()
        directory = cls.world.directory("machine")
        probe = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w && " \
                "mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /media"
        able = subprocess.run(["unshare", "--mount", "--cgroup", "--pid", "--fork", "sh", "-c", probe],
                              capture_output=True, text=True, timeout=30, check=False)
        if able.returncode != 0:
            cls.world.end()
            raise unittest.SkipTest(f"this machine does not permit a second systemd: {able.stderr.strip()}")
        # A filesystem of its own: an overlay cannot be mounted on an overlay.
        run("mount", "-t", "tmpfs", "tmpfs", directory)
        for name in ("upper", "work", "root"):
            os.makedirs(f"{directory}/{name}")
        # A registry of its own inside, which knows one account, and an image in it.
        registry = Registry(cls.world)
        cls.pushed = image.push(cls.world, registry, REPOSITORY, "v1")
        registry.stop()
        os.makedirs(f"{directory}/upper/srv")
        shutil.copytree(os.path.join(cls.world.root, registry.name, "data"), f"{directory}/upper/srv/data")
        run("htpasswd", "-Bbc", f"{directory}/upper/srv/htpasswd", "AWS", "plugin-password")
        with open(f"{directory}/upper/srv/config.yml", "w", encoding="utf-8") as file:
            file.write("version: 0.1\nstorage: {filesystem: {rootdirectory: /srv/data}}\nhttp: {addr: 127.0.0.1:5999}\n"
                       "auth: {htpasswd: {realm: fake, path: /srv/htpasswd}}\n")
        cls.package = run(f"{ROOT}/systemd/deb.sh", PROGRAM, cls.world.directory("deb"))
        cls.boot = cls.world.start("systemd", "unshare", "--kill-child", "--pid", "--fork", "--mount", "--cgroup",
                                   "--uts", "--ipc", "--net", "bash", "-c", BOOT, "boot", directory)
        until = time.monotonic() + 60
        while True:
            children = run("sh", "-c", f"cat /proc/{cls.boot.pid}/task/*/children").split()
            cls.inside = ["nsenter", "-t", children[0], "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w"] if children else None
            state = cls.inside and subprocess.run([*cls.inside, "systemctl", "is-system-running"], capture_output=True,
                                                  text=True, timeout=30, check=False).stdout.strip()
            if state in ("running", "degraded"):
                break
            if time.monotonic() > until:
                raise AssertionError(f"systemd does not start: {state}\n{cls.world.log('systemd')}")
            time.sleep(0.2)
        with open(cls.package, "rb") as package:
            subprocess.run([*cls.inside, "sh", "-c", "cat > /root/larder.deb"], stdin=package, timeout=60, check=True)

    @classmethod
    def tearDownClass(cls):
        cls.boot.kill()
        cls.boot.wait()
        cls.world.end()

    def do(self, script):
        try:
            return run(*self.inside, "sh", "-c", script)
        except AssertionError as failed:
            said = subprocess.run([*self.inside, "journalctl", "--no-pager", "-n", "40"], capture_output=True, text=True,
                                  timeout=30, check=False).stdout
            raise AssertionError(f"{failed}\n{said}") from None

    def log(self):
        """The daemon's log, for the message of a failure."""
        return self.do("systemctl status larder --no-pager -l || true; journalctl -u larder -n 50 --no-pager || true")

    def test_1_it_is_installed_and_runs_with_the_shipped_hardening(self):
        self.do("mkdir -p /var/lib/kubelet && umask 077 && "
                "echo '{\"auths\":{\"reg.test\":{\"username\":\"node\",\"password\":\"p\"}}}' > /var/lib/kubelet/config.json")
        self.do("dpkg -i /root/larder.deb")
        self.assertEqual(self.do("systemctl is-active larder.service larder.socket larder-credentials.path"),
                         "active\nactive\nactive", self.log())
        self.assertEqual(self.do("systemctl is-enabled larder.service larder.socket"), "enabled\nenabled")
        self.assertIn("200", self.do("curl -s -o /dev/null -w '%{http_code}' -u : http://127.0.0.1:5050/v2/"))
        status = self.do("larder status")
        self.assertIn("ready", status)
        # The node's docker config came through systemd, and no other user can read the state.
        self.assertIn("/run/credentials/larder.service/docker-config.json", self.log())
        self.assertNotIn("root", self.do("ps -o user= -p $(systemctl show -p MainPID --value larder)"))
        self.assertEqual(self.do("stat -c %a /var/lib/larder/keys /run/larder/larder.sock"), "700\n600")
        self.assertIn("larder", self.do("ls /usr/share/bash-completion/completions/larder"))
        self.assertIn("larder-pull.1.gz", self.do("ls /usr/share/man/man1 | grep larder-pull"))

    def test_2_a_changed_docker_config_reaches_it_and_no_request_is_lost(self):
        pid = self.do("systemctl show -p MainPID --value larder")
        script = ("import http.client,sys,time\n"
                  "lost=n=0\n"
                  "until=time.monotonic()+6\n"
                  "while time.monotonic()<until:\n"
                  "  try:\n"
                  "    c=http.client.HTTPConnection('127.0.0.1',5050,timeout=30); c.request('GET','/v2/',headers={'Authorization':'Basic Og=='})\n"
                  "    a=c.getresponse(); a.read(); n+=1; lost+=a.status!=200\n"
                  "  except Exception as e: lost+=1; print(e)\n"
                  "print(lost, 'lost,', n>100)\n")
        load = subprocess.Popen([*self.inside, "/usr/bin/python3", "-c", script], stdout=subprocess.PIPE, text=True)
        time.sleep(1)
        self.do("umask 077; echo '{\"auths\":{\"other.test\":{\"username\":\"n\",\"password\":\"p\"}}}' > /var/lib/kubelet/new && "
                "mv /var/lib/kubelet/new /var/lib/kubelet/config.json")
        said, _ = load.communicate(timeout=60)
        self.assertEqual(said.strip(), "0 lost, True")
        until = time.monotonic() + 30
        while self.do("systemctl show -p MainPID --value larder") in (pid, "0"):
            self.assertLess(time.monotonic(), until, "it is not started anew by itself\n" + self.log())
            time.sleep(0.2)

    def test_3_reload_takes_the_list_of_images_and_keeps_the_process(self):
        pid = self.do("systemctl show -p MainPID --value larder")
        self.do("sed -i 's|^#images = .*|images = [\"reg.invalid/team/app:v1\"]|' /etc/larder/larder.toml && "
                "systemctl reload larder")
        until = time.monotonic() + 30
        while "pre-pull" not in self.do("larder status"):
            self.assertLess(time.monotonic(), until, self.log())
            time.sleep(0.2)
        self.assertEqual(self.do("systemctl show -p MainPID --value larder"), pid)
        self.do("echo 'nonsense = [' >> /etc/larder/larder.toml && systemctl reload larder")
        self.assertEqual(self.do("systemctl is-active larder"), "active", "a broken file changes nothing")
        self.assertIn("not read again", self.log())
        self.do("sed -i '/^nonsense/d; /^images = /d' /etc/larder/larder.toml")

    def test_3a_only_listed_users_connect_under_the_hardening(self):
        self.do("sed -i 's|^\\[server\\]$|[server]\\nallow_uids = [0, 1]|' /etc/larder/larder.toml && larder config check && "
                "systemctl restart larder")
        ask = "curl -s -o /dev/null -w '%{http_code}' -u : http://127.0.0.1:5050/v2/"
        for user, code in (("root", "200"), ("daemon", "200"), ("bin", "403")):
            self.assertEqual(self.do(f"setpriv --reuid {user} --clear-groups {ask}"), code, user + "\n" + self.log())
        self.do("sed -i '/^allow_uids = /d' /etc/larder/larder.toml && systemctl restart larder")

    def test_3b_a_plugin_runs_unchanged_and_an_image_is_pulled_under_the_hardening(self):
        self.do("systemd-run --unit=registry docker-registry serve /srv/config.yml")
        self.do("mkdir -p /usr/local/lib/plugins && cat > /usr/local/lib/plugins/ecr <<'PLUGIN'\n"
                "#!/bin/sh\ncat >/dev/null\n"
                "echo '{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\","
                "\"cacheKeyType\":\"Registry\",\"cacheDuration\":\"12h\",\"auth\":{\"reg.test\":{\"username\":\"AWS\","
                "\"password\":\"plugin-password\"}}}'\nPLUGIN\n"
                "chmod 755 /usr/local/lib/plugins/ecr\n"
                "cat > /etc/larder/providers.yaml <<'CONFIG'\nkind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\n"
                "providers:\n- name: ecr\n  matchImages: [\"reg.test\"]\n  defaultCacheDuration: 12h\n"
                "  apiVersion: credentialprovider.kubelet.k8s.io/v1\nCONFIG\n"
                "chmod 644 /etc/larder/providers.yaml; "
                "sed -i 's|^#provider_config = .*|X|; s|^\\[credentials\\]$|[credentials]\\nprovider_config = \"/etc/larder/providers.yaml\"\\nprovider_bin_dir = \"/usr/local/lib/plugins\"|; /^X$/d' /etc/larder/larder.toml; "
                "printf '[[registry]]\nhost = \"reg.test\"\nendpoints = [\"http://127.0.0.1:5999\"]\n' >> /etc/larder/larder.toml; "
                "sed -i 's|^#min_free = .*|min_free = \"0%\"|' /etc/larder/larder.toml; "
                "larder config check && systemctl restart larder")
        said = self.do(f"larder pull --pin reg.test/{REPOSITORY}:v1 2>&1 || true")
        self.assertIn("pinned", said, self.do("journalctl -u registry -n 5 --no-pager") + self.log())
        self.assertIn(f"reg.test/{REPOSITORY}:v1", self.do("larder ls"))
        # Every pod may use what a plugin's credential opened.
        code = self.do("curl -s -o /dev/null -w '%{http_code}' "
                       f"'http://127.0.0.1:5050/v2/{REPOSITORY}/manifests/{self.pushed['index']}?ns=reg.test'")
        self.assertEqual(code, "200", self.log())

    def test_3c_containerd_is_set_up_as_the_reference_deployment_says(self):
        # containerd unpacks into an overlay, which cannot be mounted on an overlay.
        self.do("mkdir -p /var/lib/containerd && mount -t tmpfs tmpfs /var/lib/containerd && systemctl restart containerd")
        said = self.do("larder doctor || true")
        self.assertRegex(said, "PROBLEM +containerd +it has no config_path")
        self.assertIn("config_path", self.do("larder setup containerd --dry-run"))
        self.do("larder setup containerd && systemctl restart containerd")
        # The image can be pulled through this cache alone: its host is in no DNS, and its registry requires the plugin's credential.
        said = self.do(f"larder doctor --canary reg.test/{REPOSITORY}:v1")
        self.assertRegex(said, "ok +containerd +/etc/containerd/certs.d/_default leads here")
        self.assertRegex(said, r"canary +reg.test/team/app: ctr's request \d+ came through this cache by \S+/certs.d;")
        self.assertNotIn("could not be pulled", said)
        self.do("larder setup containerd --undo && systemctl restart containerd")
        self.assertRegex(self.do("larder doctor || true"), "PROBLEM +containerd +it has no config_path")

    def test_4_a_daemon_that_is_stuck_is_restarted(self):
        pid = self.do("systemctl show -p MainPID --value larder")
        self.do("mkdir -p /run/systemd/system/larder.service.d && printf '[Service]\\nWatchdogSec=2\\n' > "
                "/run/systemd/system/larder.service.d/w.conf && systemctl daemon-reload && systemctl restart larder")
        pid = self.do("systemctl show -p MainPID --value larder")
        self.do(f"kill -STOP {pid}")
        until = time.monotonic() + 30
        while self.do("systemctl show -p MainPID --value larder") in (pid, "0"):
            self.assertLess(time.monotonic(), until, self.log())
            time.sleep(0.2)
        self.assertIn("200", self.do("curl -s -o /dev/null -w '%{http_code}' -u : http://127.0.0.1:5050/v2/"))

    def test_4a_a_store_of_a_newer_format_is_one_message_and_no_request_waits_for_it(self):
        since = self.do("date '+%Y-%m-%d %H:%M:%S'")
        self.do("systemctl stop larder.service; cp /var/lib/larder/store/format /root/format; "
                "echo 'larder store 99' > /var/lib/larder/store/format; systemctl start larder.service || true")
        # Clients that go on asking.
        self.do("for n in 1 2 3 4 5 6; do curl -s -m 5 http://127.0.0.1:5050/v2/ || true; sleep 0.5; done")
        said = self.do(f"journalctl -u larder --no-pager --since '{since}' | grep -c 'has format' || true")
        self.assertEqual(said, "1", self.log())
        self.assertEqual(self.do("systemctl is-active larder.socket || true"), "inactive", self.log())
        self.do("cp /root/format /var/lib/larder/store/format; systemctl start larder.socket larder.service")
        self.assertIn("200", self.do("curl -s -o /dev/null -w '%{http_code}' -u : http://127.0.0.1:5050/v2/"))

    def held_for(self):
        """Asks the port as a runtime does; returns how it ended (curl's exit code) and after how many seconds."""
        said = self.do("curl -s -o /dev/null -m 60 -w '%{time_total}' http://127.0.0.1:5050/v2/; echo \" $?\"").split()
        return int(said[-1]), float(said[0])

    def refused(self):
        """Waits until the port is closed: no request is held for a daemon that cannot start."""
        until = time.monotonic() + 30
        while self.held_for()[0] != 7:
            self.assertLess(time.monotonic(), until, self.log())
            time.sleep(0.2)

    def test_4aa_a_mistake_in_the_configuration_is_one_message_and_no_request_waits_for_it(self):
        since = self.do("date '+%Y-%m-%d %H:%M:%S'")
        self.do("cp /etc/larder/larder.toml /root/larder.toml; echo '[upstreams]' >> /etc/larder/larder.toml; "
                "systemctl restart larder.service || true")
        for _ in range(6):
            code, _ = self.held_for()
            self.assertEqual(code, 7, "connection refused: the runtime asks the registry itself\n" + self.log())
            time.sleep(0.5)
        said = self.do(f"journalctl -u larder --no-pager --since '{since}' | grep -c 'upstreams' || true")
        self.assertEqual(said, "1", self.log())
        self.assertEqual(self.do("systemctl is-active larder.service larder.socket || true"), "failed\ninactive", self.log())
        self.do("cp /root/larder.toml /etc/larder/larder.toml; systemctl start larder")
        self.assertEqual(self.do("systemctl is-active larder.service larder.socket"), "active\nactive", self.log())
        self.assertEqual(self.held_for()[0], 0, self.log())

    def test_4ab_a_daemon_that_cannot_start_holds_no_request_and_is_there_again_when_it_can(self):
        self.do("systemd-run --unit=other-program /usr/bin/python3 -m http.server -b 127.0.0.1 5199 && "
                "cp /etc/larder/larder.toml /root/larder.toml && "
                "sed -i 's|^\\[admin\\]$|[admin]\\nlisten = \"127.0.0.1:5199\"|' /etc/larder/larder.toml && larder config check")
        self.do("until curl -s -o /dev/null http://127.0.0.1:5199/; do sleep 0.1; done; systemctl restart larder.service || true")
        self.refused()
        # It is tried again and again, for longer than systemd counts starts by itself; a request that meets a try is ended with it.
        begun = time.monotonic()
        while time.monotonic() < begun + 15:
            code, seconds = self.held_for()
            self.assertIn(code, (7, 52, 56), self.log())
            self.assertLess(seconds, 20, self.log())
            time.sleep(0.3)
        self.do("systemctl stop other-program")
        until = time.monotonic() + 30
        while self.do("systemctl is-active larder.service larder.socket || true") != "active\nactive":
            self.assertLess(time.monotonic(), until, self.log())
            time.sleep(0.2)
        self.assertEqual(self.held_for()[0], 0, self.log())
        self.do("cp /root/larder.toml /etc/larder/larder.toml; systemctl restart larder")

    def test_4ac_a_start_that_hangs_holds_requests_for_a_bounded_time(self):
        drop_in = "/run/systemd/system/larder.service.d/hangs.conf"
        limit = self.do("systemctl show -p TimeoutStartUSec --value larder")
        self.assertEqual(limit, "30s")
        self.do(f"mkdir -p $(dirname {drop_in}) && printf '[Service]\\nExecStart=\\nExecStart=/bin/sleep 1000\\nTimeoutStartSec=2\\n' > {drop_in} && "
                "systemctl daemon-reload && systemctl --no-block restart larder")
        self.refused()
        self.assertLess(self.held_for()[1], 20, self.log())
        self.do(f"rm {drop_in} && systemctl daemon-reload && systemctl restart larder")
        self.assertEqual(self.do("systemctl is-active larder.service larder.socket"), "active\nactive", self.log())
        self.assertEqual(self.held_for()[0], 0, self.log())

    def test_4b_an_upgrade_leaves_a_disabled_and_a_masked_unit_as_it_is(self):
        self.do("systemctl disable --now larder.service && dpkg -i /root/larder.deb")
        self.assertEqual(self.do("systemctl is-enabled larder.service || true"), "disabled")
        self.assertEqual(self.do("systemctl is-active larder.service || true"), "inactive")
        self.do("systemctl stop larder.socket && systemctl mask larder.service && dpkg -i /root/larder.deb")
        self.assertEqual(self.do("systemctl is-enabled larder.service || true"), "masked")
        self.assertEqual(self.do("systemctl is-active larder.service || true"), "inactive")
        self.do("systemctl unmask larder.service && systemctl enable --now larder.service larder.socket && dpkg -i /root/larder.deb")
        self.assertEqual(self.do("systemctl is-active larder.service larder.socket"), "active\nactive", self.log())

    def test_4c_the_store_of_a_daemonset_is_taken_over_by_the_unit(self):
        # As JSON, which tells when a tag was confirmed and not how long ago that is.
        before = self.do("larder ls --json")
        self.assertIn(REPOSITORY, before)
        # As the DaemonSet leaves it: a plain directory that belongs to root.
        self.do("systemctl stop larder.socket larder.service && rm /var/lib/larder && "
                "mv /var/lib/private/larder /var/lib/larder && chown -R root:root /var/lib/larder && "
                "systemctl start larder.socket larder.service")
        self.assertEqual(self.do("systemctl is-active larder.service larder.socket"), "active\nactive", self.log())
        self.assertEqual(self.do("larder ls --json"), before)
        self.assertEqual(self.do("readlink /var/lib/larder"), "private/larder")

    def test_4d_a_root_shell_ends_rights_without_a_daemon_and_leaves_nothing_that_the_daemon_cannot_read(self):
        self.do("systemctl stop larder.socket larder.service")
        said = self.do("larder revoke --all 2>&1; echo $?")
        self.assertRegex(said, "(?s)belongs to user .*systemctl start larder.*1$")
        self.do("systemd-run --wait --pipe -p User=larder -p DynamicUser=yes -p StateDirectory=larder -p StateDirectoryMode=0700 "
                "larder revoke --all")
        self.assertEqual(self.do("find /var/lib/private/larder/ -user root"), "")
        self.do("systemctl start larder")
        self.assertEqual(self.do("systemctl is-active larder.service larder.socket"), "active\nactive", self.log())
        self.assertNotIn("set aside", self.do("journalctl -u larder --no-pager -n 30"))

    def drop_in(self, name, lines):
        """A drop-in of the unit, until the machine ends; none where there are no lines."""
        path = f"/run/systemd/system/larder.service.d/{name}.conf"
        make = f"mkdir -p $(dirname {path}) && printf '[Service]\\n{lines}\\n' > {path}" if lines else f"rm -f {path}"
        self.do(f"{make} && systemctl daemon-reload")

    def restarted(self):
        self.do("systemctl start larder.socket; systemctl restart larder.service")
        self.assertEqual(self.do("systemctl is-active larder.service larder.socket"), "active\nactive", self.log())

    def test_4e_the_store_gets_a_disk_of_its_own_as_the_reference_deployment_says(self):
        other, at = "/etc/larder/larder.toml.d/store.toml", "/var/lib/private/larder/store"
        self.do(f"systemctl stop larder.socket larder.service && mount -t tmpfs -o size=64m tmpfs {at} && "
                f"chown --reference=/var/lib/private/larder {at} && systemctl start larder")
        self.assertEqual(self.do("systemctl is-active larder.service larder.socket"), "active\nactive", self.log())
        self.assertIn("pinned", self.do(f"larder pull --pin reg.test/{REPOSITORY}:v1 2>&1 || true"), self.log())
        self.assertIn(REPOSITORY, self.do("larder ls"))
        self.do(f"systemctl stop larder.socket larder.service && test -e {at}/LOCK && umount {at}")
        # Elsewhere the unit permits nothing by itself, and its log says what to do.
        self.do(f"mkdir -p /etc/larder/larder.toml.d && printf '[store]\\npath = \"/data/larder\"\\n' > {other} && "
                "install -d -o daemon -g daemon /data/larder && systemctl start larder.socket; systemctl start larder || true")
        self.refused()
        self.assertIn("docs/reference-deployment.md", self.do("journalctl -u larder -n 20 --no-pager"))
        self.drop_in("store", "User=daemon\\nReadWritePaths=/data/larder")
        self.restarted()
        self.do("test -e /data/larder/LOCK")
        self.drop_in("store", "")
        self.do("rm -r /etc/larder/larder.toml.d /data")
        self.restarted()

    def test_4f_doctor_and_gc_as_root_leave_nothing_in_a_tier_that_the_daemon_cannot_write_to(self):
        more = "/etc/larder/larder.toml.d/tier.toml"
        self.do("install -d -o daemon -g daemon /srv/tier && mkdir -p /etc/larder/larder.toml.d && printf "
                f"'[tier]\\nurl = \"file:///srv/tier\"\\nregistries = [\"reg.test\"]\\n' > {more}")
        self.drop_in("tier", "User=daemon\\nReadWritePaths=/srv/tier")
        self.restarted()
        self.assertRegex(self.do("larder doctor || true"), "ok +tier +file:///srv/tier: an object was written and read")
        self.assertEqual(self.do("find /srv/tier -user root"), "")
        self.do(f"larder rm reg.test/{REPOSITORY}:v1; larder pull --pin reg.test/{REPOSITORY}:v1")
        until = time.monotonic() + 30
        while self.do("find /srv/tier -path '*/blobs/*' -type f") == "":
            self.assertLess(time.monotonic(), until, self.do("larder status") + self.log())
            time.sleep(0.2)
        self.assertRegex(self.do("larder tier gc --older-than 30d 2>&1; echo $?"), "(?s)setpriv .*1$")
        self.assertEqual(self.do("find /srv/tier -user root"), "")
        self.do("setpriv --reuid=daemon --regid=daemon --clear-groups larder tier gc --older-than 30d")
        self.do("systemctl stop larder.socket larder.service")
        self.assertRegex(self.do("larder doctor || true"), "note +tier +file:///srv/tier is not tried")
        self.assertEqual(self.do("find /srv/tier -user root"), "")
        self.drop_in("tier", "")
        self.do("rm -r /etc/larder/larder.toml.d")
        self.restarted()

    def test_4g_a_check_of_the_configuration_knows_the_user_and_the_variables_of_the_unit(self):
        self.assertNotIn("warning", self.do("larder config check 2>&1"))
        self.do("mkdir -p /etc/larder/larder.toml.d && (umask 077 && echo '[freshness]' > /etc/larder/larder.toml.d/50.toml)")
        said = self.do("larder config check 2>&1")
        self.assertIn("/etc/larder/larder.toml.d/50.toml: only root may read it", said)
        self.do("printf '[credentials]\nhelper_dir = \"/tmp\"\n' > /etc/larder/larder.toml.d/50.toml && chmod 644 /etc/larder/larder.toml.d/50.toml")
        self.assertIn("/tmp: larder.service does not see /tmp (PrivateTmp=)", self.do("larder config check 2>&1"))
        self.do("rm -r /etc/larder/larder.toml.d")
        self.drop_in("proxy", "Environment=HTTPS_PROXY=https://p:3129 \"LARDER_FRESHNESS_TAG_TTL=5 m\"")
        self.assertRegex(self.do("HTTPS_PROXY=http://p:3129 larder config check 2>&1; echo $?"), "(?s)HTTPS_PROXY names a https.*2$")
        self.drop_in("proxy", "Environment=LARDER_STOR_PATH=/x")
        self.assertRegex(self.do("larder config check 2>&1; echo $?"), "(?s)LARDER_STOR_PATH.*2$")
        self.drop_in("proxy", "")
        self.assertRegex(self.do("LARDER_STOR_PATH=/x larder config check 2>&1"), "ok: .*with the variables of larder.service")

    def test_5_it_is_removed_cleanly(self):
        self.do("larder setup containerd && test -e /etc/containerd/certs.d/_default/hosts.toml")
        self.do("dpkg -r larder")
        self.assertEqual(self.do("ls /etc/containerd/certs.d/_default/hosts.toml 2>/dev/null || true"), "",
                         "no runtime is left with a port on which no daemon answers")
        self.assertEqual(self.do("systemctl is-active larder.service larder.socket || true"), "inactive\ninactive")
        self.assertIn("refused", self.do("curl -s -S http://127.0.0.1:5050/v2/ 2>&1 || true").lower()
                      .replace("couldn't connect", "refused").replace("failed to connect", "refused"))
        self.do("dpkg -P larder")
        left = self.do("ls -d /etc/larder /var/lib/larder /var/lib/private/larder /usr/bin/larder /lib/systemd/system/larder* 2>/dev/null || true")
        self.assertEqual(left, "")
        self.assertEqual(glob.glob("/lib/systemd/system/larder*"), [], "and nothing of it was ever outside")
