//! Messages that identify themselves by their direction, the life of their sender, and their position.

use bytes::{Bytes, BytesMut};

use super::direction::Direction;

/// The number of lives of an end that can be distinguished.
const LIVES: usize = 8;

/// All possible messages. They are created once, so that sending needs no allocation.
#[derive(Debug, Default)]
pub(super) struct Messages {
    most: usize,
    all: Vec<Bytes>,
}

/// The identity of a message, which consists of its position and the life of its sender.
pub(super) type Mark = u32;

impl Messages {
    pub(super) fn new(most: usize) -> Self {
        let mut text = BytesMut::new();
        let mut ends = Vec::new();
        for direction in 0..2_u32 {
            for life in 0..LIVES as u32 {
                for place in 0..most as u32 {
                    text.extend_from_slice(&(direction << 31 | mark(life, place)).to_be_bytes());
                    let more = match place {
                        _ if place % 211 == 210 => 1500,
                        _ if place % 97 == 96 => 250,
                        _ => (place * 7 + life) % 23,
                    };
                    text.extend((0..more).map(|at| (place + at) as u8));
                    ends.push(text.len());
                }
            }
        }
        let text = text.freeze();
        let begins = std::iter::once(&0).chain(&ends);
        let all = begins.zip(&ends).map(|(begin, end)| text.slice(*begin..*end)).collect();
        Self { most, all }
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn get(&self, direction: Direction, life: u32, place: usize) -> (Mark, Bytes) {
        let life = life % LIVES as u32;
        let at = (direction as usize * LIVES + life as usize) * self.most + place;
        (mark(life, place as u32), self.all[at].clone())
    }

    /// Returns the identity and the position of this message, if it is an unchanged message of that
    /// direction.
    pub(super) fn recognize(&self, direction: Direction, message: &Bytes) -> Option<(Mark, usize)> {
        let head = u32::from_be_bytes(*message.first_chunk()?);
        let (life, place) = ((head >> 24) & 0x7f, (head & 0x00ff_ffff) as usize);
        if life as usize >= LIVES || place >= self.most {
            return None;
        }
        let at = (direction as usize * LIVES + life as usize) * self.most + place;
        (self.all[at] == message).then_some((mark(life, place as u32), place))
    }
}

fn mark(life: u32, place: u32) -> Mark {
    life << 24 | place
}
