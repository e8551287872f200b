//! Resources to programs: what files say comes into force here, on the control thread.

use std::collections::HashSet;
use std::sync::Arc;

use weft_config::{IdentitySource, NameVerdict, Role};
use weft_resource::{ResourceHandle, ResourceSet};
use weft_route::{Compiled, Gateways, Note, Options, Program, Severity, UpstreamEndpoint, compile};

use crate::shared::Shared;

/// Follows the resources, from those that are there at the start on.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let wanted = &shared.config.resources;
    let options = Options {
        cluster_domain: wanted.cluster_domain.clone(),
        gateways: match (&wanted.gateway, shared.config.role) {
            (_, Role::Sidecar) => Gateways::None,
            (Some(one), Role::Gateway) => Gateways::One(one.namespace.clone(), one.name.clone()),
            (None, Role::Gateway) => Gateways::All,
        },
        // No workload's requests go by routes of services at a gateway.
        client_namespace: match shared.config.role {
            Role::Sidecar => shared.config.workload.namespace.clone(),
            Role::Gateway => None,
        },
    };
    let (handle, watching) = weft_resource::watch(wanted.paths.clone());
    tokio::spawn(watching);
    let mut versions = handle.subscribe();
    let mut told = HashSet::new();
    loop {
        versions.mark_unchanged();
        let set = handle.load();
        if let Some(Compiled { program, notes }) = compiled(Arc::clone(&set), options.clone()).await {
            let mut lines: Vec<(Severity, String)> =
                notes.iter().map(|note| (note.severity, line(note, &set, &handle))).collect();
            lines.extend(strangers(&shared, &program).map(|line| (Severity::Error, line)));
            tell(&lines, &mut told);
            shared.program.publish(program);
        }
        if versions.changed().await.is_err() {
            return;
        }
    }
}

/// Compiles where it keeps nothing else of the control thread waiting. `None`: it panicked, which its thread has told; what was in
/// force stays.
async fn compiled(set: Arc<ResourceSet>, options: Options) -> Option<Compiled> {
    tokio::task::spawn_blocking(move || compile(&set, &options)).await.ok()
}

/// A note with the place of its resource.
fn line(note: &Note, set: &ResourceSet, handle: &ResourceHandle) -> String {
    match set.get(&note.resource) {
        Some(resource) => format!("{}: {note}", handle.source(resource)),
        None => note.to_string(),
    }
}

/// Upstreams in the mesh, at a gateway that nobody in the mesh knows.
fn strangers<'a>(shared: &'a Shared, program: &'a Program) -> impl Iterator<Item = String> + use<'a> {
    let unknown = shared.config.identity.source == IdentitySource::None;
    let snapshot = shared.snapshot.snapshot();
    let services = program.upstreams.iter().filter_map(move |upstream| match &upstream.endpoint {
        UpstreamEndpoint::Service(key) if unknown => Some(key),
        _ => None,
    });
    services
        .filter(move |key| matches!(snapshot.membership.of_name(&key.name), NameVerdict::Mesh { .. }))
        .map(|key| {
            format!(
                "{key} is in the mesh, and this gateway has no identity to dial it with; add identity: to weft.yaml, or name \
                 the service in mesh.exceptions"
            )
        })
}

/// Logs what was not to be said before.
fn tell(lines: &[(Severity, String)], told: &mut HashSet<String>) {
    for (severity, line) in lines.iter().filter(|(_, line)| !told.contains(line)) {
        match severity {
            Severity::Error => tracing::error!(code = "resources-note", "{line}"),
            Severity::Warning => tracing::warn!(code = "resources-note", "{line}"),
        }
    }
    *told = lines.iter().map(|(_, line)| line.clone()).collect();
}
