//! What the mesh thinks of a name, and which name of a chain of aliases is meant.

use weft_core::{DnsName, MtlsMode, Namespace};

/// Where a name stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Outside the mesh: anybody may answer for it, with any address.
    Outside,
    /// It would be in the mesh, but was taken out by name.
    Excepted,
    /// A mesh destination.
    Inside {
        /// How much mutual TLS is asked for there.
        mode: MtlsMode,
        /// Whose workloads may answer there.
        namespace: Namespace,
    },
}

impl Standing {
    /// How much is asked of a peer there; zero for what is outside.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Outside => 0,
            Self::Excepted => 1,
            Self::Inside { mode: MtlsMode::Disable, .. } => 2,
            Self::Inside { mode: MtlsMode::Permissive, .. } => 3,
            Self::Inside { mode: MtlsMode::Strict, .. } => 4,
        }
    }
}

/// Says where names stand. It is asked for answers, and for connections after it has changed.
pub trait Judge: Send + Sync {
    /// A number that is another one after every change of judgement.
    fn version(&self) -> u64;

    /// Where `name` stands.
    fn standing(&self, name: &DnsName) -> Standing;
}

/// Under which name the addresses of an answer are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meant<'a> {
    /// This one.
    Name(&'a DnsName),
    /// A mesh name that the answer for another name led to. Whoever answers for the other one is not believed about this
    /// one: only addresses that its own answer has are its; those it has not are known by `otherwise`.
    Led { to: &'a DnsName, otherwise: &'a DnsName },
}

/// Which name of `chain` (the question, then what each CNAME led to) is meant.
///
/// A CNAME may say more about who is meant, never ask less of them: within the mesh it is followed in the namespace of the
/// question, and to names of which no less is asked. It may lead out of the mesh only where the question was a step along
/// the search list, which a server (CoreDNS' `autopath`) took the remaining steps of by itself.
pub(crate) fn meant<'a>(
    chain: &'a [DnsName],
    search: &[DnsName],
    standing: impl Fn(&DnsName) -> Standing,
) -> Option<Meant<'a>> {
    let (question, rest) = chain.split_first()?;
    if let [next, ..] = rest
        && is_step(question, next, search)
        && is_of_own_namespace(&standing(question), search)
    {
        return Some(match (target(rest, &standing)?, standing(next)) {
            (Meant::Name(name), Standing::Inside { .. }) => Meant::Led { to: name, otherwise: question },
            (told, _) => told,
        });
    }
    target(chain, &standing)
}

fn target<'a>(chain: &'a [DnsName], standing: &impl Fn(&DnsName) -> Standing) -> Option<Meant<'a>> {
    let (question, rest) = chain.split_first()?;
    Some(match standing(question) {
        Standing::Excepted => Meant::Name(question),
        Standing::Outside => {
            let inside = rest.iter().rfind(|name| matches!(standing(name), Standing::Inside { .. }));
            inside.map_or(Meant::Name(question), |to| Meant::Led { to, otherwise: question })
        }
        asked @ Standing::Inside { .. } => {
            let same = |name: &&DnsName| match (standing(name), &asked) {
                (Standing::Inside { namespace, mode }, Standing::Inside { namespace: asked_in, .. }) => {
                    namespace == *asked_in && Standing::Inside { namespace, mode }.rank() >= asked.rank()
                }
                _ => false,
            };
            Meant::Name(rest.iter().rfind(same).unwrap_or(question))
        }
    })
}

/// Whether what `question` seems to be in the mesh comes of the search list alone: its namespace is the first label of the
/// search domain, and no part of the name that was meant. Where a domain of the mesh itself is searched (`svc.cluster.local`),
/// a service's full name has the shape of a step as well, and no answer may take it out.
fn is_of_own_namespace(question: &Standing, search: &[DnsName]) -> bool {
    match question {
        Standing::Outside | Standing::Excepted => true,
        Standing::Inside { namespace, .. } => {
            search.first().and_then(|domain| domain.labels().next()) == Some(namespace.as_str())
        }
    }
}

/// Whether `question` is a name with the first search domain after it, and `next` the same name with another one or with
/// none. At least two labels: a single one is a service of the own namespace, dialed by its full name, and no answer may
/// make an outside host of it.
fn is_step(question: &DnsName, next: &DnsName, search: &[DnsName]) -> bool {
    let Some((first, others)) = search.split_first() else { return false };
    let Some(name) = below(question, first).filter(|name| name.contains('.')) else { return false };
    next.as_str() == name || others.iter().any(|domain| below(next, domain) == Some(name))
}

