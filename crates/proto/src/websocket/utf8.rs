//! UTF-8 validation of text that arrives in pieces.

/// A validator that keeps the bytes of an incomplete character between pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Utf8 {
    begun: [u8; 4],
    length: usize,
}

impl Utf8 {
    /// Validates the next piece. Returns false as soon as the text can no longer become valid UTF-8.
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> bool {
        while self.length > 0 {
            let Some((first, rest)) = piece.split_first() else { return true };
            piece = rest;
            let Some(place) = self.begun.get_mut(self.length) else { return false };
            *place = *first;
            self.length += 1;
            let begun = self.begun.get(..self.length).unwrap_or_default();
            match std::str::from_utf8(begun) {
                Ok(_) => self.length = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return false,
            }
        }
        match std::str::from_utf8(piece) {
            Ok(_) => true,
            Err(error) if error.error_len().is_none() => {
                let rest = piece.get(error.valid_up_to()..).unwrap_or_default();
                for (place, byte) in self.begun.iter_mut().zip(rest) {
                    *place = *byte;
                }
                self.length = rest.len();
                true
            }
            Err(_) => false,
        }
    }

    /// Returns whether the text so far ends with a complete character.
    pub(super) fn is_whole(&self) -> bool {
        self.length == 0
    }
}
