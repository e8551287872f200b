//! Reads weft.yaml and compiles it into an immutable snapshot.
