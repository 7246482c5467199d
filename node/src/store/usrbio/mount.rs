//! One 3FS mount as this process uses it: who registers with its daemon, and who notices that the daemon died.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use foreword_proto::BadInput;
use foreword_usrbio::{FS_TYPE, is_hf3fs, mount_point_of};
use parking_lot::{Mutex, RwLock};

use super::attachment::Attachment;
use super::client::{Client, ClientKind};
use super::regions::Registry;
use super::reserve::Reserve;
use super::shm;
use super::worker::Worker;
use crate::store::filesystem_type;

/// How often the daemon's life is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long a daemon may take to answer at start.
const ATTACH_PATIENCE: Duration = Duration::from_secs(30);
/// How long a dead daemon's memory may take to go before its regions count as still in its hands.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);
const RELEASE_POLL: Duration = Duration::from_millis(5);

/// A 3FS mount with everything of this process that is registered with its daemon. One per process and mount: the store
/// and the arena's regions share it.
///
/// Its *registrar* thread makes and removes every link: the daemon drops what a thread has linked when that thread's
/// handle of the link directory closes.
pub struct UsrbioMount {
    dir: PathBuf,
    client: Client,
    registrar: Arc<Worker>,
    /// Opens and removes files.
    files: Arc<Worker>,
    /// Closes files, which may take long: the daemon asks the storage for their lengths.
    closer: Arc<Worker>,
    attachment: RwLock<Arc<Attachment>>,
    followers: Mutex<Vec<Weak<dyn Follower>>>,
    pub(super) regions: Registry,
    pub(super) reserve: Mutex<Reserve>,
}

/// Who makes things anew for each epoch. Called on the registrar.
pub(super) trait Follower: Send + Sync {
    /// This attachment lives: again and again, so that what failed is tried again.
    fn follow(&self, attachment: &Arc<Attachment>);
    /// This attachment's daemon is dead.
    fn leave(&self, attachment: &Arc<Attachment>);
}

impl UsrbioMount {
    /// Ties this process to the 3FS mount that holds `dir`, and removes from /dev/shm what killed processes of ours
    /// left there. Blocks, 30 s at most.
    ///
    /// Errors name what is missing: the directory, a 3FS mount, an answering daemon, the library or a symbol of it.
    pub fn attach(dir: &Path, client: ClientKind) -> Result<Arc<Self>, BadInput> {
        let bad = |error: io::Error| BadInput::new("l3", format!("a directory on 3FS with USRBIO ({error})"));
        let worker = |name: &str| Worker::start(name).map(Arc::new).map_err(bad);
        let (registrar, files, closer) = (worker("usrbio-links")?, worker("usrbio-files")?, worker("usrbio-close")?);
        let client = Client::open(&client).map_err(|error| BadInput::new("lib", format!("3FS's library ({error})")))?;
        let (wanted, linking) = (dir.to_owned(), registrar.clone());
        let open = move || Attachment::open(&find_mount(&wanted)?, 1, linking);
        let attachment = registrar.call(ATTACH_PATIENCE, open).and_then(|opened| opened).map_err(bad)?;
        match shm::remove_leftovers() {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed shared memory that killed processes left"),
            Err(error) => tracing::warn!(%error, "/dev/shm could not be searched for leftovers"),
        }
        let mount = Arc::new(Self {
            dir: dir.to_owned(),
            client,
            registrar,
            files,
            closer,
            attachment: RwLock::new(Arc::new(attachment)),
            followers: Mutex::default(),
            regions: Registry::default(),
            reserve: Mutex::default(),
        });
        let looking = Arc::downgrade(&mount);
        mount.registrar.set_tick(LOOK_INTERVAL, move || {
            if let Some(mount) = looking.upgrade() {
                mount.look();
            }
        });
        Ok(mount)
    }

