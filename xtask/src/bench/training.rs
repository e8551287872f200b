//! The load that a profile is recorded under: every kind of the bench's, and requests with a body.
//!
//! What is never run counts as rare, and is compiled to be small. So all that users may call hot must be here, not only
//! what the bars are about.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::backend::Backend;
use super::certs::Certificates;
use super::gateway;
use super::load;
use super::peers::{Pair, Peer, Weft};
use super::topology::Bed;
use super::work::{Listener, Protocol, Work};
use super::{open_keys, open_to_all, scratch};

/// Uploads of each version.
const UPLOADS: u64 = 20_000;

/// Octets of an upload.
const UPLOAD: usize = 3000;

/// How long a proxy may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a pair of the program under all loads, and a gateway, and ends them, upon which they write their counts into `raw`.
pub(crate) fn run(program: &Path, raw: &Path, seconds: u64) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let scratch = scratch()?;
    open_to_all(scratch.path())?;
    // The proxies write as a user of their own.
    std::fs::set_permissions(raw, std::fs::Permissions::from_mode(0o777))?;
    let copy = scratch.path().join("weft-in-training");
    std::fs::copy(program, &copy).with_context(|| format!("cannot copy {}", program.display()))?;
    open_to_all(&copy)?;
    let certificates = Certificates::make(scratch.path())?;
    open_keys(&certificates)?;
    let bed = Bed::new(scratch.path().join("training"))?;
    open_to_all(&bed.scratch)?;
    let _backend = Backend::start(&bed)?;
    let mut weft = Weft::new(copy.clone());
    weft.program.records_into(raw);
    let Pair { client, server } = weft.pair(&bed, &certificates)?;
    loads(&bed, &Work::PAIR, &weft, seconds)?;
    for side in [client, server] {
        side.terminate(PATIENCE)?;
    }
    let bed = Bed::new(scratch.path().join("training-edge"))?;
    open_to_all(&bed.scratch)?;
    let _backend = Backend::start(&bed)?;
    let mut weft = gateway::Weft::new(copy, gateway::Routes::Hosts(1));
    weft.program.records_into(raw);
    let edge = weft.gateway(&bed, &certificates)?;
    loads(&bed, &Work::GATEWAY, &weft, seconds)?;
    edge.terminate(PATIENCE)
}

/// All loads of these works, and requests with a body.
fn loads(bed: &Bed, works: &[Work], weft: &dyn Peer, seconds: u64) -> Result<()> {
    for spec in works.iter().filter_map(|work| work.spec()) {
        eprintln!("training  {}", spec.id);
        load::run(bed, &spec, &weft.address(spec.listener), seconds, || Ok(()))?;
    }
    let edge = works.contains(&Work::GwHttp1);
    let [http1, http2] = if edge { [Listener::Edge; 2] } else { [Listener::Http1, Listener::Http2] };
    let upload = bed.write("upload", &"w".repeat(UPLOAD))?;
    for (how, listener) in [(Protocol::Http1, http1), (Protocol::Http2, http2)] {
        eprintln!("training  uploads, {how:?}");
        load::fixed(bed, how, (listener, &weft.address(listener)), UPLOADS, Some(&upload))?;
    }
    Ok(())
}
