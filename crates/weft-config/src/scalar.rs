//! One reader for each kind of scalar: from what was written to a checked value, or why not.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use weft_core::{MtlsMode, canonical};

use crate::read::Bad;
use crate::tree::{Scalar, Value};
use crate::value::{Listen, Size, parse_port_range};

fn kind(scalar: &Scalar) -> &'static str {
    Value::Scalar(scalar.clone()).kind()
}

/// A text that is not empty.
pub(crate) fn text(scalar: &Scalar) -> Result<String, Bad> {
    match scalar {
        Scalar::Str(text) | Scalar::Text(text) if text.trim().is_empty() => {
            Err(Bad::value("this is empty", "write a value, or leave the field out"))
        }
        Scalar::Str(text) | Scalar::Text(text) => Ok(text.clone()),
        Scalar::Null => Err(Bad::kind("nothing", "a text", "")),
        Scalar::Bool(_) | Scalar::Int(_) | Scalar::Float(_) => {
            Err(Bad::kind(kind(scalar), "a text", format!("write it in quotes: \"{scalar}\"")))
        }
    }
}

/// A text that its type can read.
pub(crate) fn parsed<T: FromStr>(cure: &'static str) -> impl Fn(&Scalar) -> Result<T, Bad>
where
    T::Err: Display,
{
    move |scalar| {
        let text = text(scalar)?;
        text.parse().map_err(|reason: T::Err| {
            let reason = reason.to_string();
            // Some errors name the value themselves.
            let reason = if reason.contains(&text) { reason } else { format!("\"{text}\": {reason}") };
            Bad::value(reason, cure)
        })
    }
}

/// A whole number within `range`.
pub(crate) fn whole(range: RangeInclusive<u64>) -> impl Fn(&Scalar) -> Result<u64, Bad> {
    move |scalar| {
        let number = match scalar {
            Scalar::Int(number) => *number,
            Scalar::Text(text) => {
                text.trim().parse().map_err(|_| Bad::kind("a text", "a whole number", ""))?
            }
            other => return Err(Bad::kind(kind(other), "a whole number", "")),
        };
        let outside = || {
            let (first, last) = (range.start(), range.end());
            Bad::value(format!("{number} is out of range"), format!("write a number from {first} to {last}"))
        };
        u64::try_from(number).ok().filter(|n| range.contains(n)).ok_or_else(outside)
    }
}

/// A size within `range`, octets.
pub(crate) fn size(range: RangeInclusive<u64>) -> impl Fn(&Scalar) -> Result<Size, Bad> {
    move |scalar| {
        let size = match scalar {
            Scalar::Int(octets) => u64::try_from(*octets).map(Size).map_err(|_| "is negative or too large"),
            Scalar::Str(text) | Scalar::Text(text) => text.trim().parse::<Size>(),
            other => return Err(Bad::kind(kind(other), "a size", "write it as in 64KiB")),
        };
        match size {
            Ok(size) if range.contains(&size.0) => Ok(size),
            Ok(size) => {
                let (first, last) = (Size(*range.start()), Size(*range.end()));
                Err(Bad::value(
                    format!("{size} is out of range"),
                    format!("write a size from {first} to {last}"),
                ))
            }
            Err(reason) => Err(Bad::value(
                format!("\"{scalar}\" {reason}"),
                "write octets, or KiB, MiB, GiB as in 64KiB",
            )),
        }
    }
}

/// A duration in force, printed as it may be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span(pub(crate) Duration);

impl Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = humantime::format_duration(self.0).to_string();
        f.write_str(&text.replace(' ', ""))
    }
}

/// A duration within `range`.
pub(crate) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Scalar) -> Result<Span, Bad> {
    move |scalar| {
        let text = match scalar {
            Scalar::Str(text) | Scalar::Text(text) => text.trim(),
            Scalar::Int(0) => "0s",
            Scalar::Int(_) | Scalar::Float(_) => {
                let cure = format!("add the unit, such as {scalar}s or {scalar}ms");
                return Err(Bad::value("a duration needs a unit", cure));
            }
            other => return Err(Bad::kind(kind(other), "a duration", "write it as in 5s, 250ms or 1h30m")),
        };
        match humantime::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => Ok(Span(duration)),
            Ok(duration) => {
                let (first, last) = (Span(*range.start()), Span(*range.end()));
                let reason = format!("{} is out of range", Span(duration));
                Err(Bad::value(reason, format!("write a duration from {first} to {last}")))
            }
            Err(error) => {
                let reason = format!("\"{text}\" is not a duration ({error})");
                Err(Bad::value(reason, "write it as in 5s, 250ms or 1h30m"))
            }
        }
    }
}

