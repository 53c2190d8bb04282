//! Whether a preload library can work in a program.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Finds a command as `execvp` does.
pub(crate) fn find(command: &OsStr) -> Option<PathBuf> {
    if command.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(command)).filter(|path| path.exists());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    std::env::split_paths(&path)
        .map(|directory| directory.join(command))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// Why the preload library will not be loaded, or not see the program's calls; `None` if nothing
/// speaks against it. For a script its interpreter is looked at.
pub(crate) fn obstacle(program: &Path) -> Option<String> {
    obstacle_below(program, 2)
}

fn obstacle_below(program: &Path, depth: usize) -> Option<String> {
    let file = File::open(program).ok()?;
    let mode = file.metadata().ok()?.permissions().mode();
    // For root and for a file of one's own the bits change nothing, and the linker stays willing.
    if mode & 0o6000 != 0 && !rustix::process::geteuid().is_root() {
        return Some("it is setuid or setgid, and the dynamic linker ignores LD_PRELOAD".into());
    }
    let mut value = [0_u8; 64];
    if rustix::fs::fgetxattr(&file, "security.capability", &mut value[..]).is_ok()
        && !rustix::process::geteuid().is_root()
    {
        return Some("it has file capabilities, and the dynamic linker ignores LD_PRELOAD".into());
    }
    let mut start = [0_u8; 256];
    let length = (&file).read(&mut start).ok()?;
    let start = start.get(..length)?;
    if let Some(rest) = start.strip_prefix(b"#!") {
        let line = rest.split(|byte| *byte == b'\n').next()?.trim_ascii();
        let interpreter = line.split(|byte| byte.is_ascii_whitespace()).next()?;
        let interpreter = Path::new(OsStr::from_bytes(interpreter));
        return if depth == 0 {
            None
        } else {
            obstacle_below(interpreter, depth - 1)
        };
    }
    Elf::read(&file, start)?.obstacle()
}

/// What matters of an executable.
struct Elf {
    interpreter: Option<String>,
    is_go: bool,
    is_foreign: bool,
}

impl Elf {
    /// `None` if it is not an executable that we understand.
    fn read(file: &File, start: &[u8]) -> Option<Self> {
        if !start.starts_with(b"\x7fELF") {
            return None;
        }
        let native: u16 = if cfg!(target_arch = "x86_64") {
            62
        } else {
            183
        };
        let is_64_little = start.get(4..6)? == [2, 1];
        if !is_64_little || number(start, 18, 2)? as u16 != native {
            return Some(Self {
                interpreter: None,
                is_go: false,
                is_foreign: true,
            });
        }
        let interpreter = program_headers(file, start)
            .find(|header| number(header, 0, 4) == Some(3))
            .and_then(|header| {
                let bytes = bytes_at(file, number(&header, 8, 8)?, number(&header, 32, 8)?)?;
                Some(
                    String::from_utf8_lossy(&bytes)
                        .trim_end_matches('\0')
                        .to_owned(),
                )
            });
        Some(Self {
            interpreter,
            is_go: has_go_section(file, start),
            is_foreign: false,
        })
    }

    fn obstacle(&self) -> Option<String> {
        if self.is_foreign {
            return Some("it is for another architecture than the preload library".into());
        }
        if self.is_go {
            return Some("Go programs make their system calls themselves".into());
        }
        match &self.interpreter {
            None => Some("it is statically linked, and loads no libraries".into()),
            Some(linker) if linker.contains("ld-musl") => {
                Some("it uses musl, and the preload library is for the GNU C library".into())
            }
            Some(_) => None,
        }
    }
}

fn program_headers(file: &File, start: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    headers(
        file,
        number(start, 32, 8),
        number(start, 54, 2),
        number(start, 56, 2),
    )
}

/// The entries of a header table; a broken file has none.
fn headers(
    file: &File,
    offset: Option<u64>,
    size: Option<u64>,
    count: Option<u64>,
) -> impl Iterator<Item = Vec<u8>> {
    let (offset, size) = (offset.unwrap_or(0), size.unwrap_or(0));
    let table = bytes_at(file, offset, size * count.unwrap_or(0)).unwrap_or_default();
    let entries: Vec<Vec<u8>> = table
        .chunks_exact(size.max(1) as usize)
        .map(<[u8]>::to_vec)
        .collect();
    entries.into_iter()
}

fn has_go_section(file: &File, start: &[u8]) -> bool {
    let sections: Vec<Vec<u8>> = headers(
        file,
        number(start, 40, 8),
        number(start, 58, 2),
        number(start, 60, 2),
    )
    .collect();
    let names = || {
        let header = sections.get(number(start, 62, 2)? as usize)?;
        bytes_at(file, number(header, 24, 8)?, number(header, 32, 8)?)
    };
    let Some(names) = names() else { return false };
    sections.iter().any(|header| {
        let name = number(header, 0, 4)
            .and_then(|at| names.get(at as usize..))
            .unwrap_or_default();
        name.starts_with(b".go.buildinfo\0") || name.starts_with(b".note.go.buildid\0")
    })
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + length)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

/// A part of the file; nothing that is larger than such tables are.
fn bytes_at(file: &File, offset: u64, length: u64) -> Option<Vec<u8>> {
    const TABLE_BYTES_MAX: u64 = 1 << 20;
    let mut bytes = vec![
        0;
        usize::try_from(length)
            .ok()
            .filter(|_| length <= TABLE_BYTES_MAX)?
    ];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_programs_and_scripts_can_be_preloaded() {
        let shell = find(OsStr::new("sh")).unwrap();
        assert_eq!(obstacle(&shell), None);
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(script.path(), "#! /bin/sh -e\n").unwrap();
        assert_eq!(obstacle(script.path()), None);
        assert_eq!(find(OsStr::new("no-such-command-here")), None);
    }

    #[test]
    fn odd_files_are_no_trouble() {
        for content in [
            &b""[..],
            b"#!",
            b"\x7fELF",
            b"\x7fELF\x02\x01",
            &[0x7f; 300],
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), content).unwrap();
            let _ = obstacle(file.path());
        }
        let mut header = vec![0xff_u8; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        header[18..20].copy_from_slice(&62_u16.to_le_bytes());
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), header).unwrap();
        let _ = obstacle(file.path());
    }

    #[test]
    fn static_programs_are_recognised() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("a.c");
        fs::write(&source, "int main(void) { return 0; }").unwrap();
        let program = directory.path().join("a");
        let mut compiler = std::process::Command::new("cc");
        compiler.args(["-static", "-o"]).arg(&program).arg(&source);
        if compiler.status().is_ok_and(|status| status.success()) {
            assert!(obstacle(&program).unwrap().contains("static"));
        }
    }
}
