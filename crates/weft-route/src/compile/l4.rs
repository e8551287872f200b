//! Rules of TLSRoutes and TCPRoutes.

use std::sync::Arc;

use weft_resource::l4::L4Rule as RuleSpec;
use weft_resource::value::HostPattern;
use weft_resource::{Kind, Resource, Spec};

use super::attach::Attached;
use super::backends::Layer;
use super::{Context, Route, Side};
use crate::filter::Filters;
use crate::program::{Backend, Backends, L4Rule, RuleId};
use crate::table::HostTable;

impl Context<'_> {
    /// The rules of a listener by server name; those of TCPRoutes are for every name. Routes come by precedence, and where two
    /// are for one name, the first holds.
    pub(super) fn l4_table(
        &mut self,
        side: &Side,
        attached: &[Attached<'_>],
        layer: Layer,
    ) -> HostTable<Arc<L4Rule>> {
        let mut entries: Vec<(Option<HostPattern>, Arc<L4Rule>)> = Vec::new();
        for Attached { route, field, hosts } in attached {
            let rules = match &route.spec {
                Spec::TlsRoute(spec) => &spec.rules,
                Spec::TcpRoute(spec) => &spec.rules,
                _ => continue,
            };
            let holder = |host: &Option<HostPattern>| entries.iter().find(|(known, _)| known == host);
            let taken: Vec<(String, String)> = hosts
                .iter()
                .filter_map(|host| Some((name_of(host.as_ref()), holder(host)?.1.id.route.to_string())))
                .collect();
            for (host, owner) in &taken {
                let message =
                    format!("{host} on this listener is {owner}'s, which is older or the first by name");
                let cure = match route.id.kind {
                    Kind::TcpRoute => "give it a listener of its own",
                    _ => "give it another host name or a listener of its own",
                };
                self.notes.error(route, field.clone(), "Conflicted", message, cure);
            }
            if taken.len() == hosts.len() {
                continue;
            }
            let Some(rule) = self.l4_rule(Route { resource: route, side }, rules, layer) else { continue };
            let new: Vec<_> = hosts.iter().filter(|host| holder(host).is_none()).cloned().collect();
            entries.extend(new.into_iter().map(|host| (host, Arc::clone(&rule))));
        }
        HostTable::new(entries)
    }

    fn l4_rule(&mut self, route: Route<'_>, rules: &[RuleSpec], layer: Layer) -> Option<Arc<L4Rule>> {
        let resource: &Resource = route.resource;
        let Some(rule) = rules.first() else {
            let message = "the route has no rule, and its connections are closed";
            self.notes.error(resource, "spec.rules", "UnsupportedValue", message, "give it one");
            return None;
        };
        if rules.len() > 1 {
            let message =
                "nothing tells the connections of one rule from those of another: only the first is used";
            self.notes.warning(resource, "spec.rules[1]", "UnsupportedValue", message, "keep one rule");
        }
        let mut list = Vec::new();
        for (at, spec) in rule.backend_refs.iter().enumerate() {
            let field = format!("spec.rules[0].backendRefs[{at}]");
            let upstream = self.upstream(route, &spec.backend(), layer, &field);
            list.push(Backend { weight: spec.weight.get(), upstream, filters: Filters::default() });
        }
        let backends = Backends::new(list);
        if backends.total() == 0 {
            let message = "the rule has no backend with a weight: its connections are closed";
            let field = "spec.rules[0].backendRefs";
            self.notes.warning(resource, field, "NoBackends", message, "give it a backend with a weight");
        }
        let id = &resource.id;
        let name = rule.name.as_ref().map(|name| name.as_str().into());
        Some(Arc::new(L4Rule {
            id: RuleId { route: id.clone(), index: 0, name },
            label: format!("{}/{}", id.namespace, id.name).into(),
            backends,
        }))
    }
}

fn name_of(host: Option<&HostPattern>) -> String {
    host.map_or_else(|| "every name".to_owned(), |host| format!("`{host}`"))
}
