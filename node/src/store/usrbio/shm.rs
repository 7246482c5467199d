//! Our files in /dev/shm: named so that a later start knows them for ours, and locked for as long as their maker lives.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use foreword_seams::{Entropy, OsEntropy};
use foreword_usrbio::{IovId, SHM_DIR, ShmFile};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// How all USRBIO clients begin their names.
const NAME_PREFIX: &str = "hf3fs-iov-";
/// The first 8 bytes of the UUID in our names.
const OURS: [u8; 8] = *b"foreword";
/// Readable and writable by us alone; the daemon is root, or of our user.
const MODE: u32 = 0o600;
/// Names tried before giving up: one may be taken by a cleaner between its making and its locking.
const TRIES: usize = 8;

/// 16 random bytes.
pub(super) fn random_id() -> IovId {
    let bytes = [OsEntropy.u64().to_ne_bytes(), OsEntropy.u64().to_ne_bytes()];
    IovId(std::array::from_fn(|at| bytes[at / 8][at % 8]))
}

fn prefix() -> String {
    format!("{NAME_PREFIX}{}", hex::encode(OURS))
}

/// A new file of this size, locked by us, its memory taken.
///
/// Errors: an error that says how much was asked of /dev/shm and how much is free there.
pub(super) fn create(bytes: u64) -> io::Result<ShmFile> {
    create_of(bytes, true)
}

/// The same, whose memory is taken when somebody touches it.
pub(super) fn create_sparse(bytes: u64) -> io::Result<ShmFile> {
    create_of(bytes, false)
}

fn create_of(bytes: u64, fallocate: bool) -> io::Result<ShmFile> {
    for _ in 0..TRIES {
        let mut id = random_id();
        id.0[..OURS.len()].copy_from_slice(&OURS);
        let made = ShmFile::create(&format!("{NAME_PREFIX}{id}"), bytes, MODE, fallocate);
        let file = match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made.map_err(|error| no_room(bytes, &error))?,
        };
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        // Locked and still there: from now on no cleaner takes it.
        if locked.is_ok() && rustix::fs::fstat(&file)?.st_nlink > 0 {
            return Ok(file);
        }
    }
    Err(io::Error::other(format!("{SHM_DIR}: another process removes our files as they are made")))
}

/// The error of an allocation, with what /dev/shm has.
pub(super) fn no_room(bytes: u64, error: &io::Error) -> io::Error {
    let free_bytes = free_bytes().map_or("an unknown number of".to_owned(), |bytes| bytes.to_string());
    let text = format!("{SHM_DIR}: {bytes} bytes of shared memory asked for, {free_bytes} bytes free: {error}");
    io::Error::new(error.kind(), text)
}

/// Room left in /dev/shm.
pub(super) fn free_bytes() -> io::Result<u64> {
    let stat = rustix::fs::statvfs(SHM_DIR)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Removes what killed processes of our user left: files with our name that nobody has locked. Gives their number.
///
/// Whether a file is left over is decided by its lock, never by its age. Blocks.
pub(super) fn remove_leftovers() -> io::Result<usize> {
    let (prefix, own_uid) = (prefix(), rustix::process::geteuid().as_raw());
    let mut removed = 0;
    for entry in fs::read_dir(SHM_DIR)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(&prefix)) else { continue };
        match remove_if_left(name, own_uid) {
            Ok(true) => removed += 1,
            Ok(false) => {}
            Err(error) => tracing::warn!(name, %error, "a file in /dev/shm could not be looked at"),
        }
    }
    Ok(removed)
}

fn remove_if_left(name: &str, own_uid: u32) -> io::Result<bool> {
    let file = match ShmFile::open(name) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(false);
        }
        opened => opened?,
    };
    let opened = rustix::fs::fstat(&file)?;
    if opened.st_uid != own_uid {
        return Ok(false);
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(false),
        locked => locked?,
    }
    // The name may be another file's by now.
    let path = file.path();
    match fs::symlink_metadata(&path) {
        Ok(now) if (now.dev(), now.ino()) == (opened.st_dev, opened.st_ino) => {}
        _ => return Ok(false),
    }
    fs::remove_file(&path)?;
    Ok(true)
}
