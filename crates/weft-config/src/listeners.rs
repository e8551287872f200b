//! `outbound.listeners` and `inbound.listeners`: the doors of a workload whose traffic is not intercepted.
//!
//! Interception tells the proxy by itself where each connection was going. Without it the address that was dialed must
//! say so: each listener stands for one service (outbound) or for one port of the application (inbound), and from there
//! on everything is as if the connection had been intercepted. What would quietly be less than that is refused here: a
//! destination outside the mesh (it would be plaintext), and an outbound listener that others could reach (they would
//! speak with this workload's identity).

use std::net::SocketAddr;

use weft_core::ServiceKey;

use crate::error::{Origin, ProblemKind};
use crate::membership::{Membership, NameVerdict, Outside};
use crate::read::{Bad, Item, Section};
use crate::scalar;
use crate::tree::Scalar;
use crate::types::Bind;
use crate::value::{HostPort, Listen};

/// The listeners of both directions. They are bound at the start; a change needs a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listeners {
    /// `outbound.listeners`.
    pub outbound: Vec<OutboundListener>,
    /// `inbound.listeners`.
    pub inbound: Vec<InboundListener>,
}

/// One entry of `outbound.listeners`: what the application dials instead of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundListener {
    /// Where to listen; loopback.
    pub address: Listen,
    /// The service, inside the mesh.
    pub destination: ServiceKey,
}

/// One entry of `inbound.listeners`: what others dial instead of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundListener {
    /// Where to listen: the address and port that DNS names for the service.
    pub address: Listen,
    /// Where the application listens.
    pub application: SocketAddr,
}

impl Listeners {
    /// Whether something that dials `addr` comes to an outbound listener.
    pub fn is_outbound(&self, addr: SocketAddr) -> bool {
        self.outbound.iter().any(|listener| listener.address.takes(addr))
    }
}

/// Entries with the place where each was written, until they are compared with the rest of the file.
pub(crate) type Written<T> = Vec<(T, Origin, String)>;

pub(crate) fn outbound(s: &Section<'_, '_>) -> Written<OutboundListener> {
    let of = |address, destination| OutboundListener { address, destination };
    entries(s, "destination", scalar::listen(Listen::Loopback), destination, of)
}

pub(crate) fn inbound(s: &Section<'_, '_>) -> Written<InboundListener> {
    let of = |address, application| InboundListener { address, application };
    entries(s, "application", scalar::listen(Listen::Any), application, of)
}

/// A list of mappings with the two fields, or of texts `address=other`; a variable or flag gives texts.
fn entries<A, B, T>(
    s: &Section<'_, '_>,
    other: &'static str,
    address: impl Fn(&Scalar) -> Result<A, Bad>,
    second: impl Fn(&Scalar) -> Result<B, Bad>,
    of: impl Fn(A, B) -> T,
) -> Written<T> {
    s.declare_items("listeners", &["address", other]);
    let path = format!("{}.listeners", s.path());
    let pair = |written: &Scalar| {
        let text = scalar::text(written)?;
        let Some((left, right)) = text.split_once('=') else {
            return Err(Bad::value(
                format!("\"{text}\" has no '='"),
                format!("write address={other}, or a mapping"),
            ));
        };
        let part = |text: &str| Scalar::Text(text.trim().to_owned());
        Ok(of(address(&part(left))?, second(&part(right))?))
    };
    if s.overlaid("listeners") {
        let written = s.list("listeners", pair).unwrap_or_default();
        let place = |(i, (entry, origin))| (entry, origin, format!("{path}[{i}]"));
        return written.into_iter().enumerate().map(place).collect();
    }
    let mut found = Vec::new();
    for item in s.items("listeners") {
        let entry = match item.as_scalar() {
            Some(written) => {
                pair(written).map_err(|bad| s.reader().refuse(item.origin(), &item.path, bad)).ok()
            }
            None => mapping(&item, other, &address, &second).map(|(address, second)| of(address, second)),
        };
        found.extend(entry.map(|entry| (entry, item.origin(), item.path.clone())));
    }
    found
}

fn mapping<A, B>(
    item: &Item<'_, '_>,
    other: &'static str,
    address: impl Fn(&Scalar) -> Result<A, Bad>,
    second: impl Fn(&Scalar) -> Result<B, Bad>,
) -> Option<(A, B)> {
    let section = item.section();
    let (address, second) = (section.required("address", address), section.required(other, second));
    Some((address?, second?))
}

