"""The objects of the DaemonSet: rendered by kubectl's kustomize and by Helm, compared, and read as what they grant."""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import unittest

import yaml

from programs import ROOT, World, run

KUBERNETES, CHART = f"{ROOT}/config/kubernetes", f"{ROOT}/config/helm/larder"
DIGEST = "sha256:" + "0" * 64
# Helm's own, which kustomize has not.
HELM_LABELS = ("app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart")


def helm():
    """Helm's own code behind a Python module, which tests/tools.sh installs below target/."""
    for path in glob.glob(f"{ROOT}/target/tools/python/lib/python3*/site-packages"):
        sys.path.append(path)
    try:
        import helm_python
    except ImportError:
        raise unittest.SkipTest("helm-python-sdk is not installed: run tests/tools.sh") from None
    return helm_python


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def kustomized(directory=KUBERNETES):
    return documents(run("kubectl", "kustomize", directory))


def templated(values):
    with helm().Chart.load(CHART) as chart:
        rendered = chart.render({"image": {"digest": DIGEST}, **values}, name="larder", namespace="larder")
    objects = [rendered[name] for name in sorted(rendered) if name.endswith(".yaml")]
    return [document for text in objects for document in documents(text)]


def of_kind(objects, kind):
    found = [each for each in objects if each["kind"] == kind]
    assert len(found) == 1, (kind, [each["kind"] for each in objects])
    return found[0]


def comparable(objects):
    """By kind and name, without what has to differ: Helm's labels, the suffix of kustomize's ConfigMap, which is what
    Helm's checksum is for, and the namespace, which Helm does not make."""
    found = {}
    for each in json.loads(json.dumps(objects)):
        metadata = each["metadata"]
        for label in HELM_LABELS:
            metadata.get("labels", {}).pop(label, None)
        if each["kind"] == "ConfigMap":
            metadata["name"] = re.sub(r"-[a-z0-9]{10}$", "", metadata["name"])
            metadata.pop("labels", None)
            each["data"] = {name: text.rstrip("\n") for name, text in each["data"].items()}
        if each["kind"] == "DaemonSet":
            template = each["spec"]["template"]
            template["metadata"]["annotations"].pop("checksum/config", None)
            for volume in template["spec"]["volumes"]:
                if "configMap" in volume:
                    volume["configMap"]["name"] = re.sub(r"-[a-z0-9]{10}$", "", volume["configMap"]["name"])
            # The last container that is deleted leaves an empty list behind.
            if not template["spec"].get("initContainers"):
                template["spec"].pop("initContainers", None)
            for container in template["spec"].get("initContainers", []) + template["spec"]["containers"]:
                # The API server's default for an image by digest.
                container.setdefault("imagePullPolicy", "IfNotPresent")
                # A patch adds at the front, and what it takes out leaves an empty list.
                container["env"] = sorted(container.get("env", []), key=lambda entry: entry["name"])
                container["volumeMounts"].sort(key=lambda mount: mount["mountPath"])
            template["spec"]["volumes"].sort(key=lambda volume: volume["name"])
        if each["kind"] != "Namespace":
            found[(each["kind"], metadata["name"])] = each
    return found


