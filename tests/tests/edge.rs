//! Who stands in front of a gateway, what its clients may do, and how they are told that it goes.

#[path = "edge/balancer.rs"]
mod balancer;
#[path = "edge/browser.rs"]
mod browser;
#[path = "edge/crowd.rs"]
mod crowd;
#[path = "edge/doors.rs"]
mod doors;
#[path = "edge/floods.rs"]
mod floods;
#[path = "edge/goes.rs"]
mod goes;
#[path = "edge/limits.rs"]
mod limits;
#[path = "edge/reloads.rs"]
mod reloads;
#[path = "edge/slow.rs"]
mod slow;
#[path = "edge/told.rs"]
mod told;
