//! LimitRanges: what a namespace lets a container, and a pod as a whole, ask for.
//!
//! A LimitRange bounds every container of its namespace, and ours are containers that the pod's author never wrote: one
//! that does not fit is refused with a message that says nothing to him. So what comes from the settings is made to fit.
//! What an annotation says is somebody's decision and stays; where that does not fit, the answer has a warning.
//!
//! The rules are those of the API server's plugin LimitRanger (plugin/pkg/admission/limitranger): it fills in defaults
//! where a container says nothing, and does so again after a webhook has changed a pod; then it wants minimum and maximum
//! of both request and limit, and no limit of more than so many times the request.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LimitRange as Object, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use serde_json::{Map, Value};

use super::quantity::Quantity;
use super::settings::Resources;

/// What is looked at. Of other resources our containers ask nothing, and LimitRanger's own defaults serve.
const KINDS: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// LimitRanges that are looked at of one namespace; real ones have one or two.
const MOST: usize = 16;
/// A name may have 253 characters, and a warning 256.
const SHOWN: usize = 40;

/// The LimitRanges of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits(Vec<LimitRange>);

/// One of them, as far as it is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitRange {
    name: String,
    /// For each container, by resource.
    container: BTreeMap<&'static str, Bound>,
    /// For the pod as a whole.
    pod: BTreeMap<&'static str, Bound>,
}

/// Of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bound {
    min: Option<Quantity>,
    max: Option<Quantity>,
    ratio: Option<Quantity>,
    default: Option<Quantity>,
    default_request: Option<Quantity>,
}

impl LimitRange {
    /// Takes what matters out of the object. What cannot be read bounds nothing.
    pub fn of(object: &Object) -> Self {
        let mut read = Self {
            name: object.metadata.name.iter().flat_map(|name| name.chars()).take(SHOWN).collect(),
            ..Self::default()
        };
        for item in object.spec.iter().flat_map(|spec| &spec.limits) {
            let into = match item.type_.as_str() {
                "Container" => &mut read.container,
                "Pod" => &mut read.pod,
                _ => continue,
            };
            for kind in KINDS {
                let bound = Bound::of(item, kind);
                if bound != Bound::default() {
                    into.insert(kind, bound);
                }
            }
        }
        read
    }

    /// Whether it bounds nothing that is looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.container.is_empty() && self.pod.is_empty()
    }
}

impl Bound {
    fn of(item: &LimitRangeItem, kind: &str) -> Self {
        let of = |amounts: &Option<BTreeMap<String, Amount>>| amounts.as_ref()?.get(kind)?.0.parse().ok();
        Self {
            min: of(&item.min),
            max: of(&item.max),
            ratio: of(&item.max_limit_request_ratio),
            default: of(&item.default),
            default_request: of(&item.default_request),
        }
    }
}

impl FromIterator<LimitRange> for Limits {
    fn from_iter<T: IntoIterator<Item = LimitRange>>(ranges: T) -> Self {
        Self(ranges.into_iter().filter(|range| !range.is_empty()).take(MOST).collect())
    }
}

/// Request and limit of one resource of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Share {
    request: Option<Quantity>,
    limit: Option<Quantity>,
}

/// Which of them an annotation has set.
#[derive(Clone, Copy, Debug, Default)]
struct Fixed {
    request: bool,
    limit: bool,
}

/// What all LimitRanges together allow one resource of a container.
#[derive(Debug, Default)]
struct Room {
    least: Option<Quantity>,
    most: Option<Quantity>,
    ratio: Option<Quantity>,
}

