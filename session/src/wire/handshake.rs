//! What is said on the socket: a hello and its answer with descriptors, then short messages about segments.
//!
//! The socket is the agent's own, where gRPC is spoken too: the first bytes of a hello tell it from HTTP/2's preface.
//! Everything has a fixed size. The socket stays open as long as the session: its end is the session's.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// The first bytes of a hello and of its answer.
pub const MAGIC: [u8; 16] = *b"foreword-session";
/// Bytes of a tenant's name.
pub const TENANT_BYTES_MAX: usize = 256;
/// Bytes of a hello.
pub const HELLO_BYTES: usize = 16 + 4 + 4 + TENANT_BYTES_MAX;
/// Bytes of the text of a refusal.
const REFUSAL_BYTES_MAX: usize = 512;
/// Bytes of the answer to a hello.
pub const ANSWER_BYTES: usize = 16 + 4 + 4 + 8 + REFUSAL_BYTES_MAX;
/// Bytes of a message after that.
pub const MESSAGE_BYTES: usize = 32;
/// Descriptors that come with a message, at most: control memory, staging memory, doorbell.
pub const DESCRIPTORS_MAX: usize = 3;

/// What an engine says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub version: u32,
    /// Whose namespaces it will use.
    pub tenant: String,
}

impl Hello {
    /// Panics if the tenant's name is longer than [`TENANT_BYTES_MAX`].
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..16].copy_from_slice(&MAGIC);
        bytes[16..20].copy_from_slice(&self.version.to_le_bytes());
        bytes[20..24].copy_from_slice(&(self.tenant.len() as u32).to_le_bytes());
        bytes[24..24 + self.tenant.len()].copy_from_slice(self.tenant.as_bytes());
        bytes
    }

    /// None: not a hello.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Option<Self> {
        let version = u32_at(bytes, 16);
        let tenant = bytes.get(24..24usize.checked_add(u32_at(bytes, 20) as usize)?)?;
        let tenant = std::str::from_utf8(tenant).ok()?.to_owned();
        (bytes[..16] == MAGIC).then_some(Self { version, tenant })
    }
}

/// What the agent answers. Control memory, staging memory and doorbell come with it, in this order, unless it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Welcome {
        version: u32,
        staging_bytes: u64,
    },
    /// With the reason, for people.
    Refused {
        version: u32,
        reason: String,
    },
}

impl Answer {
    /// A reason is cut where it does not fit.
    pub fn encode(&self) -> [u8; ANSWER_BYTES] {
        let (version, staging_bytes, reason) = match self {
            Self::Welcome { version, staging_bytes } => (*version, *staging_bytes, None),
            Self::Refused { version, reason } => (*version, 0, Some(cut(reason))),
        };
        let mut bytes = [0; ANSWER_BYTES];
        bytes[..16].copy_from_slice(&MAGIC);
        bytes[16..20].copy_from_slice(&version.to_le_bytes());
        // 0 is a welcome: a refusal says one byte more than its reason has.
        let length = reason.map_or(0, |reason| reason.len() as u32 + 1);
        bytes[20..24].copy_from_slice(&length.to_le_bytes());
        bytes[24..32].copy_from_slice(&staging_bytes.to_le_bytes());
        if let Some(reason) = reason {
            bytes[32..32 + reason.len()].copy_from_slice(reason.as_bytes());
        }
        bytes
    }

    /// None: not an answer.
    pub fn decode(bytes: &[u8; ANSWER_BYTES]) -> Option<Self> {
        if bytes[..16] != MAGIC {
            return None;
        }
        let (version, length) = (u32_at(bytes, 16), u32_at(bytes, 20) as usize);
        let Some(length) = length.checked_sub(1) else {
            return Some(Self::Welcome { version, staging_bytes: u64_at(bytes, 24) });
        };
        let reason = bytes.get(32..32usize.checked_add(length)?)?;
        Some(Self::Refused { version, reason: String::from_utf8_lossy(reason).into_owned() })
    }
}

fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(REFUSAL_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// A message about one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// From the engine: it wants to map this segment.
    Ask { segment: u32 },
    /// From the agent, with a descriptor: the segment's frames lie one after the other, their generations behind them,
    /// 8 bytes each.
    Segment { segment: u32, region_bytes: u64, frame_bytes: u64, frames: u32 },
    /// From the agent: there is no such segment, or none of this tenant.
    Gone { segment: u32 },
    /// From the agent: the segment has left the arena; it is to be unmapped.
    Retired { segment: u32 },
    /// From the engine: it is not mapped, or not any more.
    Unmapped { segment: u32 },
}

