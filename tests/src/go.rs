//! Programs in Go: what stands in `tests/peers`, built once for each version of its sources and kept outside the tree.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::apps::Checksum;
use crate::otelcol::{cache_dir, find_go};

/// A program of a module.
pub(crate) struct GoProgram {
    /// Its name.
    pub(crate) name: &'static str,
    /// All files of its module: names and texts.
    pub(crate) sources: &'static [(&'static str, &'static str)],
    /// What to build in it.
    pub(crate) package: &'static str,
}

const GRPC: &[(&str, &str)] = &[
    ("go.mod", include_str!("../peers/grpc/go.mod")),
    ("go.sum", include_str!("../peers/grpc/go.sum")),
    ("main.go", include_str!("../peers/grpc/main.go")),
];

/// gRPC's own test service with reflection and health: `PROGRAM <port>`. It writes `listening`.
///
/// # Errors
/// It is not there and cannot be built, for example because Go is not installed.
pub fn grpc_peer() -> Result<String> {
    GoProgram { name: "grpcpeer", sources: GRPC, package: "." }.ensure()
}

/// grpcurl.
///
/// # Errors
/// As [`grpc_peer`].
pub fn grpcurl() -> Result<String> {
    GoProgram { name: "grpcurl", sources: GRPC, package: "github.com/fullstorydev/grpcurl/cmd/grpcurl" }
        .ensure()
}

impl GoProgram {
    /// Where the program is, built first where it is not there.
    pub(crate) fn ensure(&self) -> Result<String> {
        let Self { name, sources, package } = self;
        let mut sum = Checksum::default();
        for (_, text) in *sources {
            sum.add(text.as_bytes());
        }
        let dir = cache_dir()?.join(format!("go-{name}-{:x}", sum.value()));
        let binary = dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        // Several tests may want it at once: the first builds, the others wait.
        let lock = File::create(dir.join("lock")).context("creating a lock file")?;
        flock(&lock, FlockOperation::LockExclusive).context("waiting for another build")?;
        if !binary.is_file() {
            for (file, text) in *sources {
                fs::write(dir.join(file), text).with_context(|| format!("writing {file}"))?;
            }
            let go = find_go().with_context(|| {
                format!("no Go to build {name} with: install Go 1.26 (https://go.dev/dl), or run `cargo xtask test`, which brings one")
            })?;
            let output = Command::new(go)
                .args(["build", "-mod=readonly", "-buildvcs=false", "-o", "new", package])
                .env("CGO_ENABLED", "0")
                .current_dir(&dir)
                .stdin(Stdio::null())
                .output()
                .context("running go")?;
            if !output.status.success() {
                bail!("{name} did not build: {}", String::from_utf8_lossy(&output.stderr));
            }
            // In one step: a build that was interrupted leaves no binary.
            fs::rename(dir.join("new"), &binary).with_context(|| format!("keeping {name}"))?;
        }
        Ok(binary.display().to_string())
    }
}
