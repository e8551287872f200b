//! The programs that a cluster is made of and that no Debian package has: built by Go from the modules in
//! `tests/cluster/parts`.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::go::{self, Part};

/// The version of Kubernetes, as in the module's `go.mod`.
pub(crate) const KUBERNETES: &str = "v1.36.3";
/// What Kubernetes is called by.
const COMPONENTS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

const PARTS: &[Part] = &[
    Part {
        name: "kubernetes",
        module: "tests/cluster/parts/kubernetes",
        package: ".",
        flags: "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
                -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
        links: COMPONENTS,
        time: "five minutes",
    },
    Part {
        name: "coredns",
        module: "tests/cluster/parts/coredns",
        package: ".",
        flags: "",
        links: &[],
        time: "a minute or two",
    },
    Part {
        name: "helm",
        module: "tests/cluster/parts/helm",
        package: "helm.sh/helm/v4/cmd/helm",
        flags: "",
        links: &[],
        time: "two minutes",
    },
    Part {
        name: "pause",
        module: "tests/cluster/parts/pause",
        package: ".",
        flags: "",
        links: &[],
        time: "a second",
    },
];

/// For the message of a machine without Go.
const TASK: &str = "the test cluster is";

/// Built only where it is asked for.
const COLLECTOR: Part = Part {
    name: "otelcol",
    module: "tests/cluster/parts/otelcol",
    package: ".",
    flags: "",
    links: &[],
    time: "a minute or two",
};

/// Where the built programs are.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    directories: Vec<PathBuf>,
}

impl Parts {
    /// Builds what is not there yet.
    ///
    /// # Errors
    /// Go is missing, or a part does not build.
    pub(crate) fn ensure() -> Result<Self> {
        let (go, version) = go::go(TASK)?;
        let cache = go::cache()?.join("cluster/parts");
        let directories: Result<Vec<PathBuf>> =
            PARTS.iter().map(|part| part.ensure(&go, &version, &cache)).collect();
        Ok(Self { directories: directories? })
    }

    /// A program by name, such as `kubelet` or `helm`.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let found = self.directories.iter().map(|directory| directory.join(name)).find(|file| file.is_file());
        found.with_context(|| format!("no part of the cluster is called {name}"))
    }

    /// Where `kubectl` and `helm` are, for PATH.
    pub(crate) fn tools(&self) -> Result<[PathBuf; 2]> {
        Ok([self.program("kubectl")?, self.program("helm")?])
    }
}

/// Builds the OpenTelemetry Collector where it is not there yet; returns where it is.
///
/// # Errors
/// As [`Parts::ensure`].
pub(crate) fn collector() -> Result<PathBuf> {
    let (go, version) = go::go(TASK)?;
    let directory = COLLECTOR.ensure(&go, &version, &go::cache()?.join("cluster/parts"))?;
    Ok(directory.join(COLLECTOR.name))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_key_follows_what_is_built() {
        let part = &PARTS[0];
        let key = part.key("go version go1.26.0").unwrap();
        assert_eq!(key, part.key("go version go1.26.0").unwrap());
        assert_ne!(key, part.key("go version go1.26.1").unwrap());
        let other = Part { flags: "", links: &[], ..PARTS[0] };
        assert_ne!(key, other.key("go version go1.26.0").unwrap());
    }

    #[test]
    fn the_version_is_that_of_the_module() {
        let module = fs::read_to_string(PARTS[0].source().join("go.mod")).unwrap();
        assert!(module.contains(&format!("\tk8s.io/kubernetes {KUBERNETES}\n")), "{module}");
        assert!(PARTS[0].flags.contains(&format!("gitVersion={KUBERNETES} ")));
    }
}
