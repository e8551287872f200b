//! The shared libraries of a set of programs.
//!
//! The dynamic loader itself is asked, by `ldd`: it knows its search path and what a library needs in turn. So an image
//! is made for the architecture of the machine that makes it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::process;

/// Every library that one of `programs` (or plug-ins) needs, directly or not, with the dynamic loader. The paths are as
/// the loader names them: the last part is the name that it will look for.
///
/// # Errors
/// A library that is not found, or a file that is no program of this machine.
pub(crate) fn closure(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for program in programs {
        let said = process::text(process::command(&["ldd"]).arg(program))?;
        all.extend(parse(&said, program)?);
    }
    Ok(all)
}

/// Reads lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn parse(said: &str, program: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in said.lines().map(str::trim) {
        let target = match line.split_once(" => ") {
            Some((name, "not found")) => bail!("{} needs {name}, which is not there", program.display()),
            Some((_, target)) => target,
            None => line,
        };
        // The kernel's own linux-vdso.so.1 has no path; a static program has no line with an address.
        if let Some((path, _)) = target.split_once(" (0x")
            && path.starts_with('/')
        {
            found.insert(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ldd_become_paths() {
        let said = "\tlinux-vdso.so.1 (0x00007fb92b8e3000)\n\
                    \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007fb92acf7000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007fb92b8e5000)\n";
        let found = parse(said, Path::new("x")).unwrap();
        let expected = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, expected.map(PathBuf::from).into());
        assert_eq!(parse("\tstatically linked\n", Path::new("x")).unwrap(), BTreeSet::new());
        let error = parse("\tlibodd.so => not found\n", Path::new("/bin/x")).unwrap_err().to_string();
        assert!(error.contains("/bin/x") && error.contains("libodd.so"), "{error}");
    }

    #[test]
    fn this_program_needs_a_loader_and_a_c_library() {
        let own = closure(&[std::env::current_exe().unwrap()]).unwrap();
        let has = |name: &str| own.iter().any(|path| path.to_string_lossy().contains(name));
        assert!(has("/libc.so") && has("/ld-"), "{own:?}");
        assert!(own.iter().all(|path| path.is_file()), "{own:?}");
    }
}