@unittest.skipUnless(shutil.which("kubectl"), "no kubectl here: tests/tools.sh says why")
class Manifests(unittest.TestCase):
    """What is applied to a cluster."""

    maxDiff = None

    def setUp(self):
        self.world = World()
        self.addCleanup(self.world.end)

    def switched_on(self, *names, without=None):
        """The kustomization with these of the parts that are comments in it, and without one of its resources."""
        directory = f"{self.world.directory('kustomize')}/all"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(KUBERNETES, directory)
        path = f"{directory}/kustomization.yaml"
        parts = "|".join(re.escape(name) for name in names)
        with open(path, encoding="utf-8") as file:
            text, count = re.subn(rf"(?m)^(\s*)#(\s*- ({parts})|patchesStrategicMerge:)$", r"\1\2", file.read())
        self.assertEqual(count, len(names) + 1)
        if without:
            text = text.replace(f"  - {without}\n", "")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return kustomized(directory)

    def test_helm_and_kustomize_make_the_same_objects(self):
        self.assertEqual(comparable(templated({})), comparable(kustomized()))
        objects = self.switched_on("podmonitor.yaml", "prometheusrule.yaml", "critical-quota.yaml",
                                   "critical.yaml")
        self.assertEqual(of_kind(objects, "DaemonSet")["spec"]["template"]["spec"]["priorityClassName"], "system-node-critical")
        values = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}, "critical": {"enabled": True}}
        self.assertEqual(comparable(templated(values)), comparable(objects))
        self.assertEqual({kind for kind, _ in comparable(objects)},
                         {"ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet", "NetworkPolicy", "PodMonitor",
                          "PriorityClass", "PrometheusRule", "ResourceQuota", "ServiceAccount"})
        without = self.switched_on("no-setup-node.yaml")
        self.assertNotIn("/etc/containerd", json.dumps(without))
        self.assertEqual(comparable(templated({"setupNode": {"enabled": False}})), comparable(without))

    def test_a_larder_that_never_came_up_does_not_go_unseen(self):
        directory = self.world.directory("alerts")
        with open(f"{KUBERNETES}/prometheusrule.yaml", encoding="utf-8") as file:
            rules = yaml.safe_load(file)["spec"]
        with open(f"{directory}/rules.yaml", "w", encoding="utf-8") as file:
            yaml.safe_dump(rules, file)
        shutil.copy(f"{ROOT}/tests/e2e/daemonset_alerts_test.yaml", directory)
        run("promtool", "check", "rules", f"{directory}/rules.yaml")
        run("promtool", "test", "rules", f"{directory}/daemonset_alerts_test.yaml")

    def test_the_limit_of_memory_holds_the_sum_of_what_the_daemon_may_have(self):
        with open(f"{ROOT}/docs/kubernetes.md", encoding="utf-8") as file:
            table = file.read().split("| At most, with the default settings | MiB |\n")[1].split("\n\n")[0]
        *rows, (together, total) = re.findall(r"(?m)^\| (.*) \| (\d+) \|$", table)
        self.assertEqual((together, sum(int(mib) for _, mib in rows)), ("Together", int(total)))
        for objects in (kustomized(), templated({})):
            container, = of_kind(objects, "DaemonSet")["spec"]["template"]["spec"]["containers"]
            limit = container["resources"]["limits"]["memory"]
            self.assertTrue(limit.endswith("Gi") and int(limit[:-2]) * 1024 > int(total) + 52, (limit, total))

    def test_the_alerts_that_the_page_has_for_the_operator_are_all_those_of_the_file(self):
        with open(f"{ROOT}/docs/kubernetes.md", encoding="utf-8") as file:
            command, = re.findall(r"(?ms)^```sh\n(\{ printf.*?)```$", file.read())
        self.assertTrue(command.endswith("| kubectl apply -f -\n"))
        made = subprocess.run(["sh", "-c", command.replace("kubectl apply -f -", "cat")], cwd=ROOT, check=True,
                              capture_output=True, text=True).stdout
        rule, = documents(made)
        self.assertEqual((rule["kind"], rule["metadata"]["namespace"]), ("PrometheusRule", "larder"))
        with open(f"{ROOT}/config/alerts.yaml", encoding="utf-8") as file:
            self.assertEqual(rule["spec"], yaml.safe_load(file))
        # Another object than the one of the kustomization and of the chart.
        self.assertNotEqual(rule["metadata"]["name"],
                            of_kind(templated({"prometheusRule": {"enabled": True}}), "PrometheusRule")["metadata"]["name"])

    def test_the_pods_have_no_more_rights_than_they_need_and_every_node_runs_the_same_bytes(self):
        objects = kustomized()
        daemonset = of_kind(objects, "DaemonSet")["spec"]
        pod = daemonset["template"]["spec"]
        self.assertEqual(daemonset["updateStrategy"]["rollingUpdate"], {"maxUnavailable": "10%", "maxSurge": 0})
        self.assertEqual(pod["nodeSelector"], {"kubernetes.io/os": "linux"})
        self.assertEqual(pod["tolerations"], [{"operator": "Exists"}], "every node, whatever its taints")
        self.assertNotIn("system", pod["priorityClassName"], "a class that a quota may forbid")
        self.assertFalse(pod["automountServiceAccountToken"])
        for container in pod["initContainers"] + pod["containers"]:
            self.assertRegex(container["image"], "@sha256:[0-9a-f]{64}$")
            self.assertIn("memory", container["resources"]["limits"])
            context = container["securityContext"]
            self.assertTrue(context["readOnlyRootFilesystem"])
            self.assertFalse(context["allowPrivilegeEscalation"])
            self.assertEqual(context["capabilities"]["drop"], ["ALL"])
            self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertNotIn("add", pod["initContainers"][0]["securityContext"]["capabilities"])
        labels = of_kind(objects, "Namespace")["metadata"]["labels"]
        self.assertEqual(labels["pod-security.kubernetes.io/enforce"], "privileged", "for the network of the node")
        # No other container sees the node's containerd.
        mounts = {container["name"]: [mount["name"] for mount in container["volumeMounts"]]
                  for container in pod["initContainers"] + pod["containers"]}
        self.assertEqual(mounts, {"setup-node": ["config", "containerd"], "larder": ["config", "state", "run", "token"]})

    def test_helm_and_kustomize_let_each_identity_see_the_same(self):
        """What each variant may ask of the API server, and whose credential its container sees."""
        def granted(objects):
            return sorted((resource, verb) for each in objects if each["kind"] == "ClusterRole"
                          for rule in each["rules"] for resource in rule["resources"] for verb in rule["verbs"])

        def volumes(objects):
            return {volume["name"] for volume in of_kind(objects, "DaemonSet")["spec"]["template"]["spec"]["volumes"]}

        pods = [("nodes", "get"), ("pods", "list"), ("pods", "watch")]
        for identity, parts, without, rights, seen in (
            ("serviceAccount", (), False, pods, {"token"}),
            ("serviceAccountWithSecrets", ("pods-secrets-rbac.yaml", "pods-secrets.yaml"), False,
             [*pods, ("secrets", "get")], {"token"}),
            ("kubelet", ("pods-kubelet.yaml",), True, [], {"kubelet-conf", "kubelet-pki"}),
            ("none", ("no-pods.yaml",), True, [], set()),
        ):
            rendered = self.switched_on(*parts, without="pods-rbac.yaml" if without else None) if parts else kustomized()
            self.assertEqual(comparable(templated({"podWatch": {"identity": identity}})), comparable(rendered), identity)
            self.assertEqual(granted(rendered), sorted(rights), identity)
            self.assertEqual(volumes(rendered) & {"token", "kubelet-conf", "kubelet-pki"}, seen, identity)
            for each in rendered:
                if each["kind"] == "ClusterRoleBinding":
                    self.assertEqual(each["subjects"], [{"kind": "ServiceAccount", "name": "larder", "namespace": "larder"}])

    def test_kubelets_list_of_pods_is_where_larder_looks_for_it_and_is_mounted_only_where_it_is_wanted(self):
        for identity, parts, without in (("serviceAccount", ("pods-api.yaml",), None),
                                         ("kubelet", ("pods-kubelet.yaml", "pods-api.yaml"), "pods-rbac.yaml")):
            rendered = self.switched_on(*parts, without=without)
            values = {"podWatch": {"identity": identity, "podsApi": {"enabled": True}}}
            self.assertEqual(comparable(templated(values)), comparable(rendered), identity)
            pod = of_kind(rendered, "DaemonSet")["spec"]["template"]["spec"]
            directory = "/var/lib/kubelet/pods-api"
            # Not a file: kubelet makes the socket anew. Larder's default: `config::section::kubernetes::tests`.
            self.assertIn({"name": "pods-api", "hostPath": {"path": directory, "type": "Directory"}}, pod["volumes"])
            self.assertIn({"name": "pods-api", "mountPath": directory, "readOnly": True},
                          pod["containers"][0]["volumeMounts"])
            self.assertNotIn("pods-api", json.dumps(pod["initContainers"]))
        for objects in (kustomized(), templated({}), templated({"podWatch": {"identity": "none", "podsApi": {"enabled": True}}})):
            self.assertNotIn("pods-api", json.dumps(objects))

    def test_the_files_of_the_tier_are_roots_alone_and_only_the_daemon_sees_them(self):
        rendered = self.switched_on("tier.yaml")
        self.assertEqual(comparable(templated({"tier": {"secretName": "larder-tier"}})), comparable(rendered))
        pod = of_kind(rendered, "DaemonSet")["spec"]["template"]["spec"]
        # Larder refuses a file that its group can change or others can read (`support::secret_file`).
        self.assertIn({"name": "tier", "secret": {"secretName": "larder-tier", "defaultMode": 0o400}}, pod["volumes"])
        self.assertEqual([container["name"] for container in pod["initContainers"] + pod["containers"]
                          if "tier" in json.dumps(container)], ["larder"])
        for objects in (kustomized(), templated({})):
            self.assertNotIn("larder-tier", json.dumps(of_kind(objects, "DaemonSet")))
        role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/larder"}
        objects = templated({"tier": {"env": {"AWS_REGION": "eu-central-1"}, "envSecretName": "keys"},
                             "serviceAccount": {"annotations": role}, "podLabels": {"azure.workload.identity/use": "true"},
                             "podWatch": {"identity": "none"}})
        self.assertEqual(of_kind(objects, "ServiceAccount")["metadata"]["annotations"], role)
        template = of_kind(objects, "DaemonSet")["spec"]["template"]
        self.assertEqual(template["metadata"]["labels"]["azure.workload.identity/use"], "true")
        daemon = template["spec"]["containers"][0]
        self.assertEqual(daemon["env"], [{"name": "AWS_REGION", "value": "eu-central-1"}])
        self.assertEqual(daemon["envFrom"], [{"secretRef": {"name": "keys"}}])

    def test_the_gate_is_seen_by_the_daemon_and_by_what_writes_it_into_the_nodes_hosts_toml(self):
        rendered = self.switched_on("gate.yaml")
        self.assertEqual(comparable(templated({"gate": {"secretName": "larder-gate"}})), comparable(rendered))
        pod = of_kind(rendered, "DaemonSet")["spec"]["template"]["spec"]
        self.assertIn({"name": "gate", "secret": {"secretName": "larder-gate", "defaultMode": 0o400}}, pod["volumes"])
        for container in pod["initContainers"] + pod["containers"]:
            self.assertIn({"name": "gate", "mountPath": "/etc/larder-gate", "readOnly": True}, container["volumeMounts"])
        # Without the init container the daemon has it all the same.
        without = self.switched_on("gate.yaml", "no-setup-node.yaml")
        values = {"gate": {"secretName": "larder-gate"}, "setupNode": {"enabled": False}}
        self.assertEqual(comparable(templated(values)), comparable(without))
        for objects in (kustomized(), templated({}), templated({"gate": None})):
            self.assertNotIn("larder-gate", json.dumps(of_kind(objects, "DaemonSet")))

    def test_behind_a_proxy_the_daemon_is_told_of_it(self):
        rendered = self.switched_on("proxy.yaml")
        proxy = {"HTTPS_PROXY": "http://proxy.example.com:3128", "NO_PROXY": ".example.com"}
        values = {"env": proxy, "tier": {"env": {"AWS_REGION": "eu-central-1"}}}
        for objects, more in ((rendered, {}), (templated(values), {"AWS_REGION": "eu-central-1"})):
            daemon = of_kind(objects, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]
            found = {each["name"]: each.get("value") for each in daemon["env"] if not each["name"].startswith("LARDER_")}
            self.assertEqual(found, {**proxy, **more})

    def test_the_policy_isolates_no_pod_but_those_of_larder(self):
        for objects in (kustomized(), templated({})):
            selector = of_kind(objects, "NetworkPolicy")["spec"]["podSelector"]
            # An empty one is every pod of the namespace, which may be kube-system.
            self.assertEqual(selector, {"matchLabels": {"app.kubernetes.io/name": "larder"}})
            labels = of_kind(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
            self.assertEqual(labels["app.kubernetes.io/name"], "larder")

    def test_a_removal_changes_what_the_init_container_does_and_nothing_else(self):
        before = of_kind(kustomized(), "DaemonSet")
        with open(f"{self.world.directory('removal')}/daemonset.json", "w", encoding="utf-8") as file:
            json.dump(before, file)
        patched = json.loads(run("kubectl", "patch", "--local", "-f", file.name, "-o", "json", "--patch-file",
                                 f"{KUBERNETES}/unwire.yaml"))
        arguments = before["spec"]["template"]["spec"]["initContainers"][0]["args"]
        before["spec"]["template"]["spec"]["initContainers"][0]["args"] = [*arguments, "--undo"]
        self.assertEqual(patched, before)
        undone = of_kind(templated({"setupNode": {"undo": True}}), "DaemonSet")
        self.assertEqual(comparable([undone]), comparable([before]))

    def test_values_that_would_make_a_broken_deployment_are_refused(self):
        config = of_kind(templated({}), "ConfigMap")["data"]["larder.toml"]
        for values, part in (
            ({"image": {"digest": ""}}, "/image/digest"),
            ({"image": {"digest": "v1"}}, "/image/digest"),
            ({"imagee": {}}, "imagee"),
            ({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}, "maxSurge"),
            ({"priorityClass": {"value": 2000000000}}, "/priorityClass/value"),
            ({"ports": {"admin": 5051}}, "ports.admin"),
            ({"statePath": "var/lib/larder"}, "/statePath"),
            ({"podWatch": {"identity": "admin"}}, "/podWatch/identity"),
            ({"config": config.replace(':506"', ':507"') + '[server.other]\nlisten = "127.0.0.1:506"\n'}, "ports.admin"),
            ({"config": config.replace('state = "/var/lib/larder"', "state = '/data'")}, "[server] state"),
            ({"config": config.replace("/run/larder/", "/run/other/")}, "[admin] socket"),
            ({"config": config + '[store]\npath = "/data"\n'}, "[store] path"),
            ({"config": config.replace("[server]\n", '[server]\ndrain_wait = "5m"\n', 1)}, "[server] drain_wait"),
            ({"config": config.replace("[server]\n", '[server]\ndrain_wait = "1min 1s"\n', 1), "terminationGracePeriodSeconds": 75},
             "terminationGracePeriodSeconds"),
            ({"terminationGracePeriodSeconds": 5}, "/terminationGracePeriodSeconds"),
            ({"terminationGracePeriodSeconds": 20}, "terminationGracePeriodSeconds"),
            ({"tier": {"env": {"AWS_REGION": 1}}}, "/tier/env/AWS_REGION"),
            ({"env": {"NO_PROXY": ["a"]}}, "/env/NO_PROXY"),
        ):
            with self.assertRaises(Exception) as refused:
                templated(values)
            self.assertIn(part, str(refused.exception))

    def test_values_of_an_older_release_leave_pods_the_time_to_end(self):
        # As `helm upgrade --reuse-values` renders a chart that has a new value.
        pod = of_kind(templated({"terminationGracePeriodSeconds": None}), "DaemonSet")["spec"]["template"]["spec"]
        self.assertEqual(pod["terminationGracePeriodSeconds"], 45)

    def test_values_that_say_the_same_in_another_way_are_taken(self):
        config = of_kind(templated({}), "ConfigMap")["data"]["larder.toml"]
        for text in (config.replace('"127.0.0.1:506"', "'127.0.0.1:506'"),
                     config.replace('listen = "127.0.0.1:506"\n', "") .replace("[server]", 'admin.listen = "127.0.0.1:506"\n[server]', 1),
                     config.replace('state = "/var/lib/larder"\n', ""),
                     config.replace('state = "/var/lib/larder"', 'state = "/var/lib/larder/of-this-cluster"')):
            self.assertNotEqual(text, config)
            templated({"config": text})
        for drain_wait, seconds in (("5m", 315), ("1min 1s", 76), ("500ms", 16), ("1h", 3615)):
            longer = config.replace("[server]\n", f'[server]\ndrain_wait = "{drain_wait}"\n', 1)
            made = of_kind(templated({"config": longer, "terminationGracePeriodSeconds": seconds}), "DaemonSet")
            self.assertEqual(made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], seconds)

    def test_what_scrapes_by_annotations_finds_the_port_and_no_class_is_named_that_is_not_there(self):
        config = of_kind(templated({}), "ConfigMap")["data"]["larder.toml"]

        def pods(values):
            return of_kind(templated(values), "DaemonSet")["spec"]["template"]

        moved = {"config": config.replace(":5052", ":9100"), "ports": {"admin": 506, "metrics": 9100}}
        self.assertEqual(pods(moved)["metadata"]["annotations"]["prometheus.io/port"], "9100")
        self.assertNotIn("prometheus.io/port", pods({"podAnnotations": {"prometheus.io/scrape": None}})["metadata"]["annotations"])
        self.assertNotIn("priorityClassName", pods({"priorityClass": {"create": False}})["spec"])
        theirs = {"priorityClass": {"create": False, "name": "theirs"}}
        self.assertEqual(pods(theirs)["spec"]["priorityClassName"], "theirs")

    def test_the_chart_passes_helms_own_check_and_says_what_to_look_at(self):
        found = helm().lint(CHART, values={"image": {"digest": DIGEST}})
        self.assertEqual(found["errors"], [])
        with helm().Chart.load(CHART) as chart:
            values = {"image": {"digest": DIGEST}}
            notes = chart.render(values, name="larder", namespace="larder")["larder/templates/NOTES.txt"]
            self.assertIn("rollout status", notes)
            self.assertIn("initContainerStatuses", notes)
            values["setupNode"] = {"undo": True}
            notes = chart.render(values, name="larder", namespace="larder")["larder/templates/NOTES.txt"]
            self.assertIn("uninstall", notes)
            self.assertIn("rollout status", notes)
            # kubectl refuses to wait for it, and no pod is replaced by itself.
            values["updateStrategy"] = {"type": "OnDelete", "rollingUpdate": None}
            notes = chart.render(values, name="larder", namespace="larder")["larder/templates/NOTES.txt"]
            self.assertNotIn("rollout status", notes)
            self.assertIn("delete pod -l app.kubernetes.io/name=larder", notes)
