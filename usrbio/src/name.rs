//! Names: of links in `3fs-virt/iovs`, which carry a ring's settings, and of the files they point to. Pure.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Where shared memory files are.
pub const SHM_DIR: &str = "/dev/shm";
/// The virtual directory of a mount.
pub const VIRT_DIR: &str = "3fs-virt";
/// The directory of links in it.
pub const IOVS_DIR: &str = "iovs";
/// The link to the submit semaphore of normal priority.
pub const SUBMIT_LINK: &str = "submit-ios";
/// The type of a 3FS mount in the mount table.
pub const FS_TYPE: &str = "fuse.hf3fs";

/// The id of registered memory: the 16 bytes of a UUID. Written as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IovId(pub [u8; 16]);

impl fmt::Display for IovId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for IovId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for IovId {
    type Err = NameError;

    /// 32 hex digits, with or without the dashes of a UUID.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = NameError { part: "id", expected: "a UUID of 32 hex digits" };
        let dashed = text.len() == 36 && [8, 13, 18, 23].iter().all(|at| text.as_bytes()[*at] == b'-');
        let digits: String = if dashed { text.chars().filter(|c| *c != '-').collect() } else { text.to_owned() };
        if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong);
        }
        u128::from_str_radix(&digits, 16).map(|id| Self(id.to_be_bytes())).map_err(|_| wrong)
    }
}

/// Which of the three submit semaphores wakes the daemon for a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    High,
    Normal,
    Low,
}

impl Priority {
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    fn suffix(self) -> &'static str {
        match self {
            Self::High => ".ph",
            Self::Normal => "",
            Self::Low => ".pl",
        }
    }
}

/// Name of the link to a submit semaphore.
pub fn submit_link(priority: Priority) -> String {
    format!("{SUBMIT_LINK}{}", priority.suffix())
}

/// What the name of a ring's link says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingName {
    pub for_read: bool,
    /// 0: the daemon takes what is there; more: it waits for so many I/Os; less: at most so many at once.
    pub io_depth: i32,
    pub priority: Priority,
    pub timeout_ms: u32,
    /// 1: uncommitted bytes may be read; 2: a hole is an error.
    pub flags: u64,
}

/// What a link stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// Memory that I/Os read and write. `block_bytes` 0: one block.
    Data {
        block_bytes: u64,
    },
    Ring(RingName),
}

/// The file name of a link in `3fs-virt/iovs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkName {
    pub id: IovId,
    pub kind: LinkKind,
}

/// A link name that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{part}: expected {expected}")]
pub struct NameError {
    pub part: &'static str,
    pub expected: &'static str,
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        match self.kind {
            LinkKind::Data { block_bytes: 0 } => Ok(()),
            LinkKind::Data { block_bytes } => write!(f, ".b{block_bytes}"),
            LinkKind::Ring(ring) => {
                let direction = if ring.for_read { 'r' } else { 'w' };
                write!(f, ".{direction}{}{}.t{}", ring.io_depth, ring.priority.suffix(), ring.timeout_ms)?;
                if ring.flags != 0 { write!(f, ".f{:b}", ring.flags) } else { Ok(()) }
            }
        }
    }
}

/// The attributes of a name as they are read, before they are put together.
#[derive(Default)]
struct Attributes {
    block_bytes: Option<u64>,
    direction: Option<(bool, i32)>,
    timeout_ms: Option<u32>,
    flags: Option<u64>,
    priority: Option<Priority>,
}

impl Attributes {
    fn add(&mut self, attribute: &str) -> Result<(), NameError> {
        let wrong = |part, expected| NameError { part, expected };
        let Some((kind, value)) = attribute.split_at_checked(1) else {
            return Err(wrong("attribute", "b, r, w, t, f or p with a value"));
        };
        match kind {
            "b" => {
                let bytes = number(value).filter(|bytes: &u64| *bytes > 0);
                self.block_bytes = Some(bytes.ok_or(wrong("block size", "a number of bytes above 0"))?);
            }
            "r" | "w" => {
                let digits = value.strip_prefix('-').unwrap_or(value);
                let depth: i32 = number(digits).ok_or(wrong("io depth", "a number"))?;
                self.direction = Some((kind == "r", if digits == value { depth } else { -depth }));
            }
            "t" => self.timeout_ms = Some(number(value).ok_or(wrong("timeout", "a number of milliseconds"))?),
            "f" => {
                let digits = !value.is_empty() && value.bytes().all(|byte| matches!(byte, b'0' | b'1'));
                let flags = digits.then(|| u64::from_str_radix(value, 2).ok()).flatten();
                self.flags = Some(flags.ok_or(wrong("flags", "binary digits, at most 64"))?);
            }
            "p" => {
                self.priority = Some(match value {
                    "h" => Priority::High,
                    "l" => Priority::Low,
                    "" | "n" => Priority::Normal,
                    _ => return Err(wrong("priority", "ph, pl or pn")),
                });
            }
            _ => return Err(wrong("attribute", "b, r, w, t, f or p with a value")),
        }
        Ok(())
    }

