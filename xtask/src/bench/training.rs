//! The load that a profile is recorded under: every kind of the bench's, and requests with a body.
//!
//! What is never run counts as rare, and is compiled to be small. So all that users may call hot must be here, not only
//! what the bars are about.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::backend::Backend;
use super::certs::Certificates;
use super::load::{self, Fixed};
use super::peers::{Peer as _, Weft};
use super::topology::Bed;
use super::work::{Listener, Work};
use super::{open_keys, open_to_all, scratch};

/// Uploads of each version.
const UPLOADS: u64 = 20_000;

/// Octets of an upload.
const UPLOAD: usize = 3000;

/// Runs a pair of the program under all loads, and ends it, upon which it writes its counts into `raw`.
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
    let mut weft = Weft::new(copy);
    weft.records_into(raw);
    let pair = weft.start(&bed, &certificates)?;
    for spec in Work::ALL.into_iter().filter_map(Work::spec) {
        eprintln!("training  {}", spec.id);
        load::run(&bed, &spec, &weft.address(spec.listener), seconds, || Ok(()))?;
    }
    let upload = bed.write("upload", &"w".repeat(UPLOAD))?;
    for (how, listener) in [(Fixed::Http1, Listener::Http1), (Fixed::Http2, Listener::Http2)] {
        eprintln!("training  uploads, {how:?}");
        load::fixed(&bed, how, &weft.address(listener), UPLOADS, Some(&upload))?;
    }
    for side in [pair.client, pair.server] {
        side.terminate(Duration::from_secs(60))?;
    }
    Ok(())
}
