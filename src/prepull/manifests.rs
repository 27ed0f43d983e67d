//! Images in Kubernetes manifests: every `image:` of every container of every kind, image volumes, and the pull secrets
//! beside them.
//!
//! A document of any kind is searched for pod specifications, so that Deployments, CronJobs, Lists and kinds of others
//! are found alike. `imagePullSecrets` are looked up among the Secrets that were read with them, in the same namespace;
//! one that is not there is passed over, as kubelet does. A pod that names none has those of its service account, as
//! the API server's admission gives them to it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::reference::Image;
use crate::support::directory::{self, Entry};
use crate::support::open_file::{self, FILE_BYTES_MAX, read_regular};
use crate::support::yaml;

/// Directories within directories at most.
const DEPTH_MAX: usize = 8;
/// The lists of a pod specification that have images in them.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Manifests that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct ManifestsError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub why: String,
}

/// An image, and the pull secrets of its pod.
#[derive(Debug, Clone)]
pub struct Found {
    /// The image.
    pub image: Image,
    /// The pull secrets of its pod that were there, in their order.
    pub secrets: Vec<FoundSecret>,
}

/// A Secret as it was read.
#[derive(Clone)]
pub struct FoundSecret {
    /// The file that it is from.
    pub path: PathBuf,
    /// The document, as JSON.
    pub content: String,
}

impl std::fmt::Debug for FoundSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FoundSecret({})", self.path.display())
    }
}

/// The documents that were read.
#[derive(Default)]
struct Manifests {
    pods: Vec<Pod>,
    secrets: Vec<Secret>,
    /// The pull secrets of service accounts, by namespace and name.
    accounts: HashMap<(String, String), Vec<String>>,
}

/// The images and pull secrets of a pod specification.
struct Pod {
    namespace: String,
    images: Vec<(String, PathBuf)>,
    secrets: Vec<String>,
    account: String,
}

/// A Secret, whatever its type.
struct Secret {
    namespace: String,
    name: String,
    document: Value,
    path: PathBuf,
}

/// Reads a file, or every YAML and JSON file in a directory and its own directories. What cannot be used (a file, a
/// document, an image name) stops nothing else, and is told beside it.
pub fn read_each(path: &Path) -> (Vec<Found>, Vec<ManifestsError>) {
    let failed = |path: &Path, why: String| ManifestsError { path: path.to_owned(), why };
    let files = match directory::files(path, DEPTH_MAX, is_ours) {
        Ok(files) => files,
        Err(error) => return (Vec::new(), vec![failed(path, error.to_string())]),
    };
    let (mut manifests, mut problems) = (Manifests::default(), Vec::new());
    for file in &files {
        let text = match text(file) {
            Ok(text) => text,
            Err(why) => {
                problems.push(failed(file, why));
                continue;
            }
        };
        for document in yaml::each_document::<Value>(&text) {
            match document {
                Ok(document) => manifests.add(&document, file),
                Err(at) => problems.push(failed(file, format!("{at}: not YAML"))),
            }
        }
    }
    let mut found = Vec::new();
    for pod in &manifests.pods {
        let own = manifests.secrets_of(pod);
        for (text, path) in &pod.images {
            match text.parse() {
                Ok(image) => found.push(Found { image, secrets: own.clone() }),
                Err(error) => problems.push(failed(path, format!("image {text:?}: {error}"))),
            }
        }
    }
    (found, problems)
}

fn text(file: &Path) -> Result<String, String> {
    let content = read_regular(file, FILE_BYTES_MAX).map_err(|e| e.to_string())?;
    let content = content.ok_or_else(|| "it is no regular file".to_owned())?;
    open_file::text(content).map_err(|e| e.to_string())
}

/// Whether an entry of a directory is read: hidden names are passed over, and files without an extension of manifests.
fn is_ours(entry: Entry<'_>) -> bool {
    match entry {
        Entry::File(name) => {
            let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
            !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json"))
        }
        Entry::Directory(name) => !name.starts_with('.'),
    }
}