/// `name:port`.
fn destination(written: &Scalar) -> Result<ServiceKey, Bad> {
    const CURE: &str = "write the full name and the port, such as redis.shop.svc.cluster.local:6379";
    let place = scalar::parsed::<HostPort>(CURE)(written)?;
    if place.ip().is_some() {
        return Err(Bad::value(format!("{place} is an address and not the name of a service"), CURE));
    }
    let name = place.host.parse().map_err(|_| Bad::value(format!("\"{place}\" is not a DNS name"), CURE))?;
    Ok(ServiceKey::new(name, place.port))
}

fn application(written: &Scalar) -> Result<SocketAddr, Bad> {
    let addr = scalar::socket(written)?;
    if addr.ip().is_unspecified() || addr.ip().is_multicast() {
        let cure = "write the one address that the application listens on, such as 127.0.0.1:18080";
        return Err(Bad::value(format!("{addr} cannot be connected to"), cure));
    }
    Ok(addr)
}

/// Compares the entries with each other and with the rest of the file.
pub(crate) fn checked(
    root: &Section<'_, '_>,
    outbound: Written<OutboundListener>,
    inbound: Written<InboundListener>,
    bind: &Bind,
    membership: Option<&Membership>,
) -> Listeners {
    let refuse = |kind, origin: &Origin, field: String, reason: String, cure: &str| {
        root.reader().refuse(origin.clone(), &field, Bad { kind, reason, cure: cure.to_owned() });
    };
    let own = bind.all().map(|(name, listen)| (format!("bind.{name}"), listen));
    let mut taken: Vec<(String, Listen)> = own.collect();
    let places = outbound.iter().map(|(entry, origin, path)| (entry.address, origin, path));
    for (address, origin, path) in
        places.chain(inbound.iter().map(|(entry, origin, path)| (entry.address, origin, path)))
    {
        if let Some((other, _)) = taken.iter().find(|(_, earlier)| earlier.overlaps(address)) {
            let reason = format!("{address} is taken by {other} as well");
            refuse(
                ProblemKind::Conflict,
                origin,
                format!("{path}.address"),
                reason,
                "give each its own address",
            );
        }
        taken.push((path.clone(), address));
    }
    for (entry, origin, path) in &outbound {
        if !entry.address.is_loopback() {
            let reason = format!("{} is not loopback: others could speak as this workload", entry.address);
            let cure = "write an address of 127.0.0.0/8, or [::1]";
            refuse(ProblemKind::InvalidValue, origin, format!("{path}.address"), reason, cure);
        }
        let verdict = membership.map(|membership| membership.of_name(&entry.destination.name));
        if let Some(NameVerdict::Outside(why)) = verdict {
            let (reason, cure) = outside(&entry.destination, why);
            refuse(ProblemKind::Conflict, origin, format!("{path}.destination"), reason, cure);
        }
    }
    for (entry, origin, path) in &inbound {
        let application = entry.application;
        if let Some((other, _)) = taken.iter().find(|(_, listen)| listen.takes(application)) {
            let reason = format!("{application} is the proxy's own address ({other})");
            let cure = "let the application listen elsewhere, such as 127.0.0.1:18080";
            refuse(ProblemKind::Conflict, origin, format!("{path}.application"), reason, cure);
        }
    }
    Listeners {
        outbound: outbound.into_iter().map(|(entry, ..)| entry).collect(),
        inbound: inbound.into_iter().map(|(entry, ..)| entry).collect(),
    }
}

/// Outside the mesh there is no mutual TLS, and the application can dial what is outside by itself.
fn outside(destination: &ServiceKey, why: Outside) -> (String, &'static str) {
    let name = &destination.name;
    match why {
        Outside::NoDomain => (
            format!("{name} is not in the mesh: no pattern of mesh.domains matches it"),
            "write the full name, such as redis.shop.svc.cluster.local, or add a pattern to mesh.domains",
        ),
        Outside::Exception => (
            format!("{name} is not in the mesh: mesh.exceptions names it"),
            "drop the listener or the exception",
        ),
        Outside::Namespace => (
            format!("{name} is not in the mesh: its namespace is not in mesh.namespaces"),
            "drop the listener, or add the namespace",
        ),
    }
}

#[cfg(test)]
#[path = "listeners_tests.rs"]
mod tests;
