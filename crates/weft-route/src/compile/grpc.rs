//! Rules of GRPCRoutes.

use weft_resource::grpc::{GrpcMatch, GrpcMethodMatch, GrpcRouteSpec, GrpcRule};

use super::backends::Layer;
use super::http::{Built, Conditions, RuleParts};
use super::{Context, Route};
use crate::table::PathRule;

impl Context<'_> {
    /// The rules of a GRPCRoute.
    pub(super) fn grpc_rules(&mut self, route: Route<'_>, spec: &GrpcRouteSpec) -> Vec<Built> {
        let default = [GrpcRule::default()];
        let rules = spec.rules.as_deref().unwrap_or(&default);
        let each = rules.iter().enumerate().map(|(index, rule)| {
            let matches = self.grpc_matches(route, index, &rule.matches);
            let parts = RuleParts {
                index,
                name: rule.name.as_ref().map(|name| name.as_str()),
                layer: Layer::Grpc,
                filters: &rule.filters,
                backends: &rule.backend_refs,
                timeouts: None,
                retry: None,
                session: rule.session_persistence.as_ref(),
            };
            self.rule(route, &parts, matches)
        });
        each.collect()
    }

    fn grpc_matches(&mut self, route: Route<'_>, rule: usize, list: &[GrpcMatch]) -> Vec<Conditions> {
        let everything = [GrpcMatch::default()];
        let list = if list.is_empty() { everything.as_slice() } else { list };
        let each = list.iter().enumerate().map(|(at, spec)| {
            let field = format!("spec.rules[{rule}].matches[{at}].headers");
            let headers = spec.headers.iter().map(|header| (header.name.clone(), header.value.clone()));
            Conditions {
                path: path_rule(spec.method.as_ref()),
                method: None,
                headers: self.first_of_each(route, &field, headers),
                query: Vec::new(),
            }
        });
        each.collect()
    }
}

/// A call is a POST to `/service/method` (gRPC over HTTP/2, "Requests"), so that its match is one of the path.
fn path_rule(method: Option<&GrpcMethodMatch>) -> PathRule {
    match method {
        None => PathRule::Prefix("".into()),
        Some(GrpcMethodMatch::Exact { service: Some(service), method: Some(method) }) => {
            PathRule::Exact(format!("/{service}/{method}").into())
        }
        Some(GrpcMethodMatch::Exact { service: Some(service), method: None }) => {
            PathRule::Prefix(format!("/{service}").into())
        }
        Some(GrpcMethodMatch::Exact { service: None, method: Some(method) }) => {
            PathRule::GrpcMethod(method.as_str().into())
        }
        Some(GrpcMethodMatch::Exact { service: None, method: None }) => PathRule::Prefix("".into()),
        Some(GrpcMethodMatch::Regex { service, method }) => {
            PathRule::GrpcRegex { service: service.clone(), method: method.clone() }
        }
    }
}
