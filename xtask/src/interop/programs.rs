//! The suites' own programs, and the programs they are run against.

use std::path::PathBuf;

use anyhow::Result;

use crate::go::{self, Part};

use super::Suite;

const fn part(name: &'static str, module: &'static str, package: &'static str) -> Part {
    Part { name, module, package, flags: "", links: &[], time: "up to a minute" }
}

const H2SPEC: Part = part("h2spec", "tests/interop/h2spec", "github.com/summerwind/h2spec/cmd/h2spec");
const H2SPECD: Part = part("h2specd", "tests/interop/h2spec", "github.com/summerwind/h2spec/cmd/h2specd");
const GRPC_CLIENT: Part =
    part("grpc-interop-client", "tests/interop/grpc", "google.golang.org/grpc/interop/client");
const GRPC_SERVER: Part =
    part("grpc-interop-server", "tests/interop/grpc", "google.golang.org/grpc/interop/server");
const CONNECT: Part =
    part("connectconformance", "tests/interop/connect", "connectrpc.com/conformance/cmd/connectconformance");
const CONNECT_CLIENT: Part =
    part("referenceclient", "tests/interop/connect", "connectrpc.com/conformance/cmd/referenceclient");
const CONNECT_SERVER: Part =
    part("referenceserver", "tests/interop/connect", "connectrpc.com/conformance/cmd/referenceserver");

/// For the message of a machine without Go.
pub(crate) const TASK: &str = "the conformance suites are";

/// Where the programs of one suite are.
pub(crate) struct Programs {
    /// What asks the questions.
    pub(crate) suite: PathBuf,
    /// What is at the other end, where it is another program of the suite.
    pub(crate) other: Option<PathBuf>,
}

impl Programs {
    /// Builds those of a suite that are not there yet.
    ///
    /// # Errors
    /// Go is missing, or a program does not build.
    pub(crate) fn ensure(suite: Suite) -> Result<Self> {
        let (go, version) = go::go(TASK)?;
        let cache = go::cache()?.join("interop");
        let build =
            |part: &Part| -> Result<PathBuf> { Ok(part.ensure(&go, &version, &cache)?.join(part.name)) };
        let (suite, other) = match suite {
            Suite::H2spec => (H2SPEC, None),
            Suite::H2specd => (H2SPECD, None),
            Suite::Grpc => (GRPC_CLIENT, Some(GRPC_SERVER)),
            Suite::ConnectServer => (CONNECT, Some(CONNECT_SERVER)),
            Suite::ConnectClient => (CONNECT, Some(CONNECT_CLIENT)),
        };
        Ok(Self { suite: build(&suite)?, other: other.as_ref().map(build).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_program_is_a_tool_of_its_module() {
        for part in [H2SPEC, H2SPECD, GRPC_CLIENT, GRPC_SERVER, CONNECT, CONNECT_CLIENT, CONNECT_SERVER] {
            let module = fs::read_to_string(part.source().join("go.mod")).unwrap();
            let tool = module.lines().map(|line| line.trim().trim_start_matches("tool "));
            assert!(tool.into_iter().any(|line| line == part.package), "{}", part.name);
        }
    }
}