impl Manifests {
    /// Adds the pods, Secrets and service accounts of a document; the items of a List one by one.
    fn add(&mut self, document: &Value, path: &Path) {
        let Value::Object(object) = document else { return };
        let kind = text_of(object, "kind").unwrap_or_default();
        if let (true, Some(Value::Array(items))) = (kind.ends_with("List"), object.get("items")) {
            return items.iter().for_each(|item| self.add(item, path));
        }
        let metadata = object.get("metadata").and_then(Value::as_object);
        let of_metadata = |key| metadata.and_then(|m| text_of(m, key));
        let namespace = of_metadata("namespace").unwrap_or("default").to_owned();
        let name = of_metadata("name").unwrap_or_default().to_owned();
        match kind {
            "Secret" => {
                self.secrets.push(Secret {
                    namespace,
                    name,
                    document: document.clone(),
                    path: path.to_owned(),
                });
            }
            "ServiceAccount" => drop(self.accounts.insert((namespace, name), pull_secrets(object))),
            _ => self.search(document, &namespace, path),
        }
    }

    /// Adds the pods of a document: every object that has containers is a pod specification, wherever it is.
    fn search(&mut self, value: &Value, namespace: &str, path: &Path) {
        match value {
            Value::Array(all) => all.iter().for_each(|value| self.search(value, namespace, path)),
            Value::Object(object) => {
                let images: Vec<_> =
                    images(object).map(|image| (image.to_owned(), path.to_owned())).collect();
                if !images.is_empty() {
                    // The API server takes the older name where the other is missing or empty.
                    let account = ["serviceAccountName", "serviceAccount"].into_iter();
                    let mut named = account.filter_map(|key| text_of(object, key));
                    let account = named.find(|name| !name.is_empty()).unwrap_or("default").to_owned();
                    let (namespace, secrets) = (namespace.to_owned(), pull_secrets(object));
                    self.pods.push(Pod { namespace, images, secrets, account });
                }
                object.values().for_each(|value| self.search(value, namespace, path));
            }
            _ => {}
        }
    }

    /// The pull secrets of a pod that are here, in its order.
    fn secrets_of(&self, pod: &Pod) -> Vec<FoundSecret> {
        let of_account = self.accounts.get(&(pod.namespace.clone(), pod.account.clone()));
        let names = if pod.secrets.is_empty() { of_account } else { Some(&pod.secrets) };
        let find = |name: &String| {
            let mut all = self.secrets.iter();
            let secret = all.find(|secret| secret.name == *name && secret.namespace == pod.namespace)?;
            Some(FoundSecret { path: secret.path.clone(), content: secret.document.to_string() })
        };
        names.into_iter().flatten().filter_map(find).collect()
    }
}

/// The images of a pod specification: of its containers, then of its volumes (`volumes[].image.reference`).
fn images(spec: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let entries = |key: &str| spec.get(key).and_then(Value::as_array).into_iter().flatten();
    let containers = CONTAINERS.iter().flat_map(move |key| entries(key));
    let of_containers = containers.filter_map(|container| text_of(container.as_object()?, "image"));
    let of_volumes =
        entries("volumes").filter_map(|volume| text_of(volume.get("image")?.as_object()?, "reference"));
    of_containers.chain(of_volumes).filter(|image| !image.is_empty())
}

fn pull_secrets(object: &Map<String, Value>) -> Vec<String> {
    let named = object.get("imagePullSecrets").and_then(Value::as_array).into_iter().flatten();
    named.filter_map(|entry| text_of(entry.as_object()?, "name")).map(str::to_owned).collect()
}