/// A duration that may be `none`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MaybeSpan(pub(crate) Option<Duration>);

impl Display for MaybeSpan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(duration) => Span(duration).fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// A duration within `range`, or `none`.
pub(crate) fn maybe_duration(range: RangeInclusive<Duration>) -> impl Fn(&Scalar) -> Result<MaybeSpan, Bad> {
    let duration = duration(range);
    move |scalar| match scalar {
        Scalar::Str(text) | Scalar::Text(text) if text.trim() == "none" => Ok(MaybeSpan(None)),
        other => duration(other).map(|Span(duration)| MaybeSpan(Some(duration))).map_err(|mut bad| {
            bad.cure.push_str(", or none");
            bad
        }),
    }
}

/// A share from 0 to 1.
pub(crate) fn share(scalar: &Scalar) -> Result<f64, Bad> {
    let share = match scalar {
        Scalar::Float(share) => *share,
        Scalar::Int(0) => 0.0,
        Scalar::Int(1) => 1.0,
        Scalar::Int(_) => f64::NAN,
        Scalar::Text(text) => text.trim().parse().map_err(|_| Bad::kind("a text", "a number", ""))?,
        other => return Err(Bad::kind(kind(other), "a number", "")),
    };
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(Bad::value(
            format!("{scalar} is not a share"),
            "write a number from 0 to 1; 0.01 is one of a hundred",
        ))
    }
}

/// One of a few words.
pub(crate) fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Scalar) -> Result<T, Bad> {
    move |scalar| {
        let written = match scalar {
            // YAML 1.1 reads a bare off as false, and people write it.
            Scalar::Bool(false) => "off".to_owned(),
            Scalar::Bool(true) => "on".to_owned(),
            other => text(other)?,
        };
        let found = words.iter().find(|(word, _)| *word == written.trim()).map(|(_, value)| *value);
        found.ok_or_else(|| {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Bad::value(
                format!("\"{written}\" is not known here"),
                format!("write one of: {}", all.join(", ")),
            )
        })
    }
}

/// The words of [`MtlsMode`].
pub(crate) const MODES: &[(&str, MtlsMode)] =
    &[("strict", MtlsMode::Strict), ("permissive", MtlsMode::Permissive), ("disable", MtlsMode::Disable)];

/// An address, IPv4-mapped ones brought to IPv4.
pub(crate) fn ip(scalar: &Scalar) -> Result<IpAddr, Bad> {
    parsed::<IpAddr>("write an IPv4 or IPv6 address")(scalar).map(|ip| ip.to_canonical())
}

/// A CIDR; an address alone is the network of that one address.
pub(crate) fn cidr(scalar: &Scalar) -> Result<IpNet, Bad> {
    let text = text(scalar)?;
    let text = text.trim();
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let net = net.map_err(|_| {
        Bad::value(format!("\"{text}\" is not a CIDR"), "write one such as 10.0.0.0/24 or fd00::/64")
    })?;
    if net != net.trunc() {
        // 10.0.0.5/24 is either a typing mistake in the address or in the length; guessing would widen the mesh.
        let cure = format!("write {} for the network, or {} for the one address", net.trunc(), net.addr());
        return Err(Bad::value(format!("\"{text}\" has bits set beyond its prefix"), cure));
    }
    Ok(net)
}

/// An `ip:port`, never port 0.
pub(crate) fn socket(scalar: &Scalar) -> Result<SocketAddr, Bad> {
    let addr = parsed::<SocketAddr>("write ip:port, such as 10.0.0.9:8080 or [fd00::9]:8080")(scalar)?;
    nonzero(addr)
}

/// An `ip:port`, or an address alone with `port` understood.
pub(crate) fn socket_or(port: u16) -> impl Fn(&Scalar) -> Result<SocketAddr, Bad> {
    move |scalar| {
        let text = text(scalar)?;
        match text.trim().parse::<IpAddr>() {
            Ok(ip) => Ok(canonical(SocketAddr::new(ip, port))),
            Err(_) => socket(scalar),
        }
    }
}

fn nonzero(addr: SocketAddr) -> Result<SocketAddr, Bad> {
    if addr.port() == 0 {
        return Err(Bad::value("port 0 cannot be used", "write a port from 1 to 65535"));
    }
    Ok(canonical(addr))
}