impl Message {
    pub fn encode(self) -> [u8; MESSAGE_BYTES] {
        let (kind, segment, frames, region_bytes, frame_bytes) = match self {
            Self::Ask { segment } => (1u32, segment, 0, 0, 0),
            Self::Segment { segment, region_bytes, frame_bytes, frames } => {
                (2, segment, frames, region_bytes, frame_bytes)
            }
            Self::Gone { segment } => (3, segment, 0, 0, 0),
            Self::Retired { segment } => (4, segment, 0, 0, 0),
            Self::Unmapped { segment } => (5, segment, 0, 0, 0),
        };
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&segment.to_le_bytes());
        bytes[8..16].copy_from_slice(&region_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&frame_bytes.to_le_bytes());
        bytes[24..28].copy_from_slice(&frames.to_le_bytes());
        bytes
    }

    /// None: not a message.
    pub fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Option<Self> {
        let segment = u32_at(bytes, 4);
        Some(match u32_at(bytes, 0) {
            1 => Self::Ask { segment },
            2 => Self::Segment {
                segment,
                region_bytes: u64_at(bytes, 8),
                frame_bytes: u64_at(bytes, 16),
                frames: u32_at(bytes, 24),
            },
            3 => Self::Gone { segment },
            4 => Self::Retired { segment },
            5 => Self::Unmapped { segment },
            _ => return None,
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// Sends bytes, and descriptors with the first of them. Fewer bytes than given may have gone.
///
/// Panics if there are more descriptors than [`DESCRIPTORS_MAX`].
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    assert!(descriptors.len() <= DESCRIPTORS_MAX, "{} descriptors in a message", descriptors.len());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = SendFlags::NOSIGNAL;
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?)
}

/// Receives bytes, and the descriptors that came with them. 0 bytes: the other side is gone.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(bytes)];
    let received = rustix::net::recvmsg(socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hello_comes_back(version: u32, tenant in "[a-zé]{0,100}") {
            let hello = Hello { version, tenant };
            prop_assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        }

        #[test]
        fn an_answer_comes_back(version: u32, staging_bytes: u64, reason in "[a-zé ]{0,200}") {
            for answer in [Answer::Welcome { version, staging_bytes }, Answer::Refused { version, reason: reason.clone() }] {
                prop_assert_eq!(Answer::decode(&answer.encode()), Some(answer));
            }
        }

        #[test]
        fn a_message_comes_back(segment: u32, region_bytes: u64, frame_bytes: u64, frames: u32) {
            let of_segment = Message::Segment { segment, region_bytes, frame_bytes, frames };
            let (ask, gone) = (Message::Ask { segment }, Message::Gone { segment });
            for message in [of_segment, ask, gone, Message::Retired { segment }, Message::Unmapped { segment }] {
                prop_assert_eq!(Message::decode(&message.encode()), Some(message));
            }
        }

        #[test]
        fn rubbish_is_no_hello_and_harms_nobody(bytes in proptest::collection::vec(any::<u8>(), HELLO_BYTES)) {
            let mut bytes: [u8; HELLO_BYTES] = bytes.try_into().unwrap();
            prop_assert_eq!(Hello::decode(&bytes), None);
            bytes[..16].copy_from_slice(&MAGIC);
            let _ = Hello::decode(&bytes);
        }
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_letters() {
        let answer = Answer::Refused { version: 1, reason: "é".repeat(REFUSAL_BYTES_MAX) };
        let Some(Answer::Refused { reason, .. }) = Answer::decode(&answer.encode()) else { panic!() };
        assert_eq!(reason, "é".repeat(REFUSAL_BYTES_MAX / 2));
    }

    #[test]
    fn descriptors_come_with_their_message() {
        let (one, other) = UnixStream::pair().unwrap();
        let memory = super::super::SharedMemory::create("foreword-test", 4096).unwrap();
        let message = Message::Gone { segment: 7 }.encode();
        assert_eq!(send(one.as_fd(), &message, &[memory.fd(), memory.fd()]).unwrap(), MESSAGE_BYTES);
        let mut bytes = [0; MESSAGE_BYTES];
        let (count, descriptors) = receive(other.as_fd(), &mut bytes).unwrap();
        assert_eq!((count, descriptors.len()), (MESSAGE_BYTES, 2));
        assert_eq!(Message::decode(&bytes), Some(Message::Gone { segment: 7 }));
        drop(one);
        assert_eq!(receive(other.as_fd(), &mut bytes).unwrap().0, 0);
    }
}
