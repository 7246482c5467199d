use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::store::usrbio::library::Library;

/// Compiles the library beside this file; a mount is dead while the file `dead` is in `dir`.
fn compiled(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/usrbio/tests/library.c");
    let library = dir.join("libvendor.so");
    let dead = format!("-DDEAD=\"{}\"", dir.join("dead").display());
    let compiler = Command::new("cc").args(["-shared", "-fPIC", "-O1", &dead, "-o"]).arg(&library).arg(source).status();
    match compiler {
        Ok(status) => {
            assert!(status.success(), "cc: {status}");
            Some(library)
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "cc: {error}");
            println!("skipped: cc: {error}");
            None
        }
    }
}

#[test]
fn a_number_that_a_dead_mount_kept_is_registered_anew() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = compiled(dir.path()) else { return };
    let library = Library::load(&path).unwrap();
    let open = || OwnedFd::from(std::fs::File::open(&path).unwrap());
    let before = open();
    library.register(&before).unwrap();
    std::fs::write(dir.path().join("dead"), "").unwrap();
    library.deregister(&before);
    let number = before.as_raw_fd();
    drop(before);
    std::fs::remove_file(dir.path().join("dead")).unwrap();
    // Others may open files at the same time: until the number comes again.
    let mut others = Vec::new();
    let again = loop {
        let fd = open();
        if fd.as_raw_fd() == number {
            break fd;
        }
        others.push(fd);
        assert!(others.len() < 10_000, "number {number} does not come again");
        if others.len() % 100 == 0 {
            others.clear();
        }
    };
    library.register(&again).unwrap();
}