    /// The chunk size of the directory, in bytes: slots are multiples of it. Blocks, 30 s at most.
    pub fn chunk_bytes(&self) -> io::Result<u32> {
        let dir = self.dir.clone();
        let block_bytes =
            self.files.call(ATTACH_PATIENCE, move || fs::metadata(dir).map(|found| found.blksize()))??;
        u32::try_from(block_bytes).map_err(io::Error::other)
    }

    /// Counts the daemons met, from 1: a new one knows nothing that was registered with the one before.
    pub fn epoch(&self) -> u64 {
        self.attachment.read().epoch()
    }

    /// False from the daemon's death until another one answers.
    pub fn attached(&self) -> bool {
        !self.attachment.read().is_over()
    }

    /// The directory it was attached by.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn attachment(&self) -> Arc<Attachment> {
        self.attachment.read().clone()
    }

    pub(super) fn living_attachment(&self) -> io::Result<Arc<Attachment>> {
        let attachment = self.attachment();
        let dead = || io::Error::new(io::ErrorKind::NotConnected, "the 3FS daemon is dead");
        if attachment.is_over() { Err(dead()) } else { Ok(attachment) }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn registrar(&self) -> &Arc<Worker> {
        &self.registrar
    }

    pub(super) fn files(&self) -> &Arc<Worker> {
        &self.files
    }

    pub(super) fn closer(&self) -> &Arc<Worker> {
        &self.closer
    }

    /// Has `follower` make its things, now and in each later epoch.
    pub(super) fn add_follower(&self, follower: Weak<dyn Follower>) {
        self.followers.lock().push(follower);
    }

    /// The registrar's look at the daemon.
    fn look(&self) {
        let mut attachment = self.attachment();
        if !attachment.is_over() && !attachment.daemon_lives() {
            self.end(&attachment);
        }
        if attachment.is_over() {
            match Attachment::open(attachment.mount_point(), attachment.epoch() + 1, self.registrar.clone()) {
                Ok(opened) => {
                    attachment = Arc::new(opened);
                    tracing::info!(epoch = attachment.epoch(), "a 3FS daemon answers again");
                    *self.attachment.write() = attachment.clone();
                }
                Err(error) => {
                    tracing::debug!(%error, "no 3FS daemon yet");
                    return;
                }
            }
        }
        self.reserve.lock().refill();
        self.for_followers(|follower| follower.follow(&attachment));
    }

    fn end(&self, attachment: &Arc<Attachment>) {
        tracing::warn!(epoch = attachment.epoch(), "the 3FS daemon is dead");
        // Its process may still be on its way out, with our memory mapped.
        let until = super::clock::now() + RELEASE_PATIENCE;
        while !attachment.is_let_go() && super::clock::now() < until {
            super::clock::pause(RELEASE_POLL);
        }
        if attachment.is_let_go() {
            self.regions.release(attachment.epoch());
        } else {
            tracing::error!("a dead 3FS daemon keeps our memory mapped: frames under I/O are not used again");
        }
        attachment.end();
        self.for_followers(|follower| follower.leave(attachment));
    }

    fn for_followers(&self, act: impl Fn(&dyn Follower)) {
        let followers: Vec<_> = {
            let mut followers = self.followers.lock();
            followers.retain(|follower| follower.strong_count() > 0);
            followers.iter().filter_map(Weak::upgrade).collect()
        };
        followers.iter().for_each(|follower| act(&**follower));
    }
}

fn find_mount(dir: &Path) -> io::Result<PathBuf> {
    let found =
        mount_point_of(dir).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", dir.display())))?;
    let Some(mount_point) = found else {
        let text = format!("{} is on {}, not on a mount of type {FS_TYPE}", dir.display(), filesystem_type(dir));
        return Err(io::Error::other(text));
    };
    if !is_hf3fs(fs::File::open(dir)?) {
        return Err(io::Error::other(format!("{} does not answer as a 3FS directory", dir.display())));
    }
    Ok(mount_point)
}
