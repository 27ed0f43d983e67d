//! Objects as a real server prints them, with the fields that nothing here reads: clients have to cope with those.

use serde_json::{Value, json};

/// A pod that is bound to a node.
#[derive(Clone)]
pub struct Pod(Value);

impl Pod {
    /// A pod of this namespace on this node, without containers.
    pub fn new(namespace: &str, name: &str, node: &str) -> Self {
        let uid = uid(namespace, name);
        Self(json!({
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {
                "name": name, "namespace": namespace, "uid": uid, "generation": 1,
                "creationTimestamp": "2026-11-27T08:00:00Z",
                "labels": {"app": name, "pod-template-hash": "6d4cf56db6"},
                "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-11-27T07:59:00Z"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-6d4cf56db6"),
                    "uid": "5a4b0b4e-9a3e-4a0c-8a8c-0e8a3c1d2f10", "controller": true, "blockOwnerDeletion": true}],
                "managedFields": managed_fields(),
            },
            "spec": {
                "volumes": [{"name": "kube-api-access-x2x7v", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}],
                "containers": [],
                "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
                "serviceAccountName": "default", "serviceAccount": "default", "nodeName": node,
                "securityContext": {}, "schedulerName": "default-scheduler",
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": 300}],
                "priority": 0, "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
            },
            "status": {
                "phase": "Pending", "qosClass": "BestEffort",
                "conditions": [{"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                    "lastTransitionTime": "2026-11-27T08:00:00Z"}],
            },
        }))
    }

    fn container(name: String, image: &str, policy: Option<&str>) -> Value {
        let mut container = json!({
            "name": name, "image": image, "resources": {},
            "volumeMounts": [{"name": "kube-api-access-x2x7v", "readOnly": true,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        });
        if let Some(policy) = policy {
            container["imagePullPolicy"] = json!(policy);
        }
        container
    }

    fn push(mut self, list: &str, image: &str, policy: Option<&str>) -> Self {
        let place = &mut self.0["spec"][list];
        if place.is_null() {
            *place = json!([]);
        }
        let place = place.as_array_mut().unwrap();
        place.push(Self::container(format!("{}-{}", list.to_lowercase(), place.len()), image, policy));
        self
    }

    /// One more container of this image with the policy `IfNotPresent`.
    pub fn image(self, image: &str) -> Self {
        self.push("containers", image, Some("IfNotPresent"))
    }

    pub fn image_with(self, image: &str, policy: &str) -> Self {
        self.push("containers", image, Some(policy))
    }

    pub fn init(self, image: &str) -> Self {
        self.push("initContainers", image, Some("IfNotPresent"))
    }

    pub fn ephemeral(self, image: &str) -> Self {
        self.push("ephemeralContainers", image, Some("IfNotPresent"))
    }

    pub fn image_volume(mut self, image: &str) -> Self {
        let volumes = self.0["spec"]["volumes"].as_array_mut().unwrap();
        let name = format!("volume-{}", volumes.len());
        volumes.push(json!({"name": name, "image": {"reference": image, "pullPolicy": "IfNotPresent"}}));
        self
    }

    /// One more pull secret of the pod's namespace.
    pub fn pull_secret(mut self, name: &str) -> Self {
        let secrets = &mut self.0["spec"]["imagePullSecrets"];
        if secrets.is_null() {
            *secrets = json!([]);
        }
        secrets.as_array_mut().unwrap().push(json!({"name": name}));
        self
    }

    pub fn priority(mut self, priority: i32) -> Self {
        self.0["spec"]["priority"] = json!(priority);
        self
    }

    /// Every container runs.
    pub fn running(mut self) -> Self {
        run(&mut self.0);
        self
    }

    pub fn with(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        edit(&mut self.0);
        self
    }
}

impl From<Pod> for Value {
    fn from(pod: Pod) -> Self {
        pod.0
    }
}

/// Makes every container of a pod run.
pub fn run(pod: &mut Value) {
    let state = |container: &Value| {
        json!({"name": container["name"], "image": container["image"], "imageID": "", "ready": true, "restartCount": 0,
            "started": true, "containerID": "containerd://4c0f", "lastState": {},
            "state": {"running": {"startedAt": "2026-11-27T08:00:05Z"}}})
    };
    for (list, status) in [
        ("containers", "containerStatuses"),
        ("initContainers", "initContainerStatuses"),
        ("ephemeralContainers", "ephemeralContainerStatuses"),
    ] {
        if let Some(containers) = pod["spec"][list].as_array() {
            pod["status"][status] = containers.iter().map(state).collect();
        }
    }
    pod["status"]["phase"] = json!("Running");
}

/// A pod's containers wait for this reason, as in a crash loop: `ImagePullBackOff`, `CrashLoopBackOff`.
pub fn wait(pod: &mut Value, reason: &str, restarts: u32) {
    let state = |container: &Value| {
        json!({"name": container["name"], "image": container["image"], "imageID": "", "ready": false,
            "restartCount": restarts, "started": false, "lastState": {},
            "state": {"waiting": {"reason": reason, "message": "Back-off"}}})
    };
    pod["status"]["containerStatuses"] =
        pod["spec"]["containers"].as_array().unwrap().iter().map(state).collect();
}

/// A pull secret of the newer type with one account of one registry.
pub fn pull_secret(namespace: &str, name: &str, registry: &str, (user, password): (&str, &str)) -> Value {
    let config = json!({"auths": {registry: {"username": user, "password": password}}}).to_string();
    secret(namespace, name, "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &config)
}

/// A secret with one entry.
pub fn secret(namespace: &str, name: &str, kind: &str, key: &str, text: &str) -> Value {
    use base64::Engine;
    let data = base64::engine::general_purpose::STANDARD.encode(text);
    json!({
        "kind": "Secret", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "uid": uid(namespace, name), "resourceVersion": "900",
            "creationTimestamp": "2026-11-27T07:00:00Z", "managedFields": managed_fields()},
        "data": {key: data},
        "type": kind,
    })
}

/// A node whose status lists these images.
pub fn node(name: &str, images: &[&str]) -> Value {
    let images: Vec<_> =
        images.iter().map(|image| json!({"names": [image], "sizeBytes": 12_345_678})).collect();
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": name, "uid": uid("", name), "resourceVersion": "901",
            "creationTimestamp": "2026-11-26T08:00:00Z",
            "labels": {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": name},
            "managedFields": managed_fields()},
        "spec": {"podCIDR": "10.244.0.0/24"},
        "status": {"capacity": {"pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux",
                "containerRuntimeVersion": "containerd://2.3.4", "kubeletVersion": "v1.36.2"},
            "images": images},
    })
}

/// A service account with annotations.
pub fn service_account(namespace: &str, name: &str, annotations: Value) -> Value {
    json!({"kind": "ServiceAccount", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "uid": uid(namespace, name), "annotations": annotations}})
}

/// A `Status`, the body of every refusal.
pub fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code})
}

/// The namespace and name of an object.
pub(super) fn key(object: &Value) -> (String, String) {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn managed_fields() -> Value {
    json!([{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
        "time": "2026-11-27T08:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {".": {}, "f:image": {}}}}}}])
}

/// The same for the same name, so that a pod that is put again is the same pod.
fn uid(namespace: &str, name: &str) -> String {
    let digest = larder::reference::Digest::of(format!("{namespace}/{name}").as_bytes()).to_string();
    let hex = digest.split_once(':').unwrap().1;
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[12..15], &hex[15..18], &hex[18..30])
}
