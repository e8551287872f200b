//! The same with and without Weft: each conversation is held twice, by the same programs at the same addresses, once directly and
//! once through two sidecars, and all that either side can see is compared. What differs is a fault, or a line of
//! `docs/guide/protocols.md` (`same/documented.rs` names it, and the test looks for it there).
//!
//! | module | what |
//! |---|---|
//! | `answers`, `requests`, `timing` | the tables: raw clients and servers that do what a script says |
//! | `real` | clients and servers of other makers, each where it is installed |
//! | `case` | what a line of a table says |
//! | `view` | what both sides saw, in lines to compare |
//! | `documented` | the differences that the guide tells |
//! | `scene` | the two meshes, and running a table in both |
//!
//! `WEFT_SAME_REPORT=<file>` writes every difference, known faults included, to a file.

#[path = "same/answers.rs"]
mod answers;
#[path = "same/case.rs"]
mod case;
#[path = "same/documented.rs"]
mod documented;
#[path = "same/real.rs"]
mod real;
#[path = "same/requests.rs"]
mod requests;
#[path = "same/scene.rs"]
mod scene;
#[path = "same/timing.rs"]
mod timing;
#[path = "same/view.rs"]
mod view;
