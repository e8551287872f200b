//! Checks.
use anyhow::Result;
use std::path::Path;
pub(crate) fn all(_archive: &Path) -> Result<()> {
    Ok(())
}