/// A port, or an `ip:port`.
pub(crate) fn listen(of_port: fn(u16) -> Listen) -> impl Fn(&Scalar) -> Result<Listen, Bad> {
    move |scalar| {
        if let Scalar::Str(text) | Scalar::Text(text) = scalar
            && text.trim().parse::<u16>().is_err()
        {
            let cure = "write a port, or ip:port in quotes such as \"127.0.0.1:15000\"";
            let addr = parsed::<SocketAddr>(cure)(scalar)?;
            return nonzero(addr).map(Listen::Exact);
        }
        port(scalar).map(of_port)
    }
}

/// A port.
pub(crate) fn port(scalar: &Scalar) -> Result<u16, Bad> {
    let number = match scalar {
        Scalar::Str(text) => whole(1..=65535)(&Scalar::Text(text.clone())),
        other => whole(1..=65535)(other),
    }?;
    // The range above is that of a u16.
    u16::try_from(number).map_err(|_| Bad::value("this is not a port", ""))
}

/// A port or a range of ports.
pub(crate) fn ports(scalar: &Scalar) -> Result<(u16, u16), Bad> {
    let text = match scalar {
        Scalar::Int(number) => number.to_string(),
        other => text(other)?,
    };
    parse_port_range(&text)
        .map_err(|reason| Bad::value(format!("\"{text}\" {reason}"), "write 3306 or \"6000-6100\""))
}

/// A path.
pub(crate) fn path(scalar: &Scalar) -> Result<PathBuf, Bad> {
    text(scalar).map(PathBuf::from)
}

/// Log directives: `info`, or `info,weft_proxy=debug,h2=off`.
pub(crate) fn directives(scalar: &Scalar) -> Result<String, Bad> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let written = match scalar {
        Scalar::Bool(false) => "off".to_owned(),
        other => text(other)?,
    };
    let target = |t: &str| {
        !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-'))
    };
    for part in written.split(',').map(str::trim) {
        let (name, level) = part.rsplit_once('=').map_or((None, part), |(name, level)| (Some(name), level));
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) || name.is_some_and(|n| !target(n)) {
            return Err(Bad::value(
                format!("\"{part}\" is not a log level"),
                format!("write one of {}, or target=level, with commas between several", LEVELS.join(", ")),
            ));
        }
    }
    Ok(written.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn str(text: &str) -> Scalar {
        Scalar::Str(text.to_owned())
    }

    #[test]
    fn a_cidr_with_stray_bits_is_refused_and_an_address_is_a_network_of_one() {
        assert_eq!(cidr(&str("10.0.0.5")).unwrap().to_string(), "10.0.0.5/32");
        assert_eq!(cidr(&str("fd00::/64")).unwrap().to_string(), "fd00::/64");
        let bad = cidr(&str("10.0.0.5/24")).unwrap_err();
        assert!(bad.cure.contains("10.0.0.0/24") && bad.cure.contains("10.0.0.5 "), "{}", bad.cure);
    }

    #[test]
    fn a_duration_needs_a_unit() {
        let seconds = duration(Duration::ZERO..=Duration::from_secs(60));
        assert_eq!(seconds(&str("1s500ms")).unwrap().0, Duration::from_millis(1500));
        assert_eq!(seconds(&Scalar::Int(0)).unwrap().0, Duration::ZERO);
        assert!(seconds(&Scalar::Int(5)).unwrap_err().cure.contains("5s"));
        assert!(seconds(&str("61s")).unwrap_err().cure.contains("1m"));
    }

    #[test]
    fn log_directives() {
        for good in ["info", "OFF", "info,h2=debug", "warn, weft_proxy::inbound=trace"] {
            assert!(directives(&str(good)).is_ok(), "{good}");
        }
        for bad in ["loud", "info,", "=debug", "h2=loud", "a b=info"] {
            assert!(directives(&str(bad)).is_err(), "{bad}");
        }
        assert_eq!(directives(&Scalar::Bool(false)).unwrap(), "off");
    }

    proptest! {
        #[test]
        fn no_scalar_panics(written in any::<String>(), number in any::<i64>(), float in any::<f64>()) {
            let scalars = [
                Scalar::Str(written.clone()), Scalar::Text(written), Scalar::Int(number.into()), Scalar::Float(float),
                Scalar::Bool(true), Scalar::Null,
            ];
            for scalar in scalars {
                let _ = text(&scalar);
                let _ = whole(0..=10)(&scalar);
                let _ = size(0..=10)(&scalar);
                let _ = maybe_duration(Duration::ZERO..=Duration::MAX)(&scalar);
                let _ = share(&scalar);
                let _ = word(MODES)(&scalar);
                let _ = cidr(&scalar);
                let _ = socket_or(53)(&scalar);
                let _ = listen(Listen::Any)(&scalar);
                let _ = ports(&scalar);
                let _ = directives(&scalar);
            }
        }
    }
}
