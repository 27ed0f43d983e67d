//! SeaweedFS with its S3, on loopback.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::daemon::free;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/seaweedfs/bin/weed");

/// A running object store.
pub(crate) struct Store {
    process: Child,
    address: String,
    directory: tempfile::TempDir,
}

impl Store {
    pub(crate) fn start() -> Self {
        assert!(Path::new(PROGRAM).exists(), "SeaweedFS is missing: run tests/tools.sh --bench");
        let directory = tempfile::tempdir().unwrap();
        let identities = r#"{"identities":[{"name":"bench","credentials":[{"accessKey":"bench","secretKey":"bench-secret"}],"actions":["Admin","Read","Write","List"]}]}"#;
        fs::write(directory.path().join("s3.json"), identities).unwrap();
        let (key, text) = (
            directory.path().join("tier.key"),
            "[default]\naws_access_key_id = bench\naws_secret_access_key = bench-secret\n",
        );
        fs::write(&key, text).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let port = || {
            // Its second port for each service is 10,000 higher.
            loop {
                let port: u16 = free().rsplit(':').next().unwrap().parse().unwrap();
                if port < 55_000 {
                    return port;
                }
            }
        };
        let (s3, filer) = (port(), port());
        let mut command = Command::new(PROGRAM);
        command.arg("server").arg(format!("-dir={}", directory.path().display()));
        command.arg(format!("-s3.config={}", directory.path().join("s3.json").display()));
        command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.port.iceberg=0"]);
        command.args(["-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=16"]);
        command.args(["-volume.preStopSeconds=0", "-metricsPort=0"]).arg(format!("-s3.port={s3}"));
        for (name, port) in [("master", port()), ("volume", port()), ("filer", filer)] {
            command.arg(format!("-{name}.port={port}"));
        }
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let store = Self { process, address: format!("127.0.0.1:{s3}"), directory };
        let until = Instant::now() + Duration::from_secs(60);
        // A bucket is a directory of the filer. The ports are open before the volumes are known.
        while TcpStream::connect(&store.address).is_err()
            || !made(&format!("127.0.0.1:{filer}"), "/buckets/bench/")
        {
            assert!(Instant::now() < until, "SeaweedFS does not start");
            std::thread::sleep(Duration::from_millis(200));
        }
        std::thread::sleep(Duration::from_secs(5));
        store
    }

    /// The section of a node's configuration.
    pub(crate) fn section(&self) -> String {
        format!(
            "[tier]\nurl = \"s3://bench/tier\"\nendpoint = \"http://{}\"\nregion = \"us-east-1\"\npath_style = true\nregistries = [\"reg.test\"]\nkey_file = \"{}\"\n",
            self.address,
            self.directory.path().join("tier.key").display()
        )
    }
}

/// Whether the filer has made a directory.
fn made(filer: &str, path: &str) -> bool {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(filer)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {filer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    asked().is_ok_and(|answer| answer.starts_with("HTTP/1.1 2"))
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
