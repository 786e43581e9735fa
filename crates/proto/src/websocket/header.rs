//! Frame headers.

use super::{Role, Violation};

/// The length of the longest header: two bytes, eight bytes of length, and four bytes of mask.
pub(super) const LONGEST: usize = 14;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;

/// The largest payload of a control frame.
pub(super) const MAX_CONTROL: usize = 125;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
    /// The end of input, if the extension was negotiated.
    End,
}

impl Opcode {
    fn of(bits: u8, knows_end: bool) -> Result<Self, Violation> {
        Ok(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            0xb if knows_end => Self::End,
            unknown => return Err(Violation::UnknownOpcode(unknown)),
        })
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
            Self::End => 0xb,
        }
    }

    pub(super) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong | Self::End)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) is_final: bool,
    pub(super) opcode: Opcode,
    pub(super) mask: Option<[u8; 4]>,
    pub(super) length: u64,
    /// The length of the header itself in bytes.
    pub(super) size: usize,
}

impl Header {
    /// Reads the header at the front of `bytes`, which were sent by the peer of `role`. Returns `None`
    /// while the header is incomplete, and an error as soon as a violation is visible. With `knows_end`,
    /// the opcode for the end of input is allowed.
    pub(super) fn read(
        bytes: &[u8],
        role: Role,
        knows_end: bool,
    ) -> Result<Option<Self>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(Violation::ReservedBits);
        }
        let opcode = Opcode::of(first & OPCODE, knows_end)?;
        let is_final = first & FIN != 0;
        if opcode.is_control() && !is_final {
            return Err(Violation::FragmentedControl);
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let is_masked = second & MASKED != 0;
        if is_masked != (role == Role::Server) {
            return Err(Violation::Masking);
        }
        let short = second & !MASKED;
        if opcode.is_control() && usize::from(short) > MAX_CONTROL {
            return Err(Violation::ControlOversize);
        }
        let behind = bytes.get(2..).unwrap_or_default();
        let (length, before_mask) = match short {
            126 => {
                let Some(length) = behind.first_chunk() else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(*length));
                if length < 126 {
                    return Err(Violation::MalformedLength);
                }
                (length, 4)
            }
            127 => {
                let Some(length) = behind.first_chunk() else { return Ok(None) };
                let length = u64::from_be_bytes(*length);
                if length <= u64::from(u16::MAX) || length >> 63 != 0 {
                    return Err(Violation::MalformedLength);
                }
                (length, 10)
            }
            short => (u64::from(short), 2),
        };
        let (mask, size) = if is_masked {
            let mask = bytes.get(before_mask..).and_then(|it| it.first_chunk());
            let Some(mask) = mask else { return Ok(None) };
            (Some(*mask), before_mask + 4)
        } else {
            (None, before_mask)
        };
        Ok(Some(Self { is_final, opcode, mask, length, size }))
    }
}

/// An encoded header.
pub(super) struct Written {
    bytes: [u8; LONGEST],
    size: usize,
}

impl Written {
    /// Encodes the header of an unfragmented message or control frame.
    pub(super) fn of(opcode: Opcode, length: usize, mask: Option<[u8; 4]>) -> Self {
        let mut written = Self { bytes: [0; LONGEST], size: 0 };
        let masked = if mask.is_some() { MASKED } else { 0 };
        written.push(&[FIN | opcode.bits()]);
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..126), _) => written.push(&[masked | short]),
            (_, Ok(medium)) => {
                written.push(&[masked | 126]);
                written.push(&medium.to_be_bytes());
            }
            _ => {
                written.push(&[masked | 127]);
                written.push(&(length as u64).to_be_bytes());
            }
        }
        if let Some(mask) = mask {
            written.push(&mask);
        }
        written
    }

    fn push(&mut self, more: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(self.size).zip(more) {
            *place = *byte;
        }
        self.size += more.len();
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.size).unwrap_or_default()
    }
}