/// `name` without `domain` at its end.
fn below<'n>(name: &'n DnsName, domain: &DnsName) -> Option<&'n str> {
    name.as_str().strip_suffix(domain.as_str())?.strip_suffix('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<DnsName> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// `[pod.]service.namespace.svc.x`; the service `soft` is permissive, `legacy` is excepted.
    fn standing(name: &DnsName) -> Standing {
        let Some(short) = name.as_str().strip_suffix(".svc.x") else { return Standing::Outside };
        let labels: Vec<&str> = short.split('.').collect();
        let ([service, namespace] | [_, service, namespace]) = labels[..] else {
            return Standing::Outside;
        };
        let mode = if service == "soft" { MtlsMode::Permissive } else { MtlsMode::Strict };
        match service {
            "legacy" => Standing::Excepted,
            _ => Standing::Inside { mode, namespace: namespace.parse().unwrap() },
        }
    }

    /// What is meant, as `name` or `name|otherwise`, by a pod of the namespace `web`.
    fn told(chain: &[&str]) -> String {
        told_with(&["web.svc.x", "svc.x", "x", "corp.example"], chain)
    }

    fn told_with(search: &[&str], chain: &[&str]) -> String {
        let (chain, search) = (names(chain), names(search));
        match meant(&chain, &search, standing).unwrap() {
            Meant::Name(name) => name.to_string(),
            Meant::Led { to, otherwise } => format!("{to}|{otherwise}"),
        }
    }

    #[test]
    fn a_step_along_the_search_list_is_not_what_was_meant() {
        let step = told(&["orders.shop.web.svc.x", "orders.shop.svc.x"]);
        assert_eq!(step, "orders.shop.svc.x|orders.shop.web.svc.x");
        assert_eq!(told(&["plain.test.web.svc.x", "plain.test"]), "plain.test");
        assert_eq!(told(&["plain.test.web.svc.x", "plain.test.corp.example"]), "plain.test.corp.example");
        // A host outside whose own answer leads into the mesh.
        let led = told(&["plain.test.web.svc.x", "plain.test", "a.shop.svc.x"]);
        assert_eq!(led, "a.shop.svc.x|plain.test");
    }

    #[test]
    fn no_other_cname_makes_an_outside_host_of_a_mesh_name() {
        for chain in [
            &["orders.web.svc.x", "orders"][..],
            &["orders.web.svc.x", "orders.corp.example"],
            &["orders.shop.svc.x", "orders.shop"],
            &["orders.shop.svc.x", "evil.example"],
            &["pod.orders.shop.svc.x", "pod.orders"],
            &["plain.test.web.svc.x", "other.test"],
            &["orders.shop.svc.x", "b.bank.svc.x"],
            &["orders.shop.svc.x", "soft.shop.svc.x"],
            &["orders.shop.svc.x", "legacy.shop.svc.x"],
            &["legacy.shop.svc.x", "orders.shop.svc.x"],
        ] {
            assert_eq!(told(chain), chain[0], "{chain:?}");
        }
    }

    #[test]
    fn where_the_meshs_own_domain_is_searched_no_full_name_is_a_step() {
        for (search, chain) in [
            (&["svc.x"][..], &["orders.shop.svc.x", "orders.shop"][..]),
            (&["svc.x", "x"], &["pod.orders.shop.svc.x", "pod.orders.shop.x"]),
            (&["x"], &["orders.shop.svc.x", "orders.shop.svc"]),
            (&["shop.svc.x"], &["orders.web.svc.x", "orders"]),
        ] {
            assert_eq!(told_with(search, chain), chain[0], "{search:?} {chain:?}");
        }
        // Outside names are steps all the same.
        assert_eq!(told_with(&["corp.example"], &["a.b.corp.example", "a.b"]), "a.b");
    }

    #[test]
    fn within_the_mesh_the_owner_is_meant() {
        assert_eq!(told(&["a.shop.svc.x", "b.shop.svc.x"]), "b.shop.svc.x");
        assert_eq!(told(&["a.shop.svc.x", "hop.example", "b.shop.svc.x"]), "b.shop.svc.x");
        assert_eq!(told(&["a.shop.svc.x", "b.shop.svc.x", "c.example"]), "b.shop.svc.x");
        assert_eq!(told(&["api.example", "cdn.example", "a.shop.svc.x"]), "a.shop.svc.x|api.example");
        assert_eq!(told(&["api.example", "cdn.example"]), "api.example");
    }
}