fn text_of<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MANIFESTS: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    spec:
      imagePullSecrets: [{name: corp}, {name: missing}]
      initContainers: [{name: i, image: "busybox"}]
      containers:
      - {name: a, image: "registry.corp/team/app:v1"}
      - {name: b, image: "registry.corp/team/app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}
      volumes:
      - {name: v, image: {reference: "registry.corp/team/data:v1"}}
      - {name: w, emptyDir: {}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: builder, namespace: shop}
imagePullSecrets: [{name: corp}]
---
apiVersion: v1
kind: Pod
metadata: {name: of-an-account, namespace: shop}
spec: {serviceAccountName: builder, containers: [{image: "registry.corp/build"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: of-an-account-by-its-older-name, namespace: shop}
spec: {serviceAccountName: "", serviceAccount: builder, containers: [{image: "registry.corp/old"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: of-another, namespace: shop}
spec: {containers: [{image: "registry.corp/other"}]}
---
apiVersion: v1
kind: Secret
metadata: {name: corp, namespace: shop}
type: kubernetes.io/dockerconfigjson
stringData: {".dockerconfigjson": '{"auths":{"registry.corp":{"username":"ann","password":"p"}}}'}
---
apiVersion: v1
kind: List
items:
- kind: Pod
  metadata: {name: p}
  spec:
    imagePullSecrets: [{name: corp}]
    ephemeralContainers: [{image: "registry.corp/debug"}]
    containers: []
- kind: Whatever.example.com
  spec: {jobs: [{podTemplate: {spec: {containers: [{image: quay.io/deep/er}]}}}]}
---
# nothing
"#;

    #[test]
    fn every_image_of_every_kind_is_found_with_its_pods_secrets() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("more")).unwrap();
        fs::write(directory.path().join("more/all.yaml"), MANIFESTS).unwrap();
        fs::write(directory.path().join("cron.json"), r#"{"kind":"CronJob","spec":{"jobTemplate":{"spec":{"template":{"spec":{"containers":[{"image":"cron"}]}}}}}}"#).unwrap();
        fs::write(directory.path().join("README.md"), "containers: [").unwrap();
        fs::write(directory.path().join(".hidden.yaml"), "containers: [").unwrap();
        let (found, problems) = read_each(directory.path());
        assert!(problems.is_empty(), "{problems:?}");
        let names: Vec<String> = found.iter().map(|f| f.image.to_string()).collect();
        assert_eq!(
            names,
            [
                "docker.io/library/cron:latest",
                "docker.io/library/busybox:latest",
                "registry.corp/team/app:v1",
                "registry.corp/team/app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "registry.corp/team/data:v1",
                "registry.corp/build:latest",
                "registry.corp/old:latest",
                "registry.corp/other:latest",
                "registry.corp/debug:latest",
                "quay.io/deep/er:latest",
            ]
        );
        let given: Vec<usize> = found.iter().map(|f| f.secrets.len()).collect();
        // The other pod is in another namespace, and its secret of the same name is not there.
        assert_eq!(given, [0, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
        assert!(found[1].secrets[0].content.contains(".dockerconfigjson"));
        assert!(!format!("{found:?}").contains("auths"), "no secret is shown");
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.yaml");
        for (text, part) in
            [("a: [", "x.yaml"), ("spec: {containers: [{image: \"some/Case\"}]}", "some/Case")]
        {
            fs::write(&file, text).unwrap();
            let error = read_each(&file).1.remove(0).to_string();
            assert!(error.contains(part) && error.contains("x.yaml"), "{error}");
        }
        assert_eq!(read_each(&directory.path().join("missing")).1.len(), 1);
    }

    #[test]
    fn one_bad_document_stops_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let pod = |image: &str| format!("kind: Pod\nspec: {{containers: [{{image: {image}}}]}}\n");
        let all = [&pod("a"), "kind: [\n", &pod("some/Case"), &pod("b")].map(str::to_owned).join("---\n");
        fs::write(directory.path().join("1.yaml"), all).unwrap();
        fs::write(directory.path().join("2.yaml"), [0xff, 0xfe]).unwrap();
        fs::write(directory.path().join("3.yaml"), pod("c")).unwrap();
        let (found, problems) = read_each(directory.path());
        let names: Vec<String> = found.iter().map(|found| found.image.to_string()).collect();
        assert_eq!(names, ["a", "b", "c"].map(|name| format!("docker.io/library/{name}:latest")));
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems.iter().any(|p| p.contains("1.yaml") && p.contains("not YAML")), "{problems:?}");
        assert!(
            problems.iter().any(|p| p.contains("some/Case")) && problems.iter().any(|p| p.contains("2.yaml"))
        );
    }
}
