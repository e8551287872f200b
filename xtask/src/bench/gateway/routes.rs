//! What many routes cost: memory, and CPU per request against few. The two gateways take turns.

use std::path::Path;

use anyhow::{Context, Result};

use super::weft::{Routes, Weft};
use super::{Options, spec};
use crate::bench::backend::Backend;
use crate::bench::certs::Certificates;
use crate::bench::report::{FEW_ROUTES, Results};
use crate::bench::topology::Bed;
use crate::bench::work::Work;
use crate::bench::{open_to_all, progress, sample};

/// Hosts with ten routes each.
const MANY: usize = 500;

pub(super) fn measure(
    options: &Options,
    binary: &Path,
    scratch: &Path,
    certificates: &Certificates,
    results: &mut Results,
) -> Result<()> {
    let spec = spec(Work::GwRoutes)?;
    let mut gateways = Vec::new();
    for (name, hosts) in [("weft", MANY), (FEW_ROUTES, 1)] {
        let bed = Bed::new(scratch.join(format!("routes-{hosts}")))?;
        open_to_all(&bed.scratch)?;
        let backend = Backend::start(&bed)?;
        gateways.push((name, Weft::new(binary.to_owned(), Routes::Hosts(hosts)), bed, backend));
    }
    for round in 0..options.rounds {
        let mut running = Vec::new();
        for (_, weft, bed, _) in &gateways {
            running.push(weft.gateway(bed, certificates)?.into());
        }
        for at in [round % 2, (round + 1) % 2] {
            let (name, weft, bed, _) = &gateways[at];
            progress(round, options, spec.id, name);
            let mut sample = sample(weft, &mut running[at], bed, &spec, round, options.seconds)
                .with_context(|| format!("{} with {name}", spec.title))?;
            (*name).clone_into(&mut sample.peer);
            results.samples.push(sample);
        }
    }
    Ok(())
}