impl Limits {
    /// Makes `ours`, the resources of the container `name`, fit, but for what `fixed` (resource, and whether it is the
    /// limit) names. Returns what does not fit all the same.
    pub(crate) fn fit(&self, name: &str, ours: &mut Resources, fixed: &[(&str, bool)]) -> Vec<String> {
        let mut warnings = Vec::new();
        for kind in KINDS {
            if self.0.iter().all(|range| !range.container.contains_key(kind)) {
                continue;
            }
            let is_fixed =
                Fixed { request: fixed.contains(&(kind, false)), limit: fixed.contains(&(kind, true)) };
            let written =
                Share { request: ours.requests.get(kind).cloned(), limit: ours.limits.get(kind).cloned() };
            if self.misfit(kind, &self.filled(kind, &written)).is_none() {
                continue;
            }
            let fitting = self.fitting(kind, &written, is_fixed);
            ours.requests.extend(fitting.request.clone().map(|amount| (kind.to_owned(), amount)));
            ours.limits.extend(fitting.limit.clone().map(|amount| (kind.to_owned(), amount)));
            if let Some(why) = self.misfit(kind, &self.filled(kind, &fitting)) {
                warnings.push(format!("weft: {name}: {why}; the API server will refuse the pod: change the annotations weft.dev/*-{kind}-*"));
            }
        }
        warnings
    }

    /// What the container has in the end: a request that is not written is the limit's, then LimitRanger fills in.
    fn filled(&self, kind: &str, share: &Share) -> Share {
        let bounds = || self.0.iter().filter_map(|range| range.container.get(kind));
        let limit = share.limit.clone().or_else(|| bounds().find_map(|bound| bound.default.clone()));
        let request = share.request.clone().or_else(|| share.limit.clone());
        let request = request.or_else(|| bounds().find_map(|bound| bound.default_request.clone()));
        Share { request, limit }
    }

    fn room(&self, kind: &str) -> Room {
        let bounds = || self.0.iter().filter_map(|range| range.container.get(kind));
        Room {
            least: bounds().filter_map(|bound| bound.min.clone()).max(),
            most: bounds().filter_map(|bound| bound.max.clone()).min(),
            ratio: bounds().filter_map(|bound| bound.ratio.clone()).min(),
        }
    }

    /// The nearest that fits: a request rises to the minimum and a limit comes down to the maximum. Where the limit is too
    /// many times the request, the request rises, which costs room on nodes; a lower limit would cost the application.
    fn fitting(&self, kind: &str, written: &Share, fixed: Fixed) -> Share {
        let Room { least, most, ratio } = self.room(kind);
        let within = |amount: Quantity| {
            let amount = least.clone().map_or(amount.clone(), |least| amount.max(least));
            most.clone().map_or(amount.clone(), |most| amount.min(most))
        };
        let filled = self.filled(kind, written);
        let needs_limit = most.is_some() || ratio.is_some();
        let limit = filled.limit.or_else(|| most.clone().filter(|_| needs_limit));
        let request = filled.request.or_else(|| least.clone()).or_else(|| limit.clone());
        let limit = limit.or_else(|| request.clone().filter(|_| needs_limit));
        let move_in = |amount: Option<Quantity>, fixed: bool| if fixed { amount } else { amount.map(within) };
        let (mut request, mut limit) = (move_in(request, fixed.request), move_in(limit, fixed.limit));
        if let (Some(asked), Some(most_used)) = (&request, &limit)
            && asked > most_used
        {
            // What is filled in may be less than what we ask for.
            if !fixed.limit {
                limit = request.clone();
            } else if !fixed.request {
                request = limit.clone();
            }
        }
        if let (Some(ratio), Some(asked), Some(used)) = (&ratio, &request, &limit)
            && used.exceeds(asked, ratio)
        {
            if !fixed.request {
                request = used.divided(ratio, kind == "cpu").map(within).or(request);
            } else if !fixed.limit {
                limit = asked.times(ratio, kind == "cpu").map(within).or(limit);
            }
        }
        Share { request, limit }
    }

    /// What LimitRanger would say; or the API server, where a default is less than what is requested.
    fn misfit(&self, kind: &str, share: &Share) -> Option<String> {
        if let (Some(request), Some(limit)) = (&share.request, &share.limit)
            && request > limit
        {
            return Some(format!("the {kind} request {request} is above the limit {limit}"));
        }
        self.0.iter().find_map(|range| {
            let why = range.container.get(kind)?.misfit(kind, share)?;
            Some(format!("{why} of LimitRange {}", range.name))
        })
    }