    fn kind(self) -> Result<LinkKind, NameError> {
        match self.direction {
            Some((for_read, io_depth)) => Ok(LinkKind::Ring(RingName {
                for_read,
                io_depth,
                priority: self.priority.unwrap_or(Priority::Normal),
                timeout_ms: self.timeout_ms.unwrap_or(0),
                flags: self.flags.unwrap_or(0),
            })),
            None if self.timeout_ms.is_some() || self.flags.is_some() || self.priority.is_some() => {
                Err(NameError { part: "attribute", expected: "t, f and p with a ring (r or w) only" })
            }
            None => Ok(LinkKind::Data { block_bytes: self.block_bytes.unwrap_or(0) }),
        }
    }
}

impl FromStr for LinkName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let mut parts = name.split('.');
        let id = parts.next().unwrap_or_default().parse()?;
        let mut attributes = Attributes::default();
        for part in parts {
            attributes.add(part)?;
        }
        Ok(Self { id, kind: attributes.kind()? })
    }
}

/// Decimal digits only: no sign, no blanks.
fn number<T: FromStr>(text: &str) -> Option<T> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// The name of a shared memory file by the target of its link: `/dev/shm/x` gives `x`. None: not directly in /dev/shm.
pub fn shm_name_of(target: &Path) -> Option<&str> {
    let name = target.to_str()?.strip_prefix(SHM_DIR)?.strip_prefix('/')?;
    (!name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn names_are_written_as_the_vendor_does() {
        let id = ID.parse::<IovId>().unwrap();
        assert_eq!(id.0[..3], [0, 0x11, 0x22]);
        let ring = RingName { for_read: true, io_depth: 0, priority: Priority::Normal, timeout_ms: 0, flags: 0 };
        let cases = [
            (LinkKind::Data { block_bytes: 0 }, String::new()),
            (LinkKind::Data { block_bytes: 4096 }, ".b4096".into()),
            (LinkKind::Ring(ring), ".r0.t0".into()),
            (
                LinkKind::Ring(RingName {
                    for_read: false,
                    io_depth: 8,
                    priority: Priority::High,
                    timeout_ms: 20,
                    flags: 2,
                }),
                ".w8.ph.t20.f10".into(),
            ),
            (LinkKind::Ring(RingName { priority: Priority::Low, io_depth: -4, ..ring }), ".r-4.pl.t0".into()),
        ];
        for (kind, suffix) in cases {
            let name = LinkName { id, kind };
            assert_eq!(name.to_string(), format!("{ID}{suffix}"));
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        assert_eq!("00112233-4455-6677-8899-aabbccddeeff".parse(), Ok(id));
    }

    #[test]
    fn other_names_are_refused_by_part() {
        for (name, part) in [
            ("", "id"),
            ("xyz", "id"),
            ("0011223344-5566778899aabbccddeeff--", "id"),
            (&format!("{ID}0"), "id"),
            (&format!("+{}", &ID[1..]), "id"),
            (&format!("{ID}."), "attribute"),
            (&format!("{ID}.x1"), "attribute"),
            (&format!("{ID}.é"), "attribute"),
            (&format!("{ID}.t5"), "attribute"),
            (&format!("{ID}.ph"), "attribute"),
            (&format!("{ID}.b0"), "block size"),
            (&format!("{ID}.b-1"), "block size"),
            (&format!("{ID}.b99999999999999999999"), "block size"),
            (&format!("{ID}.r"), "io depth"),
            (&format!("{ID}.r--1"), "io depth"),
            (&format!("{ID}.r99999999999"), "io depth"),
            (&format!("{ID}.r0.t"), "timeout"),
            (&format!("{ID}.r0.t0.f2"), "flags"),
            (&format!("{ID}.r0.px"), "priority"),
        ] {
            assert_eq!(name.parse::<LinkName>().unwrap_err().part, part, "{name}");
        }
    }

    #[test]
    fn targets_lie_directly_in_dev_shm() {
        assert_eq!(shm_name_of(Path::new("/dev/shm/hf3fs-iov-1")), Some("hf3fs-iov-1"));
        for target in ["/dev/shm", "/dev/shm/", "/dev/shm/..", "/dev/shm/a/b", "/dev/shmx", "/tmp/x", "x", ""] {
            assert_eq!(shm_name_of(Path::new(target)), None, "{target}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            if let Ok(name) = text.parse::<LinkName>() {
                prop_assert_eq!(name.to_string().parse(), Ok(name));
            }
        }
    }
}