    /// What is said of a pod as a whole: `after` has more than one may have, and `before` had not.
    pub(crate) fn whole(&self, before: &Value, after: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        // Of a pod with resources as a whole those count, and our containers add nothing (KEP-2837).
        let alone = before.pointer("/spec/resources").is_none_or(|resources| resources.is_null());
        for (range, kind, most) in self.0.iter().filter(|_| alone).flat_map(|range| {
            range.pod.iter().filter_map(move |(kind, bound)| Some((range, *kind, bound.max.as_ref()?)))
        }) {
            for list in ["limits", "requests"] {
                let sum = |pod: &Value| self.sum(pod, list, kind);
                let above = |sum: Option<Quantity>| sum.filter(|sum| sum > most);
                if let (None, Some(sum)) = (above(sum(before)), above(sum(after))) {
                    warnings.push(format!(
                        "weft: with the sidecar the containers of this pod have {kind} {list} of {sum}, above the {most} of LimitRange {}: \
                         the API server will refuse it; lower the application's or weft.dev/proxy-{kind}-*",
                        range.name
                    ));
                }
            }
        }
        warnings
    }

    /// All containers together, as the API server adds them up: those that run at the same time, or the one init container
    /// that takes more. `None` where none says anything.
    fn sum(&self, pod: &Value, list: &str, kind: &str) -> Option<Quantity> {
        let containers = |name: &str| pod.pointer(&format!("/spec/{name}")).and_then(Value::as_array);
        let mut any = false;
        let mut of = |container: &Value| {
            let amount = self.amount(container, list, kind);
            any |= amount.is_some();
            amount.unwrap_or_default()
        };
        let (mut running, mut peak) = (Quantity::default(), Quantity::default());
        for container in containers("initContainers").into_iter().flatten() {
            let amount = running.plus(&of(container));
            if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
                running = amount.clone();
            }
            peak = peak.max(amount);
        }
        for container in containers("containers").into_iter().flatten() {
            running = running.plus(&of(container));
        }
        any.then(|| running.max(peak))
    }

    fn amount(&self, container: &Value, list: &str, kind: &str) -> Option<Quantity> {
        let read = |list: &str| {
            let amounts: &Map<String, Value> = container.get("resources")?.get(list)?.as_object()?;
            let amount = amounts.get(kind)?;
            amount.as_str().map_or_else(|| amount.to_string(), str::to_owned).parse().ok()
        };
        let share = self.filled(kind, &Share { request: read("requests"), limit: read("limits") });
        if list == "limits" { share.limit } else { share.request }
    }
}

impl Bound {
    fn misfit(&self, kind: &str, share: &Share) -> Option<String> {
        let (request, limit) = (share.request.as_ref(), share.limit.as_ref());
        if let Some(min) = &self.min {
            match request {
                None => return Some(format!("no {kind} request, below the minimum {min}")),
                Some(request) if request < min => {
                    return Some(format!("the {kind} request {request} is below the minimum {min}"));
                }
                Some(_) => {}
            }
            if let Some(limit) = limit.filter(|limit| *limit < min) {
                return Some(format!("the {kind} limit {limit} is below the minimum {min}"));
            }
        }
        if let Some(max) = &self.max {
            match limit {
                None => return Some(format!("no {kind} limit, above the maximum {max}")),
                Some(limit) if limit > max => {
                    return Some(format!("the {kind} limit {limit} is above the maximum {max}"));
                }
                Some(_) => {}
            }
            if let Some(request) = request.filter(|request| *request > max) {
                return Some(format!("the {kind} request {request} is above the maximum {max}"));
            }
        }
        let ratio = self.ratio.as_ref()?;
        match (request, limit) {
            (Some(request), Some(limit)) if request.is_zero() || limit.exceeds(request, ratio) => {
                Some(format!("the {kind} limit {limit} is more than {ratio} times the request {request}"))
            }
            (Some(_), Some(_)) => None,
            _ => Some(format!("no {kind} request or limit, for the maximum ratio {ratio}")),
        }
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
